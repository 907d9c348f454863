"""The command line: ``python -m prunekit run | lab | list | reproduce | page``."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import prunekit


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
    from tqdm import tqdm

    from prunekit import experiments

    name, short = arguments.experiment, arguments.short
    if arguments.jobs is not None and arguments.jobs < 1:
        raise ValueError(f"reproduce: --jobs must be 1 or more, got {arguments.jobs}")
    experiment = experiments.load(name)
    folder = Path(arguments.results) if arguments.results else None
    folder = folder or experiments.results_folder(name, short)
    grid = [c for c in experiments.cells_of(experiment, short, folder) if arguments.only in c.name]
    if not grid:
        raise ValueError(f"reproduce: no arm of {name} contains {arguments.only!r}")
    if arguments.download:
        grid[0].data(download=True)
    waiting = [cell for cell in grid if not experiments.is_done(cell)]
    print(f"{experiment.title} ({experiment.status}; {experiment.paper})")
    print(f"{len(grid)} cells, {len(grid) - len(waiting)} already recorded in {folder}", flush=True)
    with tqdm(total=len(waiting), unit="cell", desc=name) as bar:
        for record in experiments.reproduce(
            name, short=short, folder=folder, jobs=arguments.jobs, only=arguments.only
        ):
            bar.write(f"{record['arm']}, seed {record['seed']}: {record['seconds']} s")
            bar.update()
    found = [cell for cell in experiments.recorded(name, folder) if arguments.only in cell["arm"]]
    print(experiments.table(found).to_string())
    for claim in experiment.claims:
        print(f"paper: {claim}")
    return 0


def _page(arguments: argparse.Namespace) -> int:
    from prunekit.widgets.replay import write_page

    print(write_page(arguments.experiment, arguments.out))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m prunekit", description=prunekit.__doc__)
    parser.add_argument("--version", action="version", version=prunekit.__version__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, function: object, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(function=function)
        return added

    run = command("run", _run, "prune a trained LeNet step by step and execute the notebooks")
    run.add_argument(
        "--out", default="out", help="folder for the figure and the pages (default: out)"
    )
    lab = command("lab", _lab, "copy the notebooks into a folder and open JupyterLab there")
    lab.add_argument("--folder", default="prunekit-course", help="default: prunekit-course")
    lab.add_argument("rest", nargs="*", help="arguments for JupyterLab, after --")
    command("list", _list, "list methods, baselines, models, data sets, experiments and notebooks")
    reproduce = command("reproduce", _reproduce, "run an experiment at the paper's scale")
    reproduce.add_argument("experiment")
    reproduce.add_argument("--short", action="store_true", help="the same protocol cut to minutes")
    reproduce.add_argument("--download", action="store_true", help="fetch the data if missing")
    reproduce.add_argument("--results", help="folder for the cells")
    reproduce.add_argument("--jobs", type=int, help="cells side by side (default: one a core)")
    reproduce.add_argument("--only", default="", help="only arms whose names contain this")
    page = command("page", _page, "write one page that replays an experiment's recorded run")
    page.add_argument("experiment")
    page.add_argument("out", help="the page, such as roulette.html")
    return parser


def main(words: list[str] | None = None) -> int:
    arguments = _parser().parse_args(words)
    try:
        return int(arguments.function(arguments))
    except KeyboardInterrupt:
        print("\ninterrupted; what is finished is kept, run again to go on", file=sys.stderr)
        return 130
    except (ValueError, OSError, ArithmeticError, BrokenProcessPool) as error:
        print(error, *getattr(error, "__notes__", ()), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
