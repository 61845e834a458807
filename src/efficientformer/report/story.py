"""A run's files as the plain values the page shows. Figures are taken over as they are, none is made here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientformer.errors import InputError
from efficientformer.files import read_json
from efficientformer.report.blocks import StageStory, stage_stories
from efficientformer.report.layers import LayerGroup, layer_groups
from efficientformer.report.receipt import Concern, concerns, repeat_command, shown_files
from efficientformer.report.trail import Trail, read_trail

FORMAT = "efficientformer.summary/1"
_TITLES = {"slimmed": "Slimmed", "unslimmed": "Unslimmed", "timm/mobilenetv2_100": "MobileNetV2"}
_NOTES = {
    "slimmed": "the exported file, trained",
    "unslimmed": "where the search began; timed with random weights",
}


@dataclass(frozen=True)
class Accuracy:
    """One accuracy on the validation images, with what it rests on; a share between 0 and 1."""

    name: str
    top1: float
    interval: tuple[float, float]
    images: int


@dataclass(frozen=True)
class Contender:
    """One network of the final interleaved run.

    Attributes:
        name: as the summary has it.
        title: for people.
        note: what was timed.
        params: learned parameters.
        macs: multiply-accumulates for one image.
        ratio: its median over the peer's; none if there is no peer.
        accuracy: if it was trained.
        median_ms: the latency.
        p10_ms: one sample in ten is faster.
        p90_ms: one in ten is slower.
        interval_ms: 95 % interval of the median.
        verdict: how far the median can be trusted.
        samples_ms: all of them.
        load: the machine's load average when it was done.
    """

    name: str
    title: str
    note: str
    params: int
    macs: int
    ratio: float | None
    accuracy: Accuracy | None
    median_ms: float
    p10_ms: float
    p90_ms: float
    interval_ms: tuple[float, float]
    verdict: str
    samples_ms: tuple[float, ...]
    load: float


@dataclass(frozen=True)
class Story:
    """Everything the page shows.

    `preflight` is of the precision that the network runs in, `asked` of the target that was asked for: the
    same, unless the run chose another precision.
    """

    name: str
    summary: dict[str, Any]
    preflight: dict[str, Any]
    asked: dict[str, Any]
    contenders: tuple[Contender, ...]
    accuracies: tuple[tuple[str, Accuracy | None], ...]
    trail: Trail
    stages: tuple[StageStory, ...]
    layers: tuple[LayerGroup, ...]
    concerns: tuple[Concern, ...]
    command: str
    unreadable: tuple[str, ...]

    @property
    def slimmed(self) -> Contender:
        """The network found."""
        return self.contenders[0]

    @property
    def unslimmed(self) -> Contender:
        """Where the search began."""
        return self.contenders[1]

    @property
    def peer(self) -> Contender | None:
        """The network of others that was timed beside them."""
        return self.contenders[2] if len(self.contenders) > 2 else None

    @property
    def met(self) -> bool:
        """Whether the measured median is within the budget and its tolerance."""
        limit = self.summary["budget_ms"] * (1 + self.summary.get("tolerance", 0.0))
        return self.summary["measured_ms"] <= limit

    @property
    def accuracy_floor(self) -> float:
        """Where the drawn scale of accuracies begins: a little below the lowest interval."""
        return min((one.interval[0] - 0.005 for _, one in self.accuracies if one), default=0.0)

    @property
    def data_name(self) -> str:
        """The folder of images by its last name: where it lies is nobody else's business."""
        return Path(self.summary["job"]["data"]).name


def read_story(run: Path) -> Story:
    """The story of a finished run.

    Raises:
        InputError: if the folder holds no finished run, or a file of it is damaged or of another version.
    """
    summary = _read(run, "summary.json")
    if str(summary.get("format")).startswith("efficientformer.training/"):
        raise InputError(
            f"{run}: is a training; pages are of runs of slim. Its log is log.jsonl and tensorboard/"
        )
    if summary.get("format") != FORMAT:
        raise InputError(
            f"{run / 'summary.json'}: is no summary of {FORMAT}; run `efficientformer slim` anew"
        )
    asked = _read(_home(run), "preflight.json")
    if not (run / "journal.jsonl").exists():
        raise _unfinished(run, "journal.jsonl")
    try:
        return _story(run, summary, asked)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(
            f"{run}: a value is missing or of the wrong type ({error!r}); was it made by another version?"
        ) from error


def _home(run: Path) -> Path:
    """The run's folder; of several budgets each network has a folder in it."""
    above = run.resolve().parent
    return above if not (run / "preflight.json").exists() and (above / "preflight.json").exists() else run


def _preflight(run: Path, summary: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """What was possible in the precision that was taken."""
    if summary["target"] == summary["job"]["target"]:
        return asked
    return _read(_home(run), f"preflight-{summary['precisions'][0]['precision']}.json")


def _read(run: Path, name: str) -> dict[str, Any]:
    path = run / name
    if not path.is_file():
        raise _unfinished(run, name)
    try:
        document = read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: damaged ({error}); remove it and start the run's command again") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: damaged (no JSON object); remove it and start the run's command again")
    return document


def _unfinished(run: Path, name: str) -> InputError:
    what = "holds no finished run" if run.is_dir() else "no such folder"
    return InputError(
        f"{run}: {what} ({name} is missing); give the folder of a run that `efficientformer slim` finished"
    )


def _story(run: Path, summary: dict[str, Any], asked: dict[str, Any]) -> Story:
    job, trail = summary["job"], read_trail(run / "journal.jsonl", summary["architecture"])
    preflight = _preflight(run, summary, asked)
    accuracies = {name: _accuracy(name, figures) for name, figures in summary["accuracy"].items()}
    return Story(
        run.resolve().name,
        summary,
        preflight,
        asked,
        _contenders(summary["contenders"], accuracies),
        tuple(accuracies.items()),
        trail,
        stage_stories(trail),
        layer_groups(summary["layers"]),
        tuple(concerns(summary, preflight, trail)),
        repeat_command(job),
        tuple(shown_files(summary["data"]["unreadable"], Path(job["data"]))),
    )


def _accuracy(name: str, figures: dict[str, Any] | None) -> Accuracy | None:
    if figures is None:
        return None
    low, high = figures["interval"]
    return Accuracy(name, figures["top1"], (low, high), figures["images"])


def _contenders(rows: list[dict[str, Any]], known: dict[str, Accuracy | None]) -> tuple[Contender, ...]:
    """Slimmed, unslimmed, then the peer all are compared with."""
    order = {"slimmed": 0, "unslimmed": 1}
    rows = sorted(rows, key=lambda row: order.get(row["name"], 2))
    peer_ms = rows[2]["latency"]["median_ms"] if len(rows) > 2 else None
    return tuple(_contender(row, _final(row["name"], known), peer_ms) for row in rows)


def _final(name: str, known: dict[str, Accuracy | None]) -> Accuracy | None:
    """A contender's accuracy: of its exported file where that was scored, or else of the trained network."""
    scored = [one for key, one in known.items() if key.startswith(f"{name}, exported in ")]
    return scored[0] if scored else known.get(f"{name}, trained")


def _contender(row: dict[str, Any], accuracy: Accuracy | None, peer_ms: float | None) -> Contender:
    name, latency = row["name"], row["latency"]
    low, high = latency["interval_ms"]
    return Contender(
        name,
        _TITLES.get(name, name),
        _NOTES.get(name, f"{name}; not trained, timed with random weights"),
        row["params"],
        row["macs"],
        latency["median_ms"] / peer_ms if peer_ms else None,
        accuracy,
        latency["median_ms"],
        latency["p10_ms"],
        latency["p90_ms"],
        (low, high),
        latency["verdict"],
        tuple(latency["samples_ms"]),
        latency.get("conditions", latency)["load"],  # format 1 had it beside the rest
    )
