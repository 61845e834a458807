"""The names that published checkpoints give to the same tensors: the authors', timm's, transformers'.

Every layout is a table of names by kind of layer, so that one function gives the whole mapping for an
architecture, and reading and writing are the same mapping in two directions. [code] of all three was read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError

Layout = Literal["official", "timm", "transformers"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
Family = Literal["v1", "v2"]


Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Names:
    """One layout of one family.

    Attributes:
        sign: an entry that only this layout has, without wrappers.
        parts: by kind of layer, patterns of our names inside it and their replacements, applied in order.
        indices: whether `attention_bias_idxs` is among the entries.
        scale: axes of LayerScale behind its channels.
    """

    sign: str
    parts: Mapping[str, Rules]
    indices: bool = True
    scale: int = 0


_SCALE: Rules = ((r"^ls(\d)\.gamma$", r"layer_scale_\1"),)
_OFFICIAL_STEM: Rules = ((r"^conv1", "0"), (r"^norm1", "1"), (r"^conv2", "3"), (r"^norm2", "4"))
_OFFICIAL_EMBED: Rules = ((r"^conv", "proj"),)
_OFFICIAL_HEAD: Rules = ((r"^classifier", "head"), (r"^distillation", "dist_head"))
_OFFICIAL_FFN: Rules = (
    *_SCALE,
    (r"^(mlp\.\w+)\.conv", r"\1"),
    (r"^mlp\.fc(\d)\.norm", r"mlp.norm\1"),
    (r"^mlp\.mid\.norm", "mlp.mid_norm"),
)
_OFFICIAL_MIXER: Rules = (  # convolution and norm stand in an nn.Sequential, the last behind its activation
    (r"^(attn|token_mixer)\.proj\.conv", r"\1.proj.1"),
    (r"^(attn|token_mixer)\.proj\.norm", r"\1.proj.2"),
    (r"\.conv\.", ".0."),
    (r"\.norm\.", ".1."),
)
_TIMM_HEAD: Rules = ((r"^classifier", "head"), (r"^distillation", "head_dist"))
_TIMM_NORM: Rules = ((r"\.norm\.", ".bn."),)
_TIMM_CONV: Rules = ((r"^conv(\d?)", r"conv\1.conv"), (r"^norm(\d?)", r"conv\1.bn"))
_HF_STEM: Rules = ((r"^conv", "convolution"), (r"^norm1", "batchnorm_before"), (r"^norm2", "batchnorm_after"))
_HF_POOL: Rules = (
    *_SCALE,
    (r"^mlp\.fc", "mlp.convolution"),
    (r"^mlp\.norm1", "mlp.batchnorm_before"),
    (r"^mlp\.norm2", "mlp.batchnorm_after"),
)
_HF_ATTENTION: Rules = (
    *_SCALE,
    (r"^norm", "layernorm"),
    (r"\.proj\.", ".projection."),
    (r"^mlp\.fc1", "mlp.linear_in"),
    (r"^mlp\.fc2", "mlp.linear_out"),
)

_OWN_SIGN = "stages.1.embed.conv.weight"
_TABLE: dict[tuple[Family, Layout], _Names] = {
    ("v1", "official"): _Names(
        "patch_embed.0.weight",
        {
            "stem": _OFFICIAL_STEM,
            "embed": _OFFICIAL_EMBED,
            "pool": _SCALE,
            "attention": _SCALE,
            "head": _OFFICIAL_HEAD,
        },
    ),
    ("v1", "timm"): _Names("stages.1.downsample.conv.weight", {"head": _TIMM_HEAD}),
    ("v1", "transformers"): _Names(
        "patch_embed.convolution1.weight",
        {
            "stem": _HF_STEM,
            "embed": ((r"^conv", "projection"),),
            "pool": _HF_POOL,
            "attention": _HF_ATTENTION,
            "head": ((r"^norm", "layernorm"), (r"^distillation", "distillation_classifier")),
        },
    ),
    ("v2", "official"): _Names(
        "patch_embed.0.weight",
        {
            "stem": _OFFICIAL_STEM,
            "embed": _OFFICIAL_EMBED,
            "embed_attention": ((r"^norm", "bn"), (r"^attn\.q\.local", "attn.q.local.0"), *_OFFICIAL_MIXER),
            "ffn": _OFFICIAL_FFN,
            "attention2d": (*_OFFICIAL_FFN, *_OFFICIAL_MIXER),
            "attention2d_strided": (*_OFFICIAL_FFN, *_OFFICIAL_MIXER),
            "head2d": _OFFICIAL_HEAD,
        },
        scale=2,
    ),
    ("v2", "timm"): _Names(
        "stages.1.downsample.conv.conv.weight",
        {
            "stem": _TIMM_CONV,
            "embed": _TIMM_CONV,
            "embed_attention": (*_TIMM_NORM, *_TIMM_CONV),
            "ffn": _TIMM_NORM,
            "attention2d": _TIMM_NORM,
            "attention2d_strided": _TIMM_NORM,
            "head2d": _TIMM_HEAD,
        },
        indices=False,
    ),
}


_PLACES: dict[Layout, dict[str, str]] = {
    "official": {"stem": "patch_embed.", "embed": "network.{odd}.", "block": "network.{even}.{counted}."},
    "timm": {
        "stem": "stem.",
        "embed": "stages.{stage}.downsample.",
        "block": "stages.{stage}.blocks.{counted}.",
    },
    "transformers": {
        "stem": "patch_embed.",
        "embed": "encoder.intermediate_stages.{odd}.",
        "block": "encoder.intermediate_stages.{even}.meta4D_layers.blocks.{block}.",
        "last": "encoder.last_stage.meta4D_layers.blocks.{block}.",
        "attending": "encoder.last_stage.meta3D_layers.blocks.{attending}.",
    },
}
"""What a layout puts before the inner names of our layers. Heads stand outside; the authors and timm count
the flatten before the first attention block as a block of its own."""


def _place(name: str, layout: Layout, first_attention: int | None) -> str:
    parts, places = name.split("."), _PLACES[layout]
    if parts[0] != "stages":
        return places.get(parts[0], "")
    stage, block = int(parts[1]), int(parts[3]) if len(parts) > 3 else 0
    attends = stage == 3 and first_attention is not None and block >= first_attention
    role = "embed" if parts[2] == "embed" else "attending" if attends else "last" if stage == 3 else "block"
    return places.get(role, places["block"]).format(
        stage=stage,
        odd=2 * stage - 1,
        even=2 * stage,
        block=block,
        counted=block + attends,
        attending=block - (first_attention or 0),
    )


def family(architecture: Architecture) -> Family | None:
    """Which published code could hold these blocks: the first paper's, the second's, or neither."""
    rows = [[block.kind for block in stage.blocks] for stage in architecture.stages]
    stem = {"head": "relu", "head2d": "gelu"}[architecture.head]
    if (architecture.activation, architecture.stem_activation) != ("gelu", stem):
        return None  # no entry would show it
    if architecture.stem != "stem":
        return None
    outside = [stage.embed for stage in architecture.stages[1:]] + [architecture.head]
    attends = rows[3].count("attention")  # at least one: without, the authors' code has another head
    if outside == ["embed", "embed", "embed", "head"] and attends:
        plain = all(set(row) <= {"pool"} for row in rows[:3])
        return "v1" if plain and rows[3] == _ending(rows[3], "pool", "attention", attends) else None
    attends = rows[3].count("attention2d")
    if outside == ["embed", "embed", "embed_attention", "head2d"] and all(
        row == _ending(row, "ffn", kind, attends if kind else 0)
        for row, kind in zip(rows, ("", "", "attention2d_strided", "attention2d"), strict=True)
    ):
        return "v2"
    return None


def _ending(row: list[str], first: str, last: str, count: int) -> list[str]:
    """A row of the same length whose last `count` blocks are of another kind than the first."""
    ending = min(count, len(row))
    return [first] * (len(row) - ending) + [last] * ending


def names(architecture: Architecture, entries: Iterable[str], layout: Layout) -> dict[str, str]:
    """Our names of a network's entries to a layout's, without transformers' prefix.

    Raises:
        InputError: if the layout's code has no such network.
    """
    table = _names(architecture, layout)
    layers = dict(architecture.named_layers())
    last = architecture.stages[3].blocks
    first = next((i for i, block in enumerate(last) if block.kind == "attention"), None)
    renamed = {}
    for entry in entries:
        layer = next(name for name in _prefixes(entry) if name in layers)
        inner = entry.removeprefix(f"{layer}.")
        for pattern, replacement in table.parts.get(layers[layer].kind, ()):
            inner = re.sub(pattern, replacement, inner)
        renamed[entry] = _place(layer, layout, first) + inner
    return renamed


def _names(architecture: Architecture, layout: Layout) -> _Names:
    if layout not in LAYOUTS:
        raise InputError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}")
    own = family(architecture)
    if own is None or (own, layout) not in _TABLE:
        raise InputError(f"the {layout} layout has no place for the network {architecture}")
    return _TABLE[own, layout]


def _prefixes(entry: str) -> Iterable[str]:
    parts = entry.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))


def has_indices(architecture: Architecture, layout: Layout) -> bool:
    """Whether a layout's files hold the indices into the attention-bias tables."""
    return _names(architecture, layout).indices


def scale_axes(architecture: Architecture, layout: Layout) -> int:
    """How many axes of length 1 a layout puts behind LayerScale's channels."""
    return _names(architecture, layout).scale


def recognise(names: Iterable[str]) -> Layout | None:
    """The layout of a checkpoint with these entries; None for our own.

    Raises:
        InputError: if it is of none.
    """
    known = set(names)
    if _OWN_SIGN in known:
        return None
    for (_, layout), table in _TABLE.items():
        if table.sign in known:
            return layout
    example = next(iter(sorted(known)), "nothing")
    raise InputError(
        f"checkpoint: of none of the layouts known (ours, {', '.join(LAYOUTS)}); "
        f"its {len(known)} entries start with {example}"
    )
