"""Whether a target can be used here: a tiny network, exported in its precision and run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from efficientformer.errors import InputError
from efficientformer.latency.process import Process
from efficientformer.latency.target import Target
from efficientformer.latency.untrained import export_untrained
from efficientformer.runtimes import Traced, usable
from efficientformer.runtimes.base import random_image

_SHAPE = (1, 3, 32, 32)


def check_usable(target: Target) -> None:
    """Make sure that files can be exported for a target, and run, on this machine.

    What float32 needs is asked of the runtime. Other precisions are tried, for much can be lacking that only
    shows then: a package that quantises, a processor's instructions. That takes a second or a few.

    Raises:
        InputError: in one line, what is lacking.
    """
    runtime = usable(target.runtime, target.device)
    if target.precision == "fp32":
        return
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        try:
            (path,) = export_untrained(runtime, [Traced(_tiny(), _SHAPE)], where, target.precision)
            with Process(path, target) as process:
                process.run(random_image(_SHAPE))
        except InputError as error:
            why = " ".join(str(error).replace(f"{where}/", "").split())
            raise InputError(f"{target.short} cannot be used here: {why}") from None


def _tiny() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pooled = (nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        return nn.Sequential(*pooled, nn.Flatten(), nn.Linear(16, 8)).eval()
