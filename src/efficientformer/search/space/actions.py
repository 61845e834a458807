"""The actions of slimming, each from an architecture to a smaller one: the paper's three (§3.3), and ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from efficientformer.architecture import Architecture
from efficientformer.search.space.importance import Importance
from efficientformer.search.space.search_space import IDENTITY, SearchSpace

ActionKind = Literal[
    "remove_block",
    "remove_attention",
    "narrow_stage",
    "replace_block",
    "narrow_mlp",
    "change_activation",
    "change_stem",
    "shrink_input",
    "several",
]
ACTIONS: tuple[ActionKind, ...] = get_args(ActionKind)[:-1]
"""What a step of slimming can be; `several` stands for what another search found at once."""


@dataclass(frozen=True)
class Action:
    """One step of slimming.

    Attributes:
        kind: `remove_block` puts the identity in a position, `remove_attention` another block for the first
            attention block, `narrow_stage` takes channels from a stage; beyond the paper `replace_block` puts
            a cheaper kind in a position, `narrow_mlp` takes hidden channels from a block;
            `change_activation`, `change_stem` and `shrink_input` are of the whole network. `several` is any
            number of them, in order; there they may also give back what was taken.
        stage: counted from 0; -1 for the whole network.
        position: of the block in its stage; -1 where there is none.
        width: the stage's new width; 0 unless narrowing.
        importance: the score of the position or stage that was chosen as the least.
        block: the new kind of block; empty where it is left open, which means pooling.
        expansion: the block's new expansion; 0 for none.
        activation: the new activation; empty for none.
        stem: the new kind of stem; empty for none.
        input_size: the new side of images in pixels; 0 for none.
        parts: of `several`.
    """

    kind: ActionKind
    stage: int
    position: int = -1
    width: int = 0
    importance: float = 0.0
    block: str = ""
    expansion: int = 0
    activation: str = ""
    stem: str = ""
    input_size: int = 0
    parts: tuple[Action, ...] = ()

    def apply(self, architecture: Architecture) -> Architecture:
        """The architecture after the step."""
        match self.kind:
            case "remove_block":
                return architecture.with_block(self.stage, self.position, IDENTITY)
            case "remove_attention" | "replace_block":
                return architecture.with_block(self.stage, self.position, self.block or "pool")
            case "narrow_stage":
                return architecture.with_width(self.stage, self.width)
            case "narrow_mlp":
                return architecture.with_expansion(self.stage, self.position, self.expansion)
            case "change_activation":
                return dataclasses.replace(architecture, activation=self.activation)
            case "change_stem":
                return dataclasses.replace(architecture, stem=self.stem)
            case "shrink_input":
                return architecture.with_input_size(self.input_size)
            case "several":
                for part in self.parts:
                    architecture = part.apply(architecture)
                return architecture

    def to_json(self) -> dict[str, Any]:
        """As a part of a journal line; what the action has nothing of is left out."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        empty = {field.name: field.default for field in dataclasses.fields(self)}
        document = {key: value for key, value in fields.items() if value != empty[key]}
        return document | ({"parts": [part.to_json() for part in self.parts]} if self.parts else {})

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Action:
        """The action of a journal line."""
        fields: dict[str, Any] = {**document, "parts": tuple(map(cls.from_json, document.get("parts", ())))}
        return cls(**fields)

    def __str__(self) -> str:
        block = f"block {self.position} of stage {self.stage + 1}"
        match self.kind:
            case "remove_block":
                return f"remove {block}"
            case "remove_attention":
                return f"{block}: attention → {_NAMES[self.block or 'pool']}"
            case "replace_block":
                return f"{block}: → {_NAMES[self.block]}"
            case "narrow_stage":
                return f"narrow stage {self.stage + 1} to {self.width}"
            case "narrow_mlp":
                return f"{block}: expansion {self.expansion}"
            case "change_activation":
                return f"activation {self.activation}"
            case "change_stem":
                return f"stem → {_NAMES[self.stem]}"
            case "shrink_input":
                return f"images of {self.input_size}×{self.input_size}"
            case "several":
                return "; ".join(map(str, self.parts))


_NAMES = {
    "pool": "pooling",
    "ffn": "unified FFN",
    "attention": "attention",
    "stem": "two 3×3 convolutions",
    "stem_patch": "patches of 4×4",
}


def difference(before: Architecture, after: Architecture) -> Action:
    """What leads from one network of a space to another, as one action of several parts."""
    parts: list[Action] = []
    for stage, (old, new) in enumerate(zip(before.stages, after.stages, strict=True)):
        if old.width != new.width:
            parts.append(Action("narrow_stage", stage, width=new.width))
        for position, (was, block) in enumerate(zip(old.blocks, new.blocks, strict=True)):
            if block.kind != was.kind:
                parts.append(_exchange(stage, position, block.kind))
            if block.expansion != was.expansion:
                parts.append(Action("narrow_mlp", stage, position, expansion=block.expansion))
    if before.activation != after.activation:
        parts.append(Action("change_activation", -1, activation=after.activation))
    if before.stem != after.stem:
        parts.append(Action("change_stem", -1, stem=after.stem))
    if before.input_size != after.input_size:
        parts.append(Action("shrink_input", -1, input_size=after.input_size[0]))
    return Action("several", -1, parts=tuple(parts))


def _exchange(stage: int, position: int, kind: str) -> Action:
    if kind == IDENTITY:
        return Action("remove_block", stage, position)
    return Action("replace_block", stage, position, block=kind)


def candidates(
    architecture: Architecture,
    importance: Importance,
    space: SearchSpace,
    allowed: tuple[ActionKind, ...] = ACTIONS,
) -> list[list[Action]]:
    """What can be done next: for each kind of action, its actions in order of preference.

    The paper takes the first of each kind; the ones behind it matter only where the first saves no time
    (a narrower stage can cost as much as a wider one).

    Args:
        architecture: where the search stands, identities in place.
        importance: of positions and stages.
        space: what can be searched; it says which actions there are.
        allowed: the kinds of action to consider.
    """
    found = [list(_FINDERS[kind](architecture, importance, space)) for kind in allowed]
    return [actions for actions in found if actions]


def _alive(architecture: Architecture, stage: int) -> list[int]:
    blocks = architecture.stages[stage].blocks
    return [position for position, block in enumerate(blocks) if block.kind != IDENTITY]


def _ranked(
    architecture: Architecture, importance: Importance, *, least: int = 0
) -> list[tuple[float, int, int]]:
    """(importance, stage, position) of the blocks of stages with more than `least`, the least first."""
    return sorted(
        (importance.positions[stage][position], stage, position)
        for stage in range(4)
        if len(alive := _alive(architecture, stage)) > least
        for position in alive
    )


def _removals(architecture: Architecture, importance: Importance, space: SearchSpace) -> Iterator[Action]:
    for score, stage, position in _ranked(architecture, importance, least=space.min_depth):
        yield Action("remove_block", stage, position, importance=score)


def _attention(architecture: Architecture, _: Importance, space: SearchSpace) -> Iterator[Action]:
    for stage, blocks in enumerate(stage.blocks for stage in architecture.stages):
        for position, block in enumerate(blocks):
            if block.kind == "attention":  # the first only: attention stays at the end of the network
                for kind in space.map_kinds:
                    yield Action("remove_attention", stage, position, block="" if kind == "pool" else kind)
                return


def _narrowings(architecture: Architecture, importance: Importance, space: SearchSpace) -> Iterator[Action]:
    scored = sorted((importance.stage(stage, _alive(architecture, stage)), stage) for stage in range(4))
    for score, stage in scored:
        for width in space.widths(stage):
            if width < architecture.widths[stage]:
                yield Action("narrow_stage", stage, width=width, importance=score)


def _replacements(architecture: Architecture, importance: Importance, space: SearchSpace) -> Iterator[Action]:
    for score, stage, position in _ranked(architecture, importance):
        kind = architecture.stages[stage].blocks[position].kind
        if kind in space.map_kinds:
            for cheaper in space.map_kinds[space.map_kinds.index(kind) + 1 :]:
                yield Action("replace_block", stage, position, importance=score, block=cheaper)


def _mlps(architecture: Architecture, importance: Importance, space: SearchSpace) -> Iterator[Action]:
    for score, stage, position in _ranked(architecture, importance):
        now = architecture.stages[stage].blocks[position].expansion
        for expansion in space.expansions_of(stage, position):
            if expansion < now:
                yield Action("narrow_mlp", stage, position, importance=score, expansion=expansion)


def _activations(architecture: Architecture, _: Importance, space: SearchSpace) -> Iterator[Action]:
    if architecture.activation == space.largest.activation:
        for activation in space.activations:
            if activation != architecture.activation:
                yield Action("change_activation", -1, activation=activation)


def _stems(architecture: Architecture, _: Importance, space: SearchSpace) -> Iterator[Action]:
    if architecture.stem == space.largest.stem:
        for stem in space.every_stem[1:]:
            yield Action("change_stem", -1, stem=stem)


def _inputs(architecture: Architecture, _: Importance, space: SearchSpace) -> Iterator[Action]:
    for side in sorted(space.input_sizes, reverse=True):
        if side < architecture.input_size[0]:
            yield Action("shrink_input", -1, input_size=side)


_FINDERS: dict[ActionKind, Callable[[Architecture, Importance, SearchSpace], Iterator[Action]]] = {
    "remove_block": _removals,
    "remove_attention": _attention,
    "narrow_stage": _narrowings,
    "replace_block": _replacements,
    "narrow_mlp": _mlps,
    "change_activation": _activations,
    "change_stem": _stems,
    "shrink_input": _inputs,
}
