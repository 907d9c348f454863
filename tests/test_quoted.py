"""The numbers in a notebook's text are those of the recorded runs, of its own cells, or given.

`quoted/<notebook>.txt` holds, a line each, pieces of the notebook's sentences:

- ``lose {de-lenet300.lost[evolution]:.2f} points``: what stands in braces is worked out, and the
  sentence must be in the text with that number. Beside what `tables.Names` knows (means, least,
  most, differences of arms of any experiment) there are ``{printed[words]:.1f}``, the first number
  after these words in what a cell prints; ``{paper[baselines: LeNet-5, test error dense]:.2f}``, a
  claim of an experiment; and ``{kept[lenet_5 298x]}``, the weights left in the layers of a network.
- ``given: at 24×``: a setting, a figure of a paper without a claim, a round number. It holds at
  every place where these words stand.

Lines that begin with # are comments. Every number in the text that could have been measured, one
with decimals or before %, ×, points or errors, must be in one of the pieces.
"""

import json
import re
from pathlib import Path

import pytest

from prunekit import experiments, models
from prunekit.experiments import tables

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("[0-9][0-9]_*.ipynb"))
QUOTED = Path(__file__).parent / "quoted"
GIVEN = "given: "
MEASURED = re.compile(r"\d[\d,]*\.\d+|\d[\d,]*(?= ?(?:%|×|points?\b|errors?\b))")
NO_TEXT = re.compile(
    r"```.*?```|`[^`\n]*`|\$[^$\n]*\$|\[[^\]\n]*\]\([^)\n]*\)|<[^>\n]*>", re.DOTALL
)


class Looked:
    """Numbers to look up: ``looked[key]``."""

    def __init__(self, find):
        self.find = find

    def __getitem__(self, key):
        return self.find(key)


class Names(tables.Names):
    """What can stand in braces."""

    def __init__(self, printed):
        super().__init__()
        self["paper"], self["kept"] = Looked(claimed), Looked(kept)
        self["printed"] = Looked(lambda words: number_after(words, printed))


def number_after(words, text):
    found = re.search(re.escape(words) + r"[^\d−-]*([−-]?\d[\d,]*\.?\d*)", text)
    assert found, f"no cell prints {words!r} and a number after it"
    return float(found[1].replace(",", "").replace("−", "-"))


def claimed(key):
    name, _, what = key.partition(": ")
    return {claim.what: claim.value for claim in experiments.load(name).claims}[what]


def kept(key):
    """How many weights of each layer are left."""
    model, _, variant = key.partition(" ")
    state = models.pretrained(model, variant=variant).state_dict()
    left = [
        int(tensor.count_nonzero()) for name, tensor in state.items() if name.endswith("weight")
    ]
    return ", ".join(map(str, left[:-1])) + f" and {left[-1]}"


def pieces(quotes, printed):
    """The pieces of sentences, with their numbers filled in."""
    names = Names(printed)
    for line in filter(None, map(str.strip, quotes.splitlines())):
        if line.startswith("#"):
            continue
        given = line.startswith(GIVEN)
        assert given or "{" in line, f"{line!r} holds no number in braces; is it {GIVEN!r}?"
        yield line.removeprefix(GIVEN) if given else line.format_map(names)


def one_line(text):
    return " ".join(text.split())


def missing(text, found):
    """What of the pieces does not stand in the text."""
    return [piece for piece in found if piece not in one_line(text)]


def unheld(text, found):
    """The numbers of the text that no piece holds, with the words around them."""
    text = one_line(NO_TEXT.sub(lambda match: " " * (match[0].count("\n") + 1), text))
    held = set()
    for piece in found:
        for match in re.finditer(re.escape(one_line(NO_TEXT.sub(" ", piece))), text):
            held |= {*range(*match.span())}
    return [
        f"{match[0]} in “… {text[max(0, match.start() - 50) : match.end() + 30]} …”"
        for match in MEASURED.finditer(text)
        if match.start() not in held
    ]


def opened(path):
    """The text of a notebook, what its cells print, and its quotes."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    outputs = [output for c in cells for output in c.get("outputs", [])]
    printed = [
        output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs
    ]
    quotes = (QUOTED / f"{path.stem}.txt").read_text(encoding="utf-8")
    return text, "\n".join(map("".join, printed)), quotes


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_text_quotes_what_was_recorded(path):
    text, printed, quotes = opened(path)
    assert missing(text, pieces(quotes, printed)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_number_of_the_text_is_held(path):
    text, printed, quotes = opened(path)
    assert unheld(text, [*pieces(quotes, printed)]) == []


def test_a_wrong_number_and_one_that_nothing_holds_are_found():
    text = "It loses 0.11\npoints at 24×, `x = 0.3`, and [0.5](a.md)."
    mean = "loses {de-lenet300.lost[evolution]:.2f} points"
    right = [*pieces(f"# why\n{mean}\ngiven: at 24×", "")]
    assert right == ["loses 0.11 points", "at 24×"]
    assert missing(text, right) == []
    assert unheld(text, right) == []
    assert missing(text.replace("0.11", "0.12"), right) == ["loses 0.11 points"]
    assert [found.partition(" ")[0] for found in unheld(text, right[:1])] == ["24"]
    assert len(unheld(text, [])) == 2
    with pytest.raises(AssertionError, match="no number in braces"):
        [*pieces("at 24×", "")]


def test_a_quote_may_look_at_what_a_cell_prints_at_a_paper_and_at_a_network():
    quotes = "{printed[best pair keeps]:.1f} %; {paper[baselines: LeNet-5, test error dense]:.2f} %"
    assert [*pieces(quotes, "the best pair keeps ≈11.9 %")] == ["11.9 %; 0.80 %"]
    assert [*pieces("{kept[lenet_300_100]}", "")] == ["235200, 30000 and 1000"]
    with pytest.raises(AssertionError, match="no cell prints"):
        [*pieces(quotes, "")]
