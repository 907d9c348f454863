"""tools/kills.py: runs that are killed at random moments end as undisturbed ones."""

import importlib.util
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "kills.py"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_runs_killed_at_random_moments_end_as_undisturbed_ones():
    command = [sys.executable, str(SCRIPT), "--kills", "2"]
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^(.*): (\d+) kills in .* 0 files left over", done.stdout, re.MULTILINE)
    kinds = ["differential evolution", "roulette", "fit", "reproduce", "report.save"]
    assert [kind for kind, _ in found] == kinds
    assert all(int(kills) >= 2 for _, kills in found)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("kills", SCRIPT)
    sys.modules["kills"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def forgetful(folder):
    """Gives another result where it finds what an earlier start left."""
    folder.mkdir(exist_ok=True)
    known = (folder / "begun.tmp").exists()
    (folder / "begun.tmp").touch()
    time.sleep(0.3)
    return str(known)


def test_a_result_that_depends_on_kills_and_files_that_stay_are_told(script, tmp_path):
    tally = script.resumed(forgetful, 3, random.Random(0), tmp_path)
    assert tally.kills >= 3
    assert tally.differed == tally.left_over == tally.runs
    assert not tally.sound
    assert f"0 of {tally.runs} as undisturbed, {tally.runs} files left over" in str(tally)


def test_work_that_fails_is_an_error(script, tmp_path):
    def work(folder):
        if folder.name == "0":
            raise KeyError("inside")
        return ""

    with pytest.raises(RuntimeError, match="a resumed run failed"):
        script.resumed(work, 1, random.Random(0), tmp_path)
