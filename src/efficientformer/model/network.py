"""An `Architecture` as one `nn.Module`, in the form that is trained; `deploy.py` folds it.

The network is nothing but its architecture's layers in order; `named_modules_of_layers` pairs the two. What
vision users expect of a model beyond `forward` (`forward_features`, `feature_info`, `reset_classifier`, …)
is here under the names timm gave it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from efficientformer.architecture import Architecture, check_input_size
from efficientformer.errors import InputError
from efficientformer.layers import Layer
from efficientformer.model.blocks import Head, LayerModule, Stem, build_layer
from efficientformer.model.blocks.bias import BiasTable
from efficientformer.model.blocks.layout import as_map, as_tokens


class Stage(nn.Module):
    """The embedding into a stage (none into the first) and its blocks, by position."""

    def __init__(
        self, embed: LayerModule | None, blocks: Mapping[str, LayerModule], grid: tuple[int, int]
    ) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleDict(blocks)
        self.grid = grid
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """A map → the stage's map, or its tokens where it ends in attention."""
        x = x if self.embed is None else self.embed(x)
        for block in self.blocks.values():
            x = self._in_layout(x, cast(LayerModule, block).layout)
            if self.grad_checkpointing and self.training:
                passes = partial(_passes, block)
                x = cast(Tensor, checkpoint(block, x, use_reentrant=False, context_fn=passes))
            else:
                x = block(x)
        return x

    def _in_layout(self, x: Tensor, layout: str) -> Tensor:
        if layout == "tokens":
            return as_tokens(x) if x.ndim == 4 else x
        return self.as_map(x)

    def as_map(self, x: Tensor) -> Tensor:
        """The stage's output as (B, C, H, W)."""
        return as_map(x, self.grid) if x.ndim == 3 else x


def _passes(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), _SecondPass(block)


class _SecondPass:
    """While a block is run again for its gradient: its batch norms take no batch in a second time."""

    def __init__(self, block: nn.Module) -> None:
        self._norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
        self._kept: list[tuple[float | None, Tensor]] = []

    def __enter__(self) -> None:
        self._kept = [(n.momentum, cast(Tensor, n.num_batches_tracked).clone()) for n in self._norms]
        for norm in self._norms:
            norm.momentum = 0.0

    def __exit__(self, *_: object) -> None:
        for norm, (momentum, batches) in zip(self._norms, self._kept, strict=True):
            norm.momentum = momentum
            cast(Tensor, norm.num_batches_tracked).copy_(batches)


class Backbone(nn.Module):
    """The stem and the first stages of an architecture."""

    def __init__(self, architecture: Architecture, stem: Stem, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.architecture = architecture
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.pretrained_cfg: dict[str, Any] = {}

    def run_stages(self, x: Tensor, count: int | None = None) -> Iterator[Tensor]:
        """The outputs of the first `count` stages (all by default), as the stages give them.

        Raises:
            InputError: if the image is not of the architecture's input size.
        """
        if tuple(x.shape[-2:]) != self.architecture.input_size:
            given, wanted = tuple(x.shape[-2:]), self.architecture.input_size
            raise InputError(
                f"images of {given} pixels given to a network built for {wanted}; "
                "resize or pad them, or call model.set_input_size"
            )
        x = self.stem(x)
        for index, stage in enumerate(self.stages[:count]):
            if index:
                x = cast(Stage, self.stages[index - 1]).as_map(x)
            x = stage(x)
            yield x

    def maps(self, x: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """The outputs of the wanted stages as (B, C, H, W); those behind the last of them are not run."""
        outputs = enumerate(self.run_stages(x, max(wanted) + 1))
        return [cast(Stage, self.stages[index]).as_map(x) for index, x in outputs if index in wanted]

    def stage_info(self) -> list[dict[str, Any]]:
        """Channels, stride and name of each stage's output."""
        return [
            {"num_chs": width, "reduction": 4 * 2**index, "module": f"stages.{index}", "index": index}
            for index, width in enumerate(self.architecture.widths[: len(self.stages)])
        ]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """In training, compute a block's activations anew for its gradient instead of keeping them."""
        for stage in self.stages:
            cast(Stage, stage).grad_checkpointing = enable

    def set_input_size(self, input_size: int | tuple[int, int]) -> None:
        """Take images of another size, in place; attention-bias tables are interpolated, not thrown away.

        Args:
            input_size: pixels, one side or (height, width), each divisible by 32.

        Raises:
            InputError: if it does not divide, naming the padding to use.
        """
        size = both_sides(input_size)
        changed = dataclasses.replace(self.architecture, input_size=size)
        grids = {name: layer.bias_grid for name, layer in changed.named_layers() if layer.bias_grid}
        for name, grid in grids.items():
            if int(name.split(".")[1]) < len(self.stages):
                for part in self.get_submodule(name).modules():
                    if isinstance(part, BiasTable):
                        part.set_grid(grid)
        for index, stage in enumerate(self.stages):
            cast(Stage, stage).grid = changed.grid(index)
        self.architecture = changed
        if self.pretrained_cfg:
            self.pretrained_cfg = {**self.pretrained_cfg, "input_size": (changed.in_channels, *size)}

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay must leave alone, beside the vectors."""
        return {name for name, _ in self.named_parameters() if name.endswith("attention_biases")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates, as timm's optimiser factory takes them."""
        last = (r"^head\.norm", (99999,))
        if coarse:
            return {"stem": r"^stem", "blocks": [(r"^stages\.(\d+)", None), last]}
        embeds, blocks = (r"^stages\.(\d+)\.embed", (-1,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)
        return {"stem": r"^stem", "blocks": [embeds, blocks, last]}


class EfficientFormer(Backbone):
    """A network of the family, in the form that is trained.

    Args:
        architecture: what to build.
        layer_scale_init: LayerScale's start, 1e-5 in the authors' code.
        drop_path_rate: stochastic depth of the last block; rises linearly from 0 at the first.

    Attributes:
        pretrained_cfg: how images must be prepared, as timm's data functions take it.
    """

    def __init__(
        self, architecture: Architecture, layer_scale_init: float = 1e-5, drop_path_rate: float = 0.0
    ) -> None:
        built = {name: build_layer(layer, layer_scale_init) for name, layer in architecture.named_layers()}
        stages = [_stage(architecture, index, built) for index in range(4)]
        super().__init__(architecture, cast(Stem, built["stem"]), stages)
        self.head = cast(Head, built["head"])
        self.head.pooled = architecture.global_pool == "avg"
        if drop_path_rate:
            self._set_drop_path(drop_path_rate)

    def _set_drop_path(self, rate: float) -> None:
        from timm.layers import DropPath

        if not 0 <= rate < 1:
            raise InputError(f"drop_path_rate is a probability below 1, not {rate}")
        blocks = [block for stage in self.stages for block in cast(Stage, stage).blocks.values()]
        for index, block in enumerate(blocks):
            share = rate * index / max(1, len(blocks) - 1)
            block.drop_path = DropPath(share) if share else nn.Identity()

    def named_modules_of_layers(self) -> Iterator[tuple[str, Layer, LayerModule]]:
        """(name, layer, module) in order of execution, as `architecture.named_layers()`."""
        for name, layer in self.architecture.named_layers():
            yield name, layer, cast(LayerModule, self.get_submodule(name))

    @property
    def num_classes(self) -> int:
        """Outputs of each classifier; 0 without."""
        return self.architecture.num_classes

    @property
    def num_features(self) -> int:
        """Channels of the features before the classifiers."""
        return self.architecture.widths[-1]

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels (`num_chs`), stride (`reduction`) and name (`module`) of each stage's output."""
        return self.stage_info()

    @property
    def head_hidden_size(self) -> int:
        """The same: nothing stands between them and the classifiers."""
        return self.num_features

    @property
    def default_cfg(self) -> dict[str, Any]:
        """`pretrained_cfg` by its older name."""
        return self.pretrained_cfg

    def forward_features(self, x: Tensor) -> Tensor:
        """Everything before pooling: (B, 3, H, W) → normed tokens (B, H/32 · W/32, C), or V2's map.

        Raises:
            InputError: if the image is not of the architecture's input size.
        """
        *_, x = self.run_stages(x)
        return self.head.norm(self._for_head(x))

    def _for_head(self, x: Tensor) -> Tensor:
        last = cast(Stage, self.stages[-1])
        if self.head.layout == "map":
            return last.as_map(x)
        return as_tokens(x) if x.ndim == 4 else x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Features → logits (B, classes); with `pre_logits`, pooled features (B, C)."""
        return self.head.classify(x, pre_logits)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(B, 3, H, W) → logits (B, classes); in distilled training, a pair of them."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The outputs of stages on the way.

        Args:
            x: (B, 3, H, W).
            indices: which stages: the last n, a selection, or all.
            norm: the head's norm on the last stage's output as well.
            stop_early: run no stage behind the last that is wanted; needs `intermediates_only`.
            output_fmt: `NCHW`, the only one there is.
            intermediates_only: leave the final features out.

        Returns:
            the intermediates, each (B, C, H, W); with the final features before them unless left out.

        Raises:
            InputError: for a stage that is not there.
        """
        if output_fmt != "NCHW":
            raise InputError(f"output_fmt {output_fmt!r}: the intermediates are NCHW maps")
        if stop_early and not intermediates_only:
            raise InputError("stop_early leaves no final features: set intermediates_only as well")
        wanted = take_indices(len(self.stages), indices)
        outputs = list(self.run_stages(x, max(wanted) + 1 if stop_early else None))
        maps = []
        for index in wanted:
            output = outputs[index]
            if norm and index == len(self.stages) - 1:
                output = self.head.norm(self._for_head(output))
            maps.append(cast(Stage, self.stages[index]).as_map(output))
        if intermediates_only:
            return maps
        return self.head.norm(self._for_head(outputs[-1])), maps

    def get_classifier(self) -> nn.Module | tuple[nn.Module, nn.Module]:
        """The classifier, or both; an identity where there is none."""
        heads = self.head.classifiers()
        if len(heads) == 2:
            return heads[0], heads[1]
        return heads[0] if heads else nn.Identity()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """New classifiers at their start, on the same device and of the same number type.

        Args:
            num_classes: outputs; 0 takes the classifiers away.
            global_pool: `avg`, or empty for outputs at every position; as it was by default.
        """
        pool = self.architecture.global_pool if global_pool is None else global_pool
        changed = dataclasses.replace(self.architecture, num_classes=num_classes, global_pool=pool)
        self.head.set_classes(num_classes, 1 + changed.distilled)
        self.head.pooled = pool == "avg"
        self.architecture = changed

    def set_distilled_training(self, enable: bool = True) -> None:
        """In training, return the labels' and the teacher's logits as a pair instead of their mean.

        Raises:
            InputError: if the network has no second classifier.
        """
        if enable and self.head.distillation is None:
            raise InputError("distilled training needs two classifiers: distilled=True, and num_classes")
        self.head.distilled_training = enable


def _stage(architecture: Architecture, index: int, built: Mapping[str, LayerModule]) -> Stage:
    prefix = f"stages.{index}.blocks."
    blocks = {name.removeprefix(prefix): m for name, m in built.items() if name.startswith(prefix)}
    return Stage(built.get(f"stages.{index}.embed"), blocks, architecture.grid(index))


def check_whole(network: nn.Module) -> None:
    """Refuse what is no whole network.

    Raises:
        InputError: for a feature extractor, say.
    """
    if not isinstance(network, EfficientFormer):
        raise InputError(f"a whole network is needed, an EfficientFormer; this is a {type(network).__name__}")


def both_sides(size: int | Sequence[int]) -> tuple[int, int]:
    """An input size as (height, width), checked.

    Raises:
        InputError: if four stages cannot halve it evenly.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    check_input_size(cast(tuple[int, int], sides))
    return cast(tuple[int, int], sides)


def take_indices(stages: int, indices: int | Sequence[int] | None) -> list[int]:
    """Stage numbers in rising order: the last n, a selection (negative: from the end), or all.

    Raises:
        InputError: if there is no such stage.
    """
    if indices is None:
        return list(range(stages))
    if isinstance(indices, int):
        indices = range(stages - indices, stages) if 0 < indices <= stages else ()
    chosen = list(indices)
    if not chosen or any(index not in range(-stages, stages) for index in chosen):
        raise InputError(f"stages {chosen}: there are {stages}, counted from 0; a number n means the last n")
    return sorted({index % stages for index in chosen})
