"""A Binder badge a notebook, as lines for a README: ``python tools/badges.py OWNER/REPO [BRANCH]``.

For a repository at GitHub, this one or a teacher's own copy of it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from urllib.parse import quote

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def badge(repository: str, branch: str, notebook: Path) -> str:
    """The line of one notebook."""
    title = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["prunekit"]["title"]
    place = quote(f"lab/tree/notebooks/{notebook.name}", safe="")
    address = f"https://mybinder.org/v2/gh/{repository}/{quote(branch, safe='')}?urlpath={place}"
    return f"[![{title} on Binder](https://mybinder.org/badge_logo.svg)]({address}) {title}"


def main(words: list[str]) -> str:
    """All lines. Raises SystemExit where the words name no repository."""
    if not 1 <= len(words) <= 2 or not re.fullmatch(r"[\w.-]+/[\w.-]+", words[0]):
        raise SystemExit(f"{(__doc__ or '').splitlines()[0]} Got {words}.")
    branch = words[1] if len(words) == 2 else "HEAD"
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    return "\n\n".join(badge(words[0], branch, notebook) for notebook in found)


if __name__ == "__main__":
    print(main(sys.argv[1:]))
