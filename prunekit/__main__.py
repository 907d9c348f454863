"""The command line: ``prunekit COMMAND``, or ``python -m prunekit COMMAND``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import prunekit

DESCRIPTION = "Learn, run and compare neural-network pruning."
RUN = "Prune a trained LeNet step by step and execute the notebooks."
LAB = "Copy the notebooks into a folder and open JupyterLab there. Copies are never written over."
LIST = "List methods, baselines, models, data sets, experiments and notebooks."
PAGE = "Write one page for any browser: an experiment's recorded run, or the playground."
REPORT = """\
Write the long tables of experiments, every arm and every recorded cell, as text in Markdown."""
DOCTOR = "Look at what is installed here and how it fits together: a line each, ok or what to do."
REPRODUCE = """\
Run the cells of experiments that are not yet recorded. Each has a process of its own. One that
was stopped or killed goes on where it was; one that fails does not stop the others. The data are
read from the folder that PRUNEKIT_DATA names, else from the user's cache."""
EXAMPLES = """\
examples:
  {prog} baselines --download        the whole grid, on MNIST
  {prog} baselines --short           the same protocol cut to minutes
  {prog} cifar-bases --arm resnet_20 --seed 0 --seconds 28800
  {prog} roulette --only lenet_5 --again --jobs 2
  {prog} baselines --dask tcp://10.0.0.1:8786
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with its arguments in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def _run(arguments: argparse.Namespace) -> int:
    from prunekit import show

    show.run(Path(arguments.out))
    return 0


def _lab(arguments: argparse.Namespace) -> int:
    from prunekit import show

    return show.lab(Path(arguments.folder), arguments.rest)


def _list(arguments: argparse.Namespace) -> int:
    from prunekit import show

    print(show.catalogue())
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    from prunekit import show

    if arguments.dask and (arguments.jobs or arguments.threads):
        raise ValueError(
            "reproduce: --jobs and --threads are for cells on this machine; with --dask it is one "
            "of each a worker"
        )
    names = ("short", "only", "arm", "network", "seed")
    return show.reproduce(
        arguments.experiment,
        which={name: getattr(arguments, name) for name in names},
        folder=Path(arguments.results) if arguments.results else None,
        jobs=arguments.jobs,
        threads=arguments.threads or 1,
        seconds=arguments.seconds,
        again=arguments.again,
        download=arguments.download,
        dask=arguments.dask,
    )


def _page(arguments: argparse.Namespace) -> int:
    from prunekit._files import try_place
    from prunekit.widgets import playground, replay

    try_place(arguments.out, 1_000_000)
    if arguments.experiment == "playground":
        print(playground.write_page(arguments.out, arguments.model))
        return 0
    if arguments.model is not None:
        raise ValueError("page: --model is for the playground alone")
    print(replay.write_page(arguments.experiment, arguments.out))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from prunekit.experiments import tables

    if bool(arguments.experiment) == arguments.all:
        raise ValueError("report: name experiments, or pass --all for all that have recorded cells")
    for name in arguments.experiment or tables.with_cells():
        print(tables.write(name, Path(arguments.out)))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from prunekit import doctor

    found = []
    for finding in doctor.findings():
        found.append(finding)
        if not arguments.json:
            print(finding, flush=True)
    if arguments.json:
        print(json.dumps([finding.plain() for finding in found], indent=1))
    return 1 if any(finding.todo for finding in found) else 0


def _whole(low: int) -> Any:
    def whole_number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < low:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low}, got {text!r}")
        return int(text)

    return whole_number


def _parser() -> argparse.ArgumentParser:
    called = Path(sys.argv[0]).stem
    parser = _Parser("prunekit" if called == "prunekit" else "python -m prunekit")
    parser.description = DESCRIPTION
    parser.epilog = "`%(prog)s COMMAND --help` explains a command."
    parser.add_argument("--version", action="version", version=prunekit.__version__)
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")

    def command(name: str, function: object, text: str) -> argparse.ArgumentParser:
        short = text.partition(".")[0].replace("\n", " ")
        added = commands.add_parser(name, help=short[0].lower() + short[1:], description=text)
        added.set_defaults(function=function)
        return added

    run = command("run", _run, RUN)
    run.add_argument("--out", default="out", help="folder for figure and pages (default: out)")
    lab = command("lab", _lab, LAB)
    lab.add_argument(
        "--folder", default="prunekit-course", help="for the copies (default: prunekit-course)"
    )
    lab.add_argument("rest", nargs="*", help="arguments for JupyterLab, after -- (default: none)")
    command("list", _list, LIST)
    _add_reproduce(command("reproduce", _reproduce, REPRODUCE))
    page = command("page", _page, PAGE)
    page.add_argument("experiment", help="one with a recorded run, such as roulette; or playground")
    page.add_argument("out", help="the page, such as roulette.html")
    page.add_argument(
        "--model", help="of the playground: the file of a LeNet-300-100 (default: the shipped one)"
    )
    report = command("report", _report, REPORT)
    report.add_argument("experiment", nargs="*", metavar="NAME", help="experiments with cells")
    report.add_argument(
        "--all", action="store_true", help="all that have recorded cells (default: those named)"
    )
    report.add_argument(
        "--out", default="notebooks/results", help="folder (default: notebooks/results)"
    )
    doctor = command("doctor", _doctor, DOCTOR)
    doctor.add_argument(
        "--json", action="store_true", help="the same as a list of objects (default: lines)"
    )
    return parser


def _add_reproduce(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES.replace("{prog}", parser.prog)
    add = parser.add_argument
    add("experiment", nargs="+", metavar="NAME", help="experiments, run in this order")
    add("--arm", default="", help="only the arm of exactly this name (default: all)")
    add("--only", default="", metavar="PART", help="only arms whose names contain this")
    number = _whole(0)
    add("--network", type=number, metavar="N", help="only from this trained network (default: all)")
    add("--seed", type=number, metavar="N", help="only with this seed (default: all)")
    add("--short", action="store_true", help="the protocol cut to minutes (default: as published)")
    add(
        "--seconds", type=_whole(1), metavar="N",
        help="begin no cell after so many seconds; those under way end at their next epoch or "
        "generation (default: no limit)",
    )  # fmt: skip
    add(
        "--jobs", type=_whole(1), metavar="N",
        help="cells side by side (default: one a core; on an accelerator 4, which is the most)",
    )  # fmt: skip
    add(
        "--threads", type=_whole(1), metavar="N",
        help="threads a cell; with another number, arms that train end with other figures "
        "(default: 1)",
    )  # fmt: skip
    add(
        "--dask", default="", metavar="ADDRESS",
        help="run the cells on the workers of the Dask cluster whose scheduler is at ADDRESS, one "
        "a worker; a cell whose worker dies goes to another. PRUNEKIT_DATA and PRUNEKIT_HOME are "
        "each worker's own: a shared PRUNEKIT_HOME saves all but the last epoch of such a cell "
        "(default: here)",
    )  # fmt: skip
    add(
        "--again", action="store_true",
        help="compute recorded cells again, into another folder, and say whether they agree "
        "(default: compute what is missing)",
    )  # fmt: skip
    add(
        "--results", metavar="FOLDER",
        help="folder for the cells (default: beside the code or in the user's cache; a temporary "
        "one with --again)",
    )  # fmt: skip
    add("--download", action="store_true", help="fetch the data if missing (default: an error)")


def main(words: list[str] | None = None) -> int:
    parser = _parser()
    arguments = parser.parse_args(words)
    who = f"{parser.prog} {arguments.command}"
    try:
        with _ended_like_ctrl_c():
            return int(arguments.function(arguments))
    except KeyboardInterrupt:
        print(
            f"\n{who}: interrupted; what is finished is kept, run again to go on", file=sys.stderr
        )
        return 130
    except (ValueError, OSError, ArithmeticError, BrokenProcessPool) as error:
        text = str(error).removeprefix(f"{arguments.command}: ")
        print(f"{who}: error: {text}", *getattr(error, "__notes__", ()), file=sys.stderr)
        return 2


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """SIGTERM, with which a scheduler ends what takes too long, is an interrupt inside."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
