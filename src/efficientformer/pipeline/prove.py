"""The proof: the exported file, checked against PyTorch, timed beside its peers, and one summary of all."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from efficientformer.architecture import Architecture
from efficientformer.data.batches import cached_side, evaluation_batches
from efficientformer.data.folder import Split
from efficientformer.data.images import Images
from efficientformer.latency.artefact import Artefact, export, network_runner, runner, untrained
from efficientformer.latency.measure import Measurement, measure
from efficientformer.latency.runtimes import RUNTIMES
from efficientformer.latency.subjects import count_macs, peer
from efficientformer.latency.table import LatencyTable
from efficientformer.latency.target import Target
from efficientformer.model.network import EfficientFormer
from efficientformer.pipeline.job import TOLERANCE, Job, RunFolder
from efficientformer.pipeline.learn import Judge
from efficientformer.pipeline.preflight import Plan
from efficientformer.training.evaluate import evaluate

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
    some = Images(val.pixels[:CHECKED_IMAGES], val.labels[:CHECKED_IMAGES], ())
    images, _ = next(evaluation_batches(some, found.input_size[0]))
    artefact = export(network, path, target, images)
    image = (found.in_channels, *found.input_size)
    unslimmed = plan.space.largest
    mobilenet, _ = peer(PEER, num_classes=found.num_classes)
    runners = {
        "slimmed": runner(path, target, (1, *image)),
        "unslimmed": network_runner(untrained(unslimmed), target, image),
        PEER: network_runner(mobilenet, target, image),
    }
    sizes = {
        "slimmed": (found.params, found.macs),
        "unslimmed": (unslimmed.params, unslimmed.macs),
        PEER: (sum(p.numel() for p in mobilenet.parameters()), count_macs(mobilenet, image)),
    }
    receipts = measure(runners, target, rounds=20, seconds=4.0, min_samples=100)
    slimmed, *others = (Contender(name, *sizes[name], receipt) for name, receipt in receipts.items())
    return Proof(artefact, slimmed, tuple(others))


def quick_receipt(architecture: Architecture, target: Target) -> Measurement:
    """A network's latency before it is worth training: exported with random weights and timed alone."""
    image = (architecture.in_channels, *architecture.input_size)
    call = network_runner(untrained(architecture.compact()), target, image)
    return measure({str(architecture): call}, target, seconds=3.0, min_samples=60)[str(architecture)]


def summarise(
    job: Job,
    plan: Plan,
    split: Split,
    judge: Judge,
    rows: LatencyTable,
    found: Architecture,
    network: EfficientFormer,
    unslimmed: EfficientFormer | None,
    proof: Proof,
) -> dict[str, Any]:
    """Every figure of the run, each with its receipt or its number of images."""
    val, side = judge.images.val, job.input_size
    trained = evaluate(network, val, side)
    prediction, latency = rows.predict(found), proof.slimmed.latency
    return {
        "format": "efficientformer.summary/1",
        "version": importlib.metadata.version("efficientformer"),
        "date": latency.date,
        "budget_ms": plan.budget_ms,
        "budget": str(job.budget),
        "tolerance": TOLERANCE,
        "predicted_ms": prediction.ms,
        "predicted_plus_minus_ms": prediction.plus_minus_ms,
        "measured_ms": latency.median_ms,
        "measured_p10_ms": latency.p10_ms,
        "measured_p90_ms": latency.p90_ms,
        "samples": len(latency.samples_ms),
        "verdict": latency.verdict,
        "target": str(job.target),
        "fingerprint": latency.fingerprint,
        "top1": trained.top1,
        "images": trained.images,
        "params": proof.slimmed.params,
        "macs": proof.slimmed.macs,
        "seed": job.seed,
        "architecture": str(found.compact()),
        "unslimmed_architecture": str(plan.space.largest),
        "accuracy": {
            "unslimmed, supernet weights": evaluate(judge.inherited(plan.space.largest), val, side).to_json(),
            "unslimmed, trained": evaluate(unslimmed, val, side).to_json() if unslimmed else None,
            "slimmed, supernet weights": evaluate(judge.inherited(found), val, side).to_json(),
            "slimmed, trained": trained.to_json(),
        },
        "contenders": [one.to_json() for one in (proof.slimmed, *proof.others)],
        "artefact": proof.artefact.to_json(),
        "preprocessing": {
            "resize": cached_side(side),
            "crop": side,
            "interpolation": "bicubic",
            "mean": list(IMAGENET_DEFAULT_MEAN),
            "std": list(IMAGENET_DEFAULT_STD),
        },
        "classes": list(split.classes),
        "data": {
            "train": len(judge.images.train),
            "search": len(judge.images.search),
            "val": len(val),
            "unreadable": list(judge.images.unreadable),
        },
        "layers": {
            name: [
                {"name": at, "kind": layer.kind, "layer": str(layer), "table_ms": rows.layer_ms(layer)}
                for at, layer in one.named_layers()
            ]
            for name, one in (("slimmed", found), ("unslimmed", plan.space.largest))
        },
        "job": {**job.to_json(), "data": job.data.name},
    }
