"""Try prunekit with the versions that pyproject.toml admits, each set in an environment of its own.

``python tools/try_versions.py lowest:3.11 newest:3.11 newest:3.12 newest:3.13`` builds the wheel,
installs it with the lowest or newest versions of what it names, has it say what it found, and runs
the tests but for those in a browser. Needs uv (``pip install uv``). What follows ``--`` goes to
pytest; ``--with torch==2.13.0`` holds a package, as for a CPU build that lies in a folder of
UV_FIND_LINKS. A Python that is not to be had is said and passed over.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESOLUTION = {"lowest": "lowest-direct", "newest": "highest"}


def run(*words, **settings):
    """Run a command, shown first; its exit code."""
    print("$", *words, flush=True)
    return subprocess.run([str(word) for word in words], **settings).returncode


def installed(uv, folder, wheel, versions, python, held):
    """The Python of a new environment in `folder` that has the wheel; None if that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted, limits, venv = (folder / name for name in ("versions.txt", "held.txt", "venv"))
    limits.write_text("".join(f"{line}\n" for line in held))
    own = venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    which = f"--resolution {RESOLUTION[versions]} --python-version {python} --extra test".split()
    steps = (
        ("venv", "-q", "--clear", "--seed", "--python", python, venv),
        ("pip", "compile", "-q", *which, "-c", limits, "-o", wanted, ROOT / "pyproject.toml"),
        ("pip", "install", "-q", "--python", own, "-r", wanted),
        ("pip", "install", "-q", "--python", own, "--no-deps", wheel),
    )
    return None if any(run(uv, *step, stdout=subprocess.DEVNULL) for step in steps) else own


def tried(python, folder, arguments):
    """What came of an environment, in a few words."""
    prunekit = (python, "-m", "prunekit")
    if run(*prunekit, "list", cwd=folder, stdout=subprocess.DEVNULL):
        return "the installed wheel does not start"
    run(*prunekit, "doctor", cwd=folder)  # told, not judged: data may be absent
    tests = ("-q", "-p", "no:cacheprovider", "--ignore=tests/browser", *arguments)
    code = run(python, "-m", "pytest", *tests, cwd=ROOT)
    return "passed" if code == 0 else f"tests failed ({code})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sets", nargs="+", metavar="lowest:PYTHON|newest:PYTHON")
    parser.add_argument("--with", action="append", default=[], dest="held", metavar="NAME==VERSION")
    parser.add_argument("--folder", type=Path, help="for the environments (default: temporary)")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:end])
    sets = [each.partition(":")[::2] for each in arguments.sets]
    if any(kind not in RESOLUTION or not python for kind, python in sets):
        parser.error(f"must be lowest:PYTHON or newest:PYTHON, got {' '.join(arguments.sets)}")
    uv = shutil.which("uv")
    if uv is None:
        parser.error("needs uv; run: pip install uv")
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        if run(uv, "build", "-q", "--wheel", "-o", folder / "wheel", ROOT):
            sys.exit("prunekit: the wheel cannot be built")
        wheel = max((folder / "wheel").glob("*.whl"), key=lambda path: path.stat().st_mtime)
        for versions, python in sets:
            own = folder / f"{versions}-{python}"
            place = installed(uv, own, wheel, versions, python, arguments.held)
            results[f"{versions}:{python}"] = (
                "cannot be had here" if place is None else tried(place, own, words[end + 1 :])
            )
    for name, result in results.items():
        print(f"{name:<12} {result}")
    sys.exit(any(result != "passed" for result in results.values()))


if __name__ == "__main__":
    main()
