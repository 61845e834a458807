"""The journal of a search: one JSON line a step, with what was turned down. It replays, resumes, branches.

A line is on disk before the next step begins; a line cut short by a crash is dropped on reading.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.files import JsonLines, write_atomically
from efficientformer.latency.measurement import Measurement
from efficientformer.search.measured import Measured
from efficientformer.search.space.actions import difference
from efficientformer.search.steps import FORMAT, Found, Option, Start, Step

__all__ = ["Found", "Journal", "Option", "Start", "Step", "branch", "replay", "step_of", "tell"]


class Journal:
    """A search so far: its start, its steps in order, and the networks of its path that were measured.

    Args:
        path: the file; it need not exist yet.

    Attributes:
        measured: what networks of the path took.
        found: what policies came to, in the order they were run.

    Raises:
        InputError: if the file is no journal, or a whole line of it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start: Start | None = None
        self.steps: list[Step] = []
        self.measured = Measured()
        self.found: list[Found] = []
        self._lines = JsonLines(path)
        for line in self._whole_lines():
            if line.get("event") == "start":
                self.start = Start.from_json(line)
            elif line.get("event") == "step":
                self.steps.append(Step.from_json(line))
            elif line.get("event") == "verified":
                architecture = Architecture.from_json(line["architecture"])
                took = (line["predicted_ms"], line["measured_ms"], line["scale"], line.get("untrained_ms"))
                self.measured.learn(architecture, *took)
            elif line.get("event") == "scale":
                self.measured.scale = line["scale"]
            elif line.get("event") == "missed":
                self._forget()
            elif line.get("event") == "found":
                self.found.append(Found.from_json(line))

    def _whole_lines(self) -> list[dict[str, Any]]:
        try:
            lines = self._lines.read()
            if lines and lines[0].get("format") != FORMAT:
                raise InputError(f"{self.path}: is no journal of {FORMAT}")
        except (ValueError, AttributeError) as error:
            raise InputError(f"{self.path}: damaged ({error}); remove it to search again") from None
        return lines

    def _believed_lines(self) -> list[dict[str, Any]]:
        """All but what was measured before a budget was missed."""
        lines = self._whole_lines()
        missed = max((index for index, line in enumerate(lines) if line.get("event") == "missed"), default=0)
        return [line for line in lines[:missed] if line.get("event") != "verified"] + lines[missed:]

    def begin(self, start: Start) -> None:
        """Write the start."""
        self.start = start
        self._write(start.to_json())

    def add(self, step: Step) -> None:
        """Write a step, with the scale that the table has meanwhile."""
        step = dataclasses.replace(step, scale=self.measured.scale)
        self.steps.append(step)
        self._write(step.to_json())

    def conclude(self, found: Found) -> None:
        """Write what a policy came to, unless it is what was written last."""
        if self.found[-1:] != [found]:
            self.found.append(found)
            self._write(found.to_json())

    def verify(
        self,
        architecture: Architecture,
        predicted_ms: float,
        measured: Measurement,
        scale: float,
        untrained_ms: float | None = None,
    ) -> None:
        """Write what a network of the path took when it was measured, and the table's new scale.

        Args:
            architecture: the network.
            predicted_ms: what the table said before.
            measured: the receipt, of the trained network's file or of one with random weights.
            scale: the table's, by the receipt.
            untrained_ms: for a trained network's file, what one with random weights took in the same run.
        """
        self.measured.learn(architecture, predicted_ms, measured.median_ms, scale, untrained_ms)
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
                **({} if untrained_ms is None else {"untrained_ms": untrained_ms}),
            }
        )

    def rescale(self, architecture: Architecture, predicted_ms: float, scale: float) -> None:
        """Write the table's scale, set anew after a network without measuring it, and what it predicts."""
        if scale != self.measured.scale:
            self.measured.scale = scale
            line = {"event": "scale", "predicted_ms": predicted_ms, "scale": scale}
            self._write({**line, "architecture": architecture.to_json()})

    def miss(self, budget_ms: float) -> None:
        """Write that a budget was missed: what was measured then is not believed by a later start."""
        self._forget()
        self._write({"event": "missed", "budget_ms": budget_ms})

    def _forget(self) -> None:
        self.measured, self.found = Measured(), []

    def found_in(self, low_ms: float, high_ms: float) -> list[Found]:
        """What was found for a window of latencies, in that order."""
        return [one for one in self.found if (one.low_ms, one.high_ms) == (low_ms, high_ms)]

    def _write(self, event: dict[str, Any]) -> None:
        """Append one line and see it on disk."""
        self._lines.append([event])

    def architectures(self) -> list[Architecture]:
        """The path of the search: the start and what each step led to."""
        if self.start is None:
            return []
        return [self.start.architecture, *(step.architecture for step in self.steps)]


def branch(journal: Journal, step: int, path: Path) -> Journal:
    """The beginning of a search as a journal of its own, to be continued under another budget.

    Args:
        journal: of the search to begin like.
        step: the last step to take over; 0 for the start alone.
        path: the new journal's file. Measurements of networks up to that step are taken over too.

    Raises:
        InputError: if the journal has no such step, or the file exists.
    """
    if journal.start is None or not 0 <= step <= len(journal.steps):
        raise InputError(f"{journal.path}: has {len(journal.steps)} steps; there is no step {step}")
    if path.exists():
        raise InputError(f"{path}: exists already; give another file for the new search")
    kept = {journal.start.architecture, *(one.architecture for one in journal.steps[:step])}
    lines = [line for line in Journal(journal.path)._believed_lines() if _is_before(line, step, kept)]
    write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return Journal(path)


def tell(journal: Journal, found: Found, path: Path) -> Journal:
    """How a search came to one network, as a journal that replays to it.

    The steps of the search's path to the network nearest to it, and what leads from there as one more step.

    Args:
        journal: of the search.
        found: what it found.
        path: the new journal's file; written over.
    """
    if journal.start is None:
        raise InputError(f"{journal.path}: holds no search")
    steps = [difference(one, found.architecture) for one in journal.architectures()]
    nearest = min(range(len(steps)), key=lambda index: (len(steps[index].parts), -index))
    path.unlink(missing_ok=True)
    told, last = branch(journal, nearest, path), journal.start
    if nearest:
        last = journal.steps[nearest - 1].chosen
    if steps[nearest].parts:
        its = [line for line in journal._believed_lines() if _is_check_of(found.architecture, line)]
        before = (journal.steps[nearest - 1].scale if nearest else None) or 1.0
        predicted, scale = found.predicted_ms, before
        if its:  # a check's new scale makes prediction and measurement equal: it tells the old one, too
            predicted, scale = its[0]["predicted_ms"], _scale_before(its[0])
        saved = last.predicted_ms * scale / before - predicted
        option = Option(steps[nearest], predicted, saved, found.top1, found.loss, last.accuracy - found.top1)
        told.measured.scale = scale
        told.add(Step(nearest + 1, option, (), found.architecture))
        for line in its:
            told._write(line)
    return Journal(path)


def _is_check_of(architecture: Architecture, line: dict[str, Any]) -> bool:
    return line.get("event") == "verified" and line["architecture"] == architecture.to_json()


def _scale_before(line: dict[str, Any]) -> float:
    return line["predicted_ms"] * line["scale"] / line["measured_ms"]


def _is_before(line: dict[str, Any], step: int, kept: set[Architecture]) -> bool:
    match line.get("event"):
        case "step":
            return line["index"] <= step
        case "verified":
            return Architecture.from_json(line["architecture"]) in kept
        case event:
            return event == "start"


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
