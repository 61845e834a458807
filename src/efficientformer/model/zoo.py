"""Networks by name."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

from efficientformer.errors import InputError
from efficientformer.model.checkpoint import fill_from, read_checkpoint
from efficientformer.model.features import FeatureExtractor
from efficientformer.model.network import EfficientFormer, both_sides
from efficientformer.model.pretrained import WEIGHTS, fetch, find_weights, pretrained_cfg
from efficientformer.presets import PRESETS

Patterns = str | Sequence[str]


def list_models(
    filter: Patterns = "", *, pretrained: bool = False, exclude_filters: Patterns = ()
) -> list[str]:
    """Names of the networks that match.

    Args:
        filter: a shell-style pattern, or several of which one must match; empty for all.
        exclude_filters: patterns none of which may match.
        pretrained: list names with the tags of their published weights, `efficientformer_l1.snap_dist_in1k`.
    """
    names = [f"{name}.{tag}" for name, tags in WEIGHTS.items() for tag in tags] if pretrained else PRESETS
    return sorted(
        name for name in names if _matches(name, filter or "*") and not _matches(name, exclude_filters)
    )


def _matches(name: str, patterns: Patterns) -> bool:
    every = (patterns,) if isinstance(patterns, str) else patterns
    short = name.partition(".")[0]
    return any(fnmatch.fnmatchcase(name, one) or fnmatch.fnmatchcase(short, one) for one in every)


@overload
def create_model(
    name: str,
    pretrained: bool | Path | str = ...,
    *,
    num_classes: int | None = ...,
    in_chans: int = ...,
    input_size: int | tuple[int, int] = ...,
    distilled: bool = ...,
    drop_path_rate: float = ...,
    global_pool: str = ...,
    features_only: Literal[False] = ...,
) -> EfficientFormer: ...


@overload
def create_model(
    name: str,
    pretrained: bool | Path | str = ...,
    *,
    num_classes: int | None = ...,
    in_chans: int = ...,
    input_size: int | tuple[int, int] = ...,
    distilled: bool = ...,
    drop_path_rate: float = ...,
    features_only: Literal[True],
    out_indices: int | Sequence[int] | None = ...,
) -> FeatureExtractor: ...


def create_model(
    name: str,
    pretrained: bool | Path | str = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    input_size: int | tuple[int, int] = 224,
    distilled: bool = True,
    drop_path_rate: float = 0.0,
    global_pool: str = "avg",
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
) -> EfficientFormer | FeatureExtractor:
    """A preset as a network, in evaluation mode.

    Args:
        name: one of `list_models()`, or of `list_models(pretrained=True)` with the tag of its weights.
        pretrained: False for random weights; a file of weights (`load_checkpoint`); or True for the published
            ones, from the Hugging Face hub or its cache on this machine. The attention bias is interpolated
            to `input_size`, the first convolution adapted to `in_chans`.
        num_classes: outputs of each classifier, 1000 by default; 0 for none. Where it is given and the
            weights have another number, the classifiers are left at their random start, to be trained.
        in_chans: channels of the image.
        input_size: pixels, one side or (height, width); each divisible by 32.
        distilled: with the second classifier, as published.
        drop_path_rate: stochastic depth of the last block, rising from 0 at the first.
        global_pool: `avg`, or empty for outputs at every position.
        features_only: a feature extractor instead: a list of maps, no head.
        out_indices: which stages' maps it gives, counted from 0; the last n of them, or all by default.

    Raises:
        InputError: for an unknown name, an input size that does not divide, or weights that do not fit.
    """
    preset = name.partition(".")[0]
    if preset not in PRESETS:
        raise InputError(f"unknown model {name!r}; {_suggest(preset)}")
    if "." in name:
        find_weights(name)  # the tag must be known, whether its weights are wanted or not
    architecture = dataclasses.replace(
        PRESETS[preset],
        num_classes=PRESETS[preset].num_classes if num_classes is None else num_classes,
        in_channels=in_chans,
        input_size=both_sides(input_size),
        distilled=distilled,
        global_pool=global_pool,
    )
    if out_indices is not None and not features_only:
        raise InputError("out_indices says which maps features_only=True gives; set that as well")
    model = EfficientFormer(architecture, drop_path_rate=drop_path_rate).eval()
    model.pretrained_cfg = pretrained_cfg(architecture, name)
    if pretrained is not False:
        path = fetch(find_weights(name)) if pretrained is True else Path(pretrained)
        _load(model, path, any_classes=num_classes is not None, no_classifiers=features_only)
    return FeatureExtractor(model, out_indices) if features_only else model


def _suggest(name: str) -> str:
    near = difflib.get_close_matches(name, PRESETS, 1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(PRESETS)}"


def _load(model: EfficientFormer, path: Path, *, any_classes: bool, no_classifiers: bool) -> None:
    """Weights for 3 channels and their own number of classes into a network that may have others."""
    weights = read_checkpoint(path)
    biases = (t for name, t in weights.tensors.items() if _is_classifier_bias(name))
    classes = {len(bias) if bias.ndim == 1 else model.num_classes for bias in biases}  # or is refused
    channels = model.architecture.in_channels
    for name, tensor in weights.tensors.items():
        if _is_first_convolution(name) and tensor.ndim == 4 and tensor.shape[1] == 3 != channels:
            from timm.models import adapt_input_conv

            weights.tensors[name] = adapt_input_conv(channels, tensor)
    keep = no_classifiers or (any_classes and model.num_classes not in classes)
    fill_from(model, path, weights, keep_classifiers=keep)


def _is_classifier_bias(name: str) -> bool:
    return name.endswith(("head.bias", "classifier.bias"))


def _is_first_convolution(name: str) -> bool:
    return name.endswith(
        (
            "stem.conv1.weight",
            "stem.conv.weight",
            "patch_embed.0.weight",
            "stem.conv1.conv.weight",
            "patch_embed.convolution1.weight",
        )
    )
