"""The journal of a search: one JSON line a step, with the alternatives turned down. It replays and resumes.

A line is on disk before the next step begins; a line cut short by a crash is dropped on reading.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.latency.measurement import Measurement
from efficientformer.search.actions import Action

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

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Option:
        """The option of a journal line."""
        fields: dict[str, Any] = {**document, "action": Action.from_json(document["action"])}
        return cls(**fields)


@dataclass(frozen=True)
class Step:
    """One slimming action, chosen, with those turned down.

    Attributes:
        index: counted from 1.
        chosen: the option taken: the least accuracy drop per millisecond saved.
        turned_down: the others.
        architecture: what it led to, identities in place.
    """

    index: int
    chosen: Option
    turned_down: tuple[Option, ...]
    architecture: Architecture

    def to_json(self) -> dict[str, Any]:
        """As a journal line."""
        return {
            "event": "step",
            "index": self.index,
            "chosen": dataclasses.asdict(self.chosen),
            "turned_down": [dataclasses.asdict(option) for option in self.turned_down],
            "architecture": self.architecture.to_json(),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Step:
        """The step of a journal line."""
        return cls(
            document["index"],
            Option.from_json(document["chosen"]),
            tuple(Option.from_json(option) for option in document["turned_down"]),
            Architecture.from_json(document["architecture"]),
        )


@dataclass(frozen=True)
class Start:
    """Where the search begins.

    Attributes:
        architecture: the unslimmed network.
        predicted_ms: its latency, as the table had it.
        accuracy: on the search images, with inherited weights.
        loss: mean cross-entropy there.
        images: how many search images there are.
    """

    architecture: Architecture
    predicted_ms: float
    accuracy: float
    loss: float
    images: int

    def to_json(self) -> dict[str, Any]:
        """As a journal line."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"event": "start", "format": FORMAT, **fields, "architecture": self.architecture.to_json()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Start:
        """The start of a journal."""
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := sorted(set(names) - set(document)):
            raise InputError(f"journal: its start lacks {', '.join(missing)}")
        fields: dict[str, Any] = {name: document[name] for name in names}
        fields["architecture"] = Architecture.from_json(fields["architecture"])
        return cls(**fields)


class Journal:
    """A search so far: its start, its steps in order, and the networks of its path that were measured.

    Args:
        path: the file; it need not exist yet.

    Attributes:
        predicted: what the table said of networks of the path before they were first measured, in ms.
        verified: their medians when they were last measured, in ms.
        scale: the latency table's, as the last of them set it.

    Raises:
        InputError: if the file is no journal, or a whole line of it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start: Start | None = None
        self.steps: list[Step] = []
        self.predicted: dict[Architecture, float] = {}
        self.verified: dict[Architecture, float] = {}
        self.scale = 1.0
        self._whole_bytes = 0
        for line in self._whole_lines():
            if line.get("event") == "start":
                self.start = Start.from_json(line)
            elif line.get("event") == "step":
                self.steps.append(Step.from_json(line))
            elif line.get("event") == "verified":
                architecture = Architecture.from_json(line["architecture"])
                self.predicted.setdefault(architecture, line["predicted_ms"])
                self.verified[architecture] = line["measured_ms"]
                self.scale = line["scale"]

    def _whole_lines(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        self._whole_bytes = len(whole)
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            if lines and lines[0].get("format") != FORMAT:
                raise InputError(f"{self.path}: is no journal of {FORMAT}")
        except (ValueError, AttributeError) as error:
            raise InputError(f"{self.path}: damaged ({error}); remove it to search again") from None
        return lines

    def begin(self, start: Start) -> None:
        """Write the start."""
        self.start = start
        self._write(start.to_json())

    def add(self, step: Step) -> None:
        """Write a step."""
        self.steps.append(step)
        self._write(step.to_json())

    def verify(
        self, architecture: Architecture, predicted_ms: float, measured: Measurement, scale: float
    ) -> None:
        """Write what a network of the path took when it was measured, and the table's new scale."""
        self.predicted.setdefault(architecture, predicted_ms)
        self.verified[architecture], self.scale = measured.median_ms, scale
        self._write(
            {
                "event": "verified",
                "architecture": architecture.to_json(),
                "predicted_ms": predicted_ms,
                "measured_ms": measured.median_ms,
                "p10_ms": measured.p10_ms,
                "p90_ms": measured.p90_ms,
                "samples": len(measured.samples_ms),
                "verdict": measured.verdict,
                "date": measured.date,
                "scale": scale,
            }
        )

    def _write(self, event: dict[str, Any]) -> None:
        """Append one line and see it on disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = (json.dumps(event, ensure_ascii=False) + "\n").encode()
        with self.path.open("ab") as file:
            file.truncate(self._whole_bytes)  # a last line that was cut short goes
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._whole_bytes += len(line)

    def architectures(self) -> list[Architecture]:
        """The path of the search: the start and what each step led to."""
        if self.start is None:
            return []
        return [self.start.architecture, *(step.architecture for step in self.steps)]


def replay(journal: Journal) -> list[Architecture]:
    """Apply the journal's actions to its start, one after the other; the path, the start first.

    Raises:
        InputError: if the journal is empty, or an action does not lead where its line says.
    """
    if journal.start is None:
        raise InputError(f"{journal.path}: holds no search, or does not exist; give a run's folder")
    path = [journal.start.architecture]
    for step in journal.steps:
        path.append(step.chosen.action.apply(path[-1]))
        if path[-1] != step.architecture:
            raise InputError(f"{journal.path}: step {step.index} does not lead to the architecture it names")
    return path


def step_of(found: Architecture, path: list[Architecture], journal: Journal) -> int:
    """Which step of a replayed path a compact architecture is; 0 is the start.

    Raises:
        InputError: if it is none of them.
    """
    for step, architecture in enumerate(path):
        if architecture.compact() == found:
            return step
    raise InputError(f"{journal.path}: does not lead to {found}; are the two of the same run?")
