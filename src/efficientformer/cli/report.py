"""`efficientformer report`: a run's page."""

from __future__ import annotations

from pathlib import Path

from efficientformer.report import write_report


def report(run: Path) -> None:
    """Write a finished run's HTML page anew.

    Args:
        run: a run's folder.
    """
    print(write_report(run))
