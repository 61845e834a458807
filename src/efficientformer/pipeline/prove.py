"""The proof: the exported file, checked against PyTorch, timed beside its peers, and one summary of all."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from efficientformer.architecture import Architecture
from efficientformer.data.batches import cached_side, evaluation_batches
from efficientformer.data.images import Images
from efficientformer.data.sources.folder import Split
from efficientformer.evaluation.score import evaluate
from efficientformer.latency.artefact import Artefact, export
from efficientformer.latency.bench import time_entries
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.subjects import count_macs, peer
from efficientformer.latency.table import LatencyTable, Prediction
from efficientformer.latency.target import Target
from efficientformer.latency.untrained import untrained
from efficientformer.model.network import EfficientFormer
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.job import TOLERANCE, Job
from efficientformer.pipeline.preflight import Plan
from efficientformer.pipeline.slim_training import Judge
from efficientformer.runtimes import RUNTIMES

PEER = "timm/mobilenetv2_100"
CHECKED_IMAGES = 64


@dataclass(frozen=True)
class Contender:
    """One row of the final table.

    Attributes:
        name: `slimmed`, `unslimmed`, or the peer's.
        params: learned parameters of the trained form.
        macs: multiply-accumulates for one image.
        latency: its receipt; all rows come from one interleaved run.
    """

    name: str
    params: int
    macs: int
    latency: Measurement

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return {**dataclasses.asdict(self), "latency": self.latency.to_json()}


@dataclass(frozen=True)
class Proof:
    """The exported file's check and the run that timed it beside the others."""

    artefact: Artefact
    slimmed: Contender
    others: tuple[Contender, ...]


def prove(network: EfficientFormer, folder: RunFolder, plan: Plan, target: Target, val: Images) -> Proof:
    """Export the trained network, compare it with PyTorch on validation images, and time it beside others.

    The others, in the same interleaved run: the unslimmed network and MobileNetV2, with random weights.

    Raises:
        ExportMismatchError: if the file does not compute what the network does.
    """
    found, path = network.architecture, folder.file("model" + RUNTIMES[target.runtime].suffix)
    images, _ = next(evaluation_batches(val.sample(CHECKED_IMAGES), found.input_size[0]))
    artefact = export(network, path, target, images)
    image = (found.in_channels, *found.input_size)
    unslimmed = plan.space.largest
    mobilenet, _ = peer(PEER, num_classes=found.num_classes)
    entries = {"slimmed": path, "unslimmed": (untrained(unslimmed), image), PEER: (mobilenet, image)}
    sizes = {
        "slimmed": (found.params, found.macs),
        "unslimmed": (unslimmed.params, unslimmed.macs),
        PEER: (sum(p.numel() for p in mobilenet.parameters()), count_macs(mobilenet, image)),
    }
    receipts = time_entries(entries, target, rounds=21, seconds=4.0, min_samples=100)
    slimmed, *others = (Contender(name, *sizes[name], receipt) for name, receipt in receipts.items())
    return Proof(artefact, slimmed, tuple(others))


def quick_receipt(architecture: Architecture, target: Target) -> Measurement:
    """A network's latency before it is worth training: exported with random weights and timed alone."""
    image = (architecture.in_channels, *architecture.input_size)
    name = str(architecture)
    return time_entries({name: (untrained(architecture.compact()), image)}, target)[name]


@dataclass(frozen=True)
class Result:
    """What a run came to, to be summarised.

    Attributes:
        found: the architecture, its identities in place.
        predicted: what the table said of it before it was first measured.
        network: trained.
        unslimmed: trained by the same recipe, if that was asked for.
        proof: the exported file's.
    """

    found: Architecture
    predicted: Prediction
    network: EfficientFormer
    unslimmed: EfficientFormer | None
    proof: Proof


def summarise(
    job: Job, plan: Plan, split: Split, judge: Judge, rows: LatencyTable, result: Result
) -> dict[str, Any]:
    """Every figure of the run, each with its receipt or its number of images."""
    trained = evaluate(result.network, judge.images.val, judge.side)
    return {
        "format": "efficientformer.summary/1",
        "version": importlib.metadata.version("efficientformer"),
        **_latency(job, plan, result),
        "top1": trained.top1,
        "images": trained.images,
        "params": result.proof.slimmed.params,
        "macs": result.proof.slimmed.macs,
        "seed": job.seed,
        "architecture": str(result.found.compact()),
        "unslimmed_architecture": str(plan.space.largest),
        "accuracy": {**_accuracy(judge, plan, result), "slimmed, trained": trained.to_json()},
        "contenders": [one.to_json() for one in (result.proof.slimmed, *result.proof.others)],
        "artefact": result.proof.artefact.to_json(),
        "preprocessing": {
            "resize": cached_side(job.input_size),
            "crop": job.input_size,
            "interpolation": "bicubic",
            "mean": list(IMAGENET_DEFAULT_MEAN),
            "std": list(IMAGENET_DEFAULT_STD),
        },
        "classes": list(split.classes),
        "data": {
            "train": len(judge.images.train),
            "search": len(judge.images.search),
            "val": len(judge.images.val),
            "unreadable": list(judge.images.unreadable),
        },
        "layers": {"slimmed": _layers(result.found, rows), "unslimmed": _layers(plan.space.largest, rows)},
        "job": {**job.to_json(), "data": job.data.name},
    }


def _latency(job: Job, plan: Plan, result: Result) -> dict[str, Any]:
    receipt = result.proof.slimmed.latency
    return {
        "date": receipt.date,
        "budget_ms": plan.budget_ms,
        "budget": str(job.budget),
        "tolerance": TOLERANCE,
        "predicted_ms": result.predicted.ms,
        "predicted_plus_minus_ms": result.predicted.plus_minus_ms,
        "measured_ms": receipt.median_ms,
        "measured_p10_ms": receipt.p10_ms,
        "measured_p90_ms": receipt.p90_ms,
        "samples": len(receipt.samples_ms),
        "verdict": receipt.verdict,
        "target": str(job.target),
        "fingerprint": receipt.fingerprint,
    }


def _accuracy(judge: Judge, plan: Plan, result: Result) -> dict[str, dict[str, Any] | None]:
    """What the network found is held against, on the validation images."""

    def scored(network: EfficientFormer | None) -> dict[str, Any] | None:
        return evaluate(network, judge.images.val, judge.side).to_json() if network else None

    return {
        "unslimmed, supernet weights": scored(judge.inherited(plan.space.largest)),
        "unslimmed, trained": scored(result.unslimmed),
        "slimmed, supernet weights": scored(judge.inherited(result.found)),
    }


def _layers(architecture: Architecture, rows: LatencyTable) -> list[dict[str, Any]]:
    return [
        {"name": name, "kind": layer.kind, "layer": str(layer), "table_ms": rows.layer_ms(layer)}
        for name, layer in architecture.named_layers()
    ]
