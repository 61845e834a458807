"""Whatever a person can name that tells classes apart: ours, timm's, exported files; with its preparation.

with classifier("timm/resnet50", pretrained="resnet50.safetensors") as resnet:
    logits = resnet.logits(torch.stack([resnet.protocol.prepare(picture) for picture in pictures]))
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal

import torch
from torch import Tensor, nn

from efficientformer.errors import InputError
from efficientformer.evaluation.exported import ExportedFile
from efficientformer.evaluation.peers import count_outputs, peer_from, published_peer
from efficientformer.evaluation.preparation import of_config, of_run, told_beside
from efficientformer.evaluation.protocol import Protocol
from efficientformer.latency.subjects import TIMM, runtime_of
from efficientformer.latency.target import Target
from efficientformer.model.network import EfficientFormer
from efficientformer.named import load_network, run_of

Kind = Literal["ours", "timm", "file"]
HUB = "hub"


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network with weights, ready for pictures. Its `close` ends what it started.

    Attributes:
        name: as it was given.
        kind: `ours`, `timm` or `file`.
        protocol: how its pictures are prepared, unless somebody asks for another way.
        outputs: how many logits it gives.
        classes: the names of its outputs, if they are known.
        engine: a module in evaluation mode, or an exported file.
    """

    name: str
    kind: Kind
    protocol: Protocol
    outputs: int
    classes: tuple[str, ...] | None
    engine: nn.Module | ExportedFile

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """(b, 3, crop, crop) normalised by its protocol → (b, outputs); under autocast, if there is one."""
        return self.engine(x)

    def to(self, device: torch.device | str) -> Classifier:
        """On a device; an exported file stays where its target says and takes images from any."""
        if isinstance(self.engine, nn.Module):
            self.engine.to(device)
        return self

    def close(self) -> None:
        """End the process of an exported file; nothing else needs it."""
        if isinstance(self.engine, ExportedFile):
            self.engine.close()

    def __enter__(self) -> Classifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def classifier(
    name: str, *, pretrained: str | None = None, input_size: int | None = None, target: Target | None = None
) -> Classifier:
    """A classifier by what a person calls it.

    Args:
        name: a preset, `timm/NAME`, a run's folder (of ours, or of a trained peer), a `.safetensors` file of
            ours, or an exported file of any runtime.
        pretrained: a preset's or timm's weights: a file, or `hub` to fetch the published ones.
        input_size: pixels of a side; the network's own by default.
        target: where an exported file runs; by default its own runtime, on all processors.

    Raises:
        MissingRuntimeError: if an exported file's runtime is not installed.
        InputError: if the name stands for no network, or it has no weights.
    """
    path = Path(name)
    if runtime_of(path):
        if not path.exists():
            raise InputError(f"{name}: no such file")
        if pretrained:
            raise InputError(f"{name} has its own weights; --pretrained is for presets and timm's networks")
        return _exported(name, path, input_size, target)
    if target is not None:
        raise InputError(f"{name}: is no exported file; a target ({target}) is for those")
    if name.startswith(TIMM):
        return _timm(name, pretrained, input_size)
    if run := run_of(path):
        if pretrained:
            raise InputError(f"{name} has its own weights; --pretrained is for presets and timm's networks")
        return _run(name, run, input_size)
    network = load_network(name, pretrained)
    if input_size:
        network.set_input_size(input_size)
    return _ours(name, network, of_config(name, network.pretrained_cfg, network.architecture.input_size))


def _ours(
    name: str, network: EfficientFormer, protocol: Protocol, classes: tuple[str, ...] | None = None
) -> Classifier:
    architecture = network.architecture
    if not architecture.num_classes or not architecture.global_pool:
        raise InputError(
            f"{name}: this network gives features, not classes (num_classes 0, or global_pool empty)"
        )
    if architecture.in_channels != 3:
        raise InputError(f"{name}: takes {architecture.in_channels} channels; pictures are RGB")
    return Classifier(name, "ours", protocol, architecture.num_classes, classes, _ready(network))


def _timm(name: str, pretrained: str | None, input_size: int | None) -> Classifier:
    if not pretrained:
        raise InputError(
            f"{name} has no weights of its own: give --pretrained FILE, or --pretrained hub to fetch the "
            "published ones"
        )
    if pretrained == HUB:
        network, image = published_peer(name, input_size)
    else:
        network, image = peer_from(name, Path(pretrained), input_size)
    protocol = of_config(name, getattr(network, "pretrained_cfg", {}), image[1:])
    return Classifier(name, "timm", protocol, count_outputs(name, network), None, _ready(network))


def _run(name: str, folder: Path, input_size: int | None) -> Classifier:
    """A run's network, or the peer that was trained in it."""
    protocol, classes, model = of_run(folder)
    if input_size not in (None, protocol.crop):
        raise InputError(f"{folder}: was trained at {protocol.crop} pixels; leave --input-size out")
    weights = folder / "model.safetensors"
    if not model.startswith(TIMM):
        return _ours(name, load_network(str(weights)), protocol, classes)
    network, _ = peer_from(model, weights, protocol.crop, len(classes))
    return Classifier(name, "timm", protocol, len(classes), classes, _ready(network))


def _exported(name: str, path: Path, input_size: int | None, target: Target | None) -> Classifier:
    file = ExportedFile(path, target)
    try:
        if input_size not in (None, file.side):
            raise InputError(f"{path}: was exported for {file.side} pixels; leave --input-size out")
        protocol, classes = told_beside(path, file.side)
        if classes is not None and len(classes) != file.outputs:
            raise InputError(f"{path}: gives {file.outputs} outputs, its run has {len(classes)} classes")
    except BaseException:
        file.close()
        raise
    return Classifier(name, "file", protocol or _usual(file), file.outputs, classes, file)


def _usual(file: ExportedFile) -> Protocol:
    """ImageNet's habit, for a file that nothing is known of; its bytes tell its own mean and deviation."""
    protocol = Protocol.parse("paper", file.side)
    if file.pixels is None:
        return protocol
    mean, std = file.pixels.mean, file.pixels.std
    return replace(protocol, name="own", mean=(mean, mean, mean), std=(std, std, std))


def _ready(network: nn.Module) -> nn.Module:
    network = network.eval().requires_grad_(False)
    return network.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
