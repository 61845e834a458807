import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from efficientformer.architecture import Architecture, Block, Stage
from efficientformer.latency.target import Target
from efficientformer.search.journal import Journal, Option, Start, Step
from efficientformer.search.space.actions import Action
from tests.pipeline import simulated

STAGES = ((16, "pp"), (16, "pp"), (32, "pa"), (48, "aa"))
KINDS = {"p": "pool", "a": "attention"}
LARGEST = Architecture(
    tuple(Stage(width, tuple(Block(KINDS[kind]) for kind in blocks)) for width, blocks in STAGES),
    input_size=(64, 64),
    num_classes=3,
    distilled=False,
)
ACTIONS = (
    Action("remove_attention", 2, 1),
    Action("remove_block", 1, 0, importance=0.5),
    Action("narrow_stage", 3, width=32, importance=1.25),
    Action("remove_attention", 3, 0),
)
Events = tuple[Action | tuple[int, float, float, float], ...]
"""Actions, and checks as (place, predicted, measured, new scale)."""


def option(action: Action, predicted_ms: float, accuracy: float, drop: float) -> Option:
    return Option(action, predicted_ms, 0.1, accuracy, 0.2, drop)


def write_journal(path: Path, events: Events, largest: Architecture = LARGEST) -> list[Architecture]:
    """A journal whose step n was predicted at 2 − n/10 ms; the networks of its path."""
    journal = Journal(path)
    journal.begin(Start(largest, 2.0, 0.9, 0.4, 200))
    for event in events:
        here, index = journal.architectures()[-1], len(journal.steps) + 1
        if isinstance(event, Action):
            other = option(Action("narrow_stage", 0, width=8, importance=2.0), 1.95, 0.1, 0.8)
            chosen = option(event, 2.0 - index / 10, 0.9 - index / 100, 0.01)
            journal.add(Step(index, chosen, (other,), event.apply(here)))
        else:
            place, predicted_ms, measured_ms, scale = event
            measured = simulated.receipt("network", Target(), measured_ms)
            journal.verify(journal.architectures()[place], predicted_ms, measured, scale)
    return journal.architectures()


def receipt(median_ms: float, verdict: str = "stable") -> dict[str, Any]:
    samples = [median_ms * (0.95 + index / 200) for index in range(21)]
    return {
        "median_ms": median_ms,
        "p10_ms": samples[2],
        "p90_ms": samples[18],
        "interval_ms": [samples[8], samples[12]],
        "samples": len(samples),
        "verdict": verdict,
        "samples_ms": samples,
        "load": 0.1,
    }


def layers(network: Architecture) -> list[dict[str, Any]]:
    return [
        {"name": name, "kind": layer.kind, "layer": str(layer), "table_ms": 0.01 * (index + 1)}
        for index, (name, layer) in enumerate(network.named_layers())
    ]


def score(top1: float) -> dict[str, Any]:
    return {"top1": top1, "loss": 0.3, "images": 150, "interval": [top1 - 0.04, top1 + 0.03]}


def job() -> dict[str, Any]:
    return {
        "data": "/home/somebody/secret place/flowers",
        "budget": "2ms",
        "target": "onnxruntime:cpu:threads=1:precision=fp32",
        "input_size": 64,
        "learning_rate": 0.002,
        "augmentation": {"min_area": 0.7, "flip": False},
        "temperature": {"start": 2.0, "end": 0.2, "noise": "gumbel"},
        "train_unslimmed": False,
        "seed": 0,
    }


def summary(found: Architecture, largest: Architecture) -> dict[str, Any]:
    contenders = {"slimmed": 1.5, "unslimmed": 3.0, "timm/mobilenetv2_100": 2.0}
    return {
        "format": "efficientformer.summary/1",
        "version": "0.1.0",
        "date": "2026-03-04T05:06:07+00:00",
        "budget_ms": 2.0,
        "budget": "2ms",
        "predicted_ms": 1.6,
        "predicted_plus_minus_ms": 0.05,
        "measured_ms": 1.5,
        "samples": 21,
        "verdict": "stable",
        "target": "onnxruntime:cpu:threads=1:precision=fp32",
        "fingerprint": {"processor": "A processor", "cores": "2", "system": "Linux", "runtime": "ort 1"},
        "top1": 0.9,
        "images": 150,
        "params": found.params,
        "macs": found.macs,
        "seed": 0,
        "architecture": str(found.compact()),
        "accuracy": {
            "unslimmed, supernet weights": score(0.91),
            "unslimmed, trained": None,
            "slimmed, supernet weights": score(0.85),
            "slimmed, trained": score(0.9),
        },
        "contenders": [
            {"name": name, "params": 1234567, "macs": 7654321, "latency": receipt(median_ms)}
            for name, median_ms in contenders.items()
        ],
        "artefact": {
            "path": "model.onnx",
            "size_bytes": 54321,
            "max_difference": 4.6e-7,
            "images": 64,
            "agreement": 1.0,
        },
        "preprocessing": {
            "resize": 73,
            "crop": 64,
            "interpolation": "bicubic",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        "classes": ["ash", "<b>bold</b>", "cedar & co"],
        "data": {"train": 700, "search": 200, "val": 150, "unreadable": []},
        "layers": {"slimmed": layers(found), "unslimmed": layers(largest)},
        "job": job(),
    }


Change = Callable[[dict[str, Any]], object]
MakeRun = Callable[..., Path]


def build_run(
    run: Path, events: Events = ACTIONS, chosen: int = -1, change: Change = lambda summary: None
) -> Path:
    """A finished run's folder.

    `events` go into the journal, `chosen` is the place of the network found (the last by default), and
    `change` may alter the summary before it is written.
    """
    path = write_journal(run / "journal.jsonl", events)
    document = summary(path[chosen], LARGEST)
    change(document)
    (run / "summary.json").write_text(json.dumps(document))
    preflight = {"greatest": receipt(3.1), "least": receipt(0.4)}
    (run / "preflight.json").write_text(json.dumps(preflight))
    return run


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    return partial(build_run, tmp_path / "run")


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("plain") / "run")
