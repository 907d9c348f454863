"""Make ``.venv`` and install prunekit into it: ``python3 tools/install.py [EXTRA]``.

Called by make; also works without it. A stamp, written last, says that an install is complete; one
that was interrupted is done again. Needs only Python and pip.
"""

# This file must at least compile on an old Python, to say that it is too old.
import os
import platform
import shutil
import subprocess
import sys

OLDEST = (3, 11)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))
# PyTorch's own index of CPU builds: a few hundred MB where the default ones take several GB.
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"


def fail(line):
    sys.exit("prunekit: " + line)


def stamp(extra):
    return os.path.join(VENV, "complete" + ("-" + extra if extra else ""))


def pip(*arguments):
    limits = os.path.join(ROOT, "constraints.txt")
    if subprocess.call([PYTHON, "-m", "pip", "install", "-c", limits, *arguments]) != 0:
        fail("the installation failed; what pip says stands above. Run the command again.")


def wants_cpu_build():
    """Linux without an NVIDIA card, and nobody has told pip where to look for packages."""
    if platform.system() != "Linux" or shutil.which("nvidia-smi"):
        return False
    settings = subprocess.run(
        [PYTHON, "-m", "pip", "config", "list"], stdout=subprocess.PIPE, universal_newlines=True
    ).stdout
    return not any(word in settings for word in ("index-url", "no-index", "find-links"))


def main(extra):
    if sys.version_info < OLDEST:
        fail(
            "needs Python {}.{} or newer, this is {}. Install one and run: "
            "make PYTHON=python3.12".format(OLDEST[0], OLDEST[1], platform.python_version())
        )
    try:
        import ensurepip  # noqa: F401
        import venv
    except ImportError:
        fail("this Python has no venv. On Debian or Ubuntu: sudo apt install python3-venv")
    if not os.path.exists(stamp("")):
        shutil.rmtree(VENV, ignore_errors=True)  # a half-made one is of no use
        venv.EnvBuilder(with_pip=True, symlinks=os.name != "nt").create(VENV)
    if wants_cpu_build():
        # What torch needs comes from the usual index, in the next step.
        pip("--no-deps", "--extra-index-url", CPU_BUILDS, "torch", "torchvision")
    pip("-e", ROOT + ("[" + extra + "]" if extra else ""))
    for name in {"", extra}:
        with open(stamp(name), "w") as file:
            file.write(platform.python_version() + "\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
