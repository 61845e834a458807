"""The examples run as they are."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


TOLD = {"train_in_python": "% of 360 images"}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # one of them measures until the machine is quiet
@pytest.mark.parametrize("program", EXAMPLES, ids=lambda path: path.stem)
def test_example(program: Path) -> None:
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert TOLD.get(program.stem, " ms") in done.stdout
