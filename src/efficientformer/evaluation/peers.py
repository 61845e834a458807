"""timm's networks with trained weights: from a file, or as timm publishes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from efficientformer.errors import InputError
from efficientformer.latency.subjects import TIMM, Image, peer
from efficientformer.model.weights import read_tensors


def published_peer(name: str, input_size: int | None = None, **options: Any) -> tuple[nn.Module, Image]:
    """A timm network with its published weights, fetched from the hub or its cache, and the image it takes.

    Args:
        name: `timm/NAME` or `timm/NAME.TAG`.
        input_size: pixels of a side; the weights' own by default.
        options: of `timm.create_model`, such as `drop_path_rate`.

    Raises:
        InputError: if there are none, they cannot be fetched, or do not run at that size.
    """
    import timm

    short = name.removeprefix(TIMM)
    if "." not in short or input_size:
        peer(f"{TIMM}{short.partition('.')[0]}", input_size=input_size)  # says in words what is wrong
    try:
        config = timm.get_pretrained_cfg(short)
    except RuntimeError as error:
        raise InputError(f"{name}: {error}") from None
    if config is None or not config.has_weights:
        raise InputError(f"{name}: timm knows no published weights of that name")
    resized = input_size and config.fixed_input_size and input_size != config.input_size[1]
    if resized:
        options["img_size"] = input_size
    try:
        network = timm.create_model(short, pretrained=True, **options)
    except Exception as error:  # the hub's client has a dozen errors of its own, and those of its transport
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise InputError(
            f"{name} could not be fetched from the Hugging Face hub ({why}); if you have the file, give "
            "--pretrained FILE"
        ) from None
    channels, height, width = config.input_size
    return network, (channels, input_size or height, input_size or width)


def peer_from(
    name: str, path: Path, input_size: int | None = None, classes: int | None = None, **options: Any
) -> tuple[nn.Module, Image]:
    """A timm network with the weights of a file, and the image it takes.

    Args:
        name: `timm/NAME`; a tag behind it says nothing about the file.
        path: a state dict in any format that `read_tensors` knows.
        input_size: pixels of a side; the network's own by default.
        classes: outputs; by default as many as the file has.
        options: of `timm.create_model`, such as `drop_path_rate`.

    Raises:
        InputError: if there is no such network or file, or they do not fit each other.
    """
    from timm.models import clean_state_dict

    tensors, base = clean_state_dict(read_tensors(path)), name.partition(".")[0]
    network, image = peer(base, num_classes=classes, input_size=input_size, **options)
    if classes is None and (held := _classes_in(tensors, network)) not in (
        None,
        count_outputs(name, network),
    ):
        network, image = peer(base, num_classes=held, input_size=input_size, **options)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: does not hold the weights of {name}: {why}") from None
    return network, image


def count_outputs(name: str, network: nn.Module) -> int:
    """How many classes a timm network tells apart.

    Raises:
        InputError: if none.
    """
    outputs = getattr(network, "num_classes", 0)
    if not isinstance(outputs, int) or outputs < 1:
        raise InputError(f"{name}: gives features, not classes")
    return outputs


def _classes_in(tensors: Mapping[str, Tensor], network: nn.Module) -> int | None:
    layer = getattr(network, "pretrained_cfg", {}).get("classifier")
    first = layer[0] if isinstance(layer, (tuple, list)) else layer
    weight = tensors.get(f"{first}.weight")
    return None if weight is None else len(weight)
