"""What a journal's lines hold: a search's start, its steps with what was turned down, what a policy found."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.search.space.actions import Action

FORMAT = "efficientformer.journal/1"


@dataclass(frozen=True)
class Option:
    """An action and what it would do.

    Attributes:
        action: what is done.
        predicted_ms: the network's latency after it, as the table had it at the time.
        saved_ms: how much less that is than before.
        accuracy: on the search images, with inherited weights; between 0 and 1.
        loss: mean cross-entropy there.
        drop: accuracy before it less accuracy after.
    """

    action: Action
    predicted_ms: float
    saved_ms: float
    accuracy: float
    loss: float
    drop: float

    def to_json(self) -> dict[str, Any]:
        """As a part of a journal line."""
        return {**dataclasses.asdict(self), "action": self.action.to_json()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Option:
        """The option of a journal line."""
        fields: dict[str, Any] = {**document, "action": Action.from_json(document["action"])}
        return cls(**fields)

    def __str__(self) -> str:
        drop, score = 100 * self.drop, self.action.importance
        importance = f", importance {score:.3g}" if score else ""
        return f"{self.action} (saves {self.saved_ms:.3f} ms, {-drop:+.1f} points{importance})"


@dataclass(frozen=True)
class Step:
    """One slimming action, chosen, with those turned down.

    Attributes:
        index: counted from 1.
        chosen: the option taken: the least accuracy drop per millisecond saved.
        turned_down: the others.
        architecture: what it led to, identities in place.
        skipped: the actions preferred to those by importance, which saved too little to count.
        scale: the latency table's when it was predicted; none in journals of version 0.1.
    """

    index: int
    chosen: Option
    turned_down: tuple[Option, ...]
    architecture: Architecture
    skipped: tuple[Action, ...] = ()
    scale: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As a journal line."""
        return {
            "event": "step",
            "index": self.index,
            "chosen": self.chosen.to_json(),
            "turned_down": [option.to_json() for option in self.turned_down],
            "architecture": self.architecture.to_json(),
            "skipped": [action.to_json() for action in self.skipped],
            "scale": self.scale,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Step:
        """The step of a journal line."""
        return cls(
            document["index"],
            Option.from_json(document["chosen"]),
            tuple(Option.from_json(option) for option in document["turned_down"]),
            Architecture.from_json(document["architecture"]),
            tuple(map(Action.from_json, document.get("skipped", ()))),  # runs of version 0.1 lack them
            document.get("scale"),
        )

    @property
    def brief(self) -> str:
        """What was done, without the alternatives."""
        one = self.chosen
        return f"step {self.index}: {one} → {one.predicted_ms:.3f} ms, accuracy {100 * one.accuracy:.1f} %"

    def __str__(self) -> str:
        told = self.brief
        if self.turned_down:
            told += f"; turned down: {', '.join(map(str, self.turned_down))}"
        if self.skipped:
            told += f"; saves too little: {', '.join(map(str, self.skipped))}"
        return told


@dataclass(frozen=True)
class Start:
    """Where the search begins.

    Attributes:
        architecture: the unslimmed network.
        predicted_ms: its latency, as the table had it.
        accuracy: on the search images, with inherited weights.
        loss: mean cross-entropy there.
        images: how many search images there are.
        policy: that searches.
    """

    architecture: Architecture
    predicted_ms: float
    accuracy: float
    loss: float
    images: int
    policy: str = "greedy"

    def to_json(self) -> dict[str, Any]:
        """As a journal line."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"event": "start", "format": FORMAT, **fields, "architecture": self.architecture.to_json()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Start:
        """The start of a journal."""
        document = {"policy": "greedy", **document}  # runs of version 0.1 lack it
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := sorted(set(names) - set(document)):
            raise InputError(f"journal: its start lacks {', '.join(missing)}")
        fields: dict[str, Any] = {name: document[name] for name in names}
        fields["architecture"] = Architecture.from_json(fields["architecture"])
        return cls(**fields)


@dataclass(frozen=True)
class Found:
    """What a policy came to.

    Attributes:
        policy: its name.
        architecture: the network, identities in place.
        predicted_ms: its latency by the table.
        top1: accuracy on the search images, with inherited weights; between 0 and 1.
        loss: mean cross-entropy there.
        images: how many search images there are.
        evaluations: how many networks the policy had scored, this one and the largest included; those scored
            to move it into another window added.
        in_window: whether its latency lies in the window that was asked for.
        low_ms: the window's least latency; 0 for none.
        high_ms: its most.
        searched: whether the policy had a window to search; not, if this one was all there was to take.
    """

    policy: str
    architecture: Architecture
    predicted_ms: float
    top1: float
    loss: float
    images: int
    evaluations: int
    in_window: bool
    low_ms: float
    high_ms: float
    searched: bool = True

    def to_json(self) -> dict[str, Any]:
        """As a journal line."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"event": "found", **fields, "architecture": self.architecture.to_json()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Found:
        """The result of a journal line."""
        document = {"searched": True, **document}  # runs of version 0.1 lack it
        fields: dict[str, Any] = {field.name: document[field.name] for field in dataclasses.fields(cls)}
        fields["architecture"] = Architecture.from_json(document["architecture"])
        return cls(**fields)

    def __str__(self) -> str:
        where = "" if self.in_window else f", outside of {self.low_ms:.3f} to {self.high_ms:.3f} ms"
        return (
            f"{self.policy}: {self.architecture.compact()} · {self.predicted_ms:.3f} ms predicted{where} · "
            f"accuracy {100 * self.top1:.1f} % of {self.images} images, loss {self.loss:.4f} · "
            f"{self.evaluations} networks scored"
        )
