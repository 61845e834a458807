"""The published weights: where they are, what they score, how their images must be prepared.

Nothing is fetched unless it is asked for (`create_model(name, pretrained=True)`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError

if TYPE_CHECKING:
    from torchvision.transforms import Compose

    from efficientformer.model.network import Backbone

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of the channels in [0, 1] [code]."""


@dataclass(frozen=True)
class Published:
    """One published file.

    Attributes:
        hub: repository on the Hugging Face hub.
        file: its name there.
        top1: ImageNet-1K top-1 accuracy in percent, as published.
        source: who says so.
        crop: share of the short side that the centre crop keeps, for that accuracy.
    """

    hub: str
    file: str
    top1: float
    source: str
    crop: float = 0.95


_PAPER = "the paper, Table 1"
_PAPER2 = "the V2 paper, 300 epochs"  # the published file may be of its longer training
_TIMM = "timm, crop 0.95"


def _timm(name: str, top1: float, source: str) -> Published:
    return Published(f"timm/{name}.snap_dist_in1k", "model.safetensors", top1, source)


def _snap(size: str, top1: float) -> Published:
    return Published(f"snap-research/efficientformer-{size}-300", "pytorch_model.bin", top1, _PAPER, 0.875)


WEIGHTS: dict[str, dict[str, Published]] = {
    "efficientformer_l1": {
        "snap_dist_in1k": _timm("efficientformer_l1", 80.50, _TIMM),
        "snap_300": _snap("l1", 79.2),
    },
    "efficientformer_l3": {
        "snap_dist_in1k": _timm("efficientformer_l3", 82.56, _TIMM),
        "snap_300": _snap("l3", 82.4),
    },
    "efficientformer_l7": {
        "snap_dist_in1k": _timm("efficientformer_l7", 83.40, _TIMM),
        "snap_300": _snap("l7", 83.3),
    },
    "efficientformerv2_s0": {"snap_dist_in1k": _timm("efficientformerv2_s0", 75.7, _PAPER2)},
    "efficientformerv2_s1": {"snap_dist_in1k": _timm("efficientformerv2_s1", 79.0, _PAPER2)},
    "efficientformerv2_s2": {"snap_dist_in1k": _timm("efficientformerv2_s2", 81.6, _PAPER2)},
    "efficientformerv2_l": {"snap_dist_in1k": _timm("efficientformerv2_l", 83.3, _PAPER2)},
}
"""By preset and tag; a preset's first is what `pretrained=True` fetches."""


def find_weights(name: str) -> Published:
    """The published weights of `preset` or `preset.tag`.

    Raises:
        InputError: if none are known.
    """
    preset, _, tag = name.partition(".")
    known = WEIGHTS.get(preset, {})
    if not known or (tag and tag not in known):
        tags = ", ".join(f"{preset}.{one}" for one in known) or "none"
        raise InputError(f"no published weights are known for {name!r}; known for {preset}: {tags}")
    return known[tag or next(iter(known))]


def fetch(weights: Published) -> Path:
    """The file on this machine, from the hub's cache or the hub itself.

    Raises:
        InputError: if it is in neither.
    """
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(weights.hub, weights.file))
    except Exception as error:  # the hub's client has a dozen errors of its own, and those of its transport
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise InputError(
            f"{weights.hub}/{weights.file} could not be fetched from the Hugging Face hub ({why}); "
            "if you have the file, give its path as pretrained=PATH"
        ) from None


def pretrained_cfg(architecture: Architecture, name: str = "") -> dict[str, Any]:
    """How images must be prepared for a network, as timm's data functions take it.

    Args:
        architecture: of the network.
        name: the preset, with its tag if it has one.
    """
    preset, _, tag = name.partition(".")
    known = WEIGHTS.get(preset, {})
    weights = known.get(tag) or next(iter(known.values()), None)
    return {
        "architecture": preset,
        "tag": tag,
        "hf_hub_id": weights.hub if weights else None,
        "hf_hub_filename": weights.file if weights else None,
        "num_classes": architecture.num_classes,
        "input_size": (architecture.in_channels, *architecture.input_size),
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": weights.crop if weights else 0.95,
        "mean": MEAN,
        "std": STD,
        "first_conv": "stem.conv1" if architecture.stem == "stem" else "stem.conv",
        "classifier": ("head.classifier", "head.distillation")
        if architecture.distilled
        else "head.classifier",
        "license": "apache-2.0",
    }


def create_transform(model: Backbone, *, is_training: bool = False, **options: Any) -> Compose:
    """The transform that matches a network: timm's, at the network's own input size.

    Args:
        model: a network, or a feature extractor.
        is_training: random crops, flips and colours instead of the centre crop.
        options: timm's `create_transform`'s own, such as `auto_augment`.

    Returns:
        from a PIL image to a float tensor (3, H, W), or (1, H, W) for a network of one channel.

    Raises:
        InputError: for another number of channels.
    """
    from timm.data import create_transform as create
    from timm.data import resolve_data_config

    channels, size = model.architecture.in_channels, model.architecture.input_size
    if channels not in (1, 3):
        raise InputError(f"the network takes {channels} channels: no transform makes those of a picture")
    config = resolve_data_config({"input_size": (channels, *size)}, pretrained_cfg=model.pretrained_cfg)
    if channels == 1:
        config |= {name: (sum(config[name]) / len(config[name]),) for name in ("mean", "std")}
    transform = create(**config, is_training=is_training, **options)
    if channels == 1:
        from torchvision.transforms import Grayscale

        transform.transforms.insert(0, Grayscale())
    return transform
