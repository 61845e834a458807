"""Networks of ours by what a person calls them: a preset with weights, a run, a file."""

from __future__ import annotations

from pathlib import Path

from efficientformer.errors import InputError
from efficientformer.model.checkpoint import load_model
from efficientformer.model.network import EfficientFormer
from efficientformer.model.zoo import create_model
from efficientformer.presets import PRESETS


def load_network(model: str, pretrained: str | None = None) -> EfficientFormer:
    """A network with weights, by what a person calls it; the arguments are `predictor`'s.

    Raises:
        InputError: if there is no such network, or it has no weights.
    """
    path = Path(model)
    if model.partition(".")[0] in PRESETS and not path.exists():
        if not pretrained:
            raise InputError(
                f"{model} has no weights of its own: give --pretrained FILE, or --pretrained hub to fetch "
                "the published ones"
            )
        return create_model(model, True if pretrained == "hub" else pretrained)
    if pretrained and path.exists():
        raise InputError(f"{model} has its own weights; --pretrained is for presets")
    if path.is_dir():
        if not run_of(path):
            raise InputError(f"{path}: holds no finished run (model.safetensors and summary.json)")
        return load_model(path / "model.safetensors")
    if path.is_file():
        return load_model(path)
    known = f"timm/NAME, a run's folder, a .safetensors file or one of {', '.join(PRESETS)}"
    raise InputError(f"model {model!r} is not known; give {known}")


def run_of(model: Path) -> Path | None:
    """The folder of the finished run that a folder or a file of weights belongs to."""
    run = model.parent if model.name == "model.safetensors" else model
    finished = (run / "model.safetensors").is_file() and (run / "summary.json").is_file()
    return run if finished else None
