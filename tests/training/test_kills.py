"""SIGKILL at any instant, in the middle of a write too, leaves a checkpoint that loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 120


@pytest.mark.slow
def test_the_last_good_checkpoint_survives_every_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.kills", str(tmp_path), str(KILLS), "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] == KILLS >= 100
    assert result["went_on"] > KILLS / 4  # the children lived long enough to write
    assert result["under_way"] > KILLS / 10  # and many died while they wrote
