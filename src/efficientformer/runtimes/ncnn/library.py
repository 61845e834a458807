"""The ncnn package, loaded as it should be."""

from __future__ import annotations

import importlib
import os
from typing import Any


def imported() -> Any:
    """The package, loaded so that its threads sleep while there is nothing to do.

    Its OpenMP reads the policy as it is loaded, and takes no other afterwards.
    """
    before = os.environ.get("OMP_WAIT_POLICY")
    os.environ["OMP_WAIT_POLICY"] = before or "passive"
    try:
        return importlib.import_module("ncnn")
    finally:
        if before is None:
            del os.environ["OMP_WAIT_POLICY"]
