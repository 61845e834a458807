"""Which output of a network stands for which class of a data set."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from efficientformer.errors import InputError

WITH_BACKGROUND = 1001  # TensorFlow's ImageNet networks: `background` comes before the 1000 classes
_WNID = re.compile(r"n\d{8}(?=_|$)")  # n01440764, n01440764_tench


def outputs_of(
    classes: Sequence[str], outputs: int, own: Sequence[str] | None = None, network: str = "the network"
) -> np.ndarray:
    """The output of each class.

    A network's own names decide where they are known. Without, one of as many outputs as an ImageNet has
    classes is taken to be ImageNet's, and classes are found by their WordNet id (`n01440764` or
    `n01440764_tench`) as timm lists them; failing that, one of as many outputs as there are classes is taken
    to have the data set's order.

    Args:
        classes: the data set's, by index.
        outputs: how many the network has.
        own: the names of its outputs, if they are known.
        network: what errors call it.

    Returns:
        int64 (classes,): indices into the outputs.

    Raises:
        InputError: if a class is not among the outputs, or it cannot be told which one it is.
    """
    if own is not None and len(own) != outputs:
        raise InputError(f"{network} has {outputs} outputs, but names for {len(own)} classes")
    names = own or _imagenet(outputs)
    if names and all(_key(one) in map(_key, names) for one in classes):
        places = {_key(name): at for at, name in enumerate(names)}
        return np.array([places[_key(one)] for one in classes], np.int64)
    if own is None and len(classes) == outputs:
        return np.arange(outputs, dtype=np.int64)
    raise InputError(f"{network} {_why_not(classes, outputs, names)}")


def _imagenet(outputs: int) -> list[str]:
    """WordNet ids by output of a network that has as many as an ImageNet; empty for others."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if outputs == WITH_BACKGROUND:
        return ["background", *_imagenet(outputs - 1)]
    subset = infer_imagenet_subset({"num_classes": outputs})
    return ImageNetInfo(subset).label_names() if subset else []


def _key(name: str) -> str:
    """A WordNet id without what stands behind it; any other name as it is."""
    wnid = _WNID.match(name)
    return wnid[0] if wnid else name


def _why_not(classes: Sequence[str], outputs: int, names: Sequence[str]) -> str:
    data = f"the data have {len(classes)} classes ({_some(classes)})"
    if not names:
        return f"has {outputs} outputs of unknown names, {data}: nothing tells which is which"
    known = set(map(_key, names))
    strange = next(one for one in classes if _key(one) not in known)
    return f"has {outputs} outputs ({_some(names)}), {data}: {strange} is not among its outputs"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
