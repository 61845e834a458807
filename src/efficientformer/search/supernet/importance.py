"""How much each position, stage and channel matters.

Positions and stages by the paper's scores of the supernet's α (§3.3). Which channels survive a narrowing the
paper leaves open: here the first-order Taylor score (Molchanov et al., CVPR 2019), the squared gradient of a
gate of 1 on the channel, summed over batches. The same of a gate on a block's part of its residual stream
measures positions anew in any sub-network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientformer.architecture import Architecture
from efficientformer.data.batches import evaluation_batches
from efficientformer.data.images import Images
from efficientformer.layers import KINDS, Layer
from efficientformer.model.network import EfficientFormer
from efficientformer.search.space.importance import Importance


def importance_by(probabilities: Sequence[Tensor]) -> Importance:
    """α^4D / α^I in stages 1 and 2, (α^4D + α^3D) / α^I in stages 3 and 4, α as probabilities."""
    ratios = (stage[:, :-1].sum(1) / stage[:, -1] for stage in probabilities)
    return Importance(tuple(tuple(round(float(ratio), 6) for ratio in stage) for stage in ratios))


def channel_scores(
    network: EfficientFormer, images: Images, side: int, count: int = 256
) -> dict[str, Tensor]:
    """The Taylor score of every channel that can be narrowed away.

    Args:
        network: a sub-network of full width, with inherited weights.
        images: training images; `count` of them, classes mixed, are used.
        side: the network's input size.
        count: how many images.

    Returns:
        `stage.I` for the stage's width, `stem` for the stem's inner width, `stages.I.blocks.P.KIND` for the
        hidden width of a block's MLP; a score per channel.
    """
    gates: dict[str, Tensor] = {}
    hooks = [
        (module, _gate(gates.setdefault(key, torch.ones(width, requires_grad=True)), axis))
        for key, width, module, axis in _gated(network)
    ]
    return _squared_gradients(network, gates, hooks, images, side, count)


def block_scores(
    network: EfficientFormer, architecture: Architecture, images: Images, side: int, count: int = 256
) -> Importance:
    """The Taylor score of every block: a gate on what it adds to the stream.

    Args:
        network: a sub-network with inherited weights.
        architecture: the same, its identities in place.
        images: training images; `count` of them, classes mixed, are used.
        side: the network's input size.
        count: how many images.
    """
    alive = [
        f"{stage}.{position}"
        for stage, one in enumerate(architecture.stages)
        for position, block in enumerate(one.blocks)
        if block.kind != "identity"
    ]
    modules = [m for _, layer, m in network.named_modules_of_layers() if KINDS[layer.kind].role == "block"]
    gates = {key: torch.ones(1, requires_grad=True) for key in alive}
    hooks = [(module, _stream_gate(gates[key])) for key, module in zip(alive, modules, strict=True)]
    scores = _squared_gradients(network, gates, hooks, images, side, count)
    return Importance(
        tuple(
            tuple(float(scores.get(f"{stage}.{position}", 0.0)) for position in range(len(one.blocks)))
            for stage, one in enumerate(architecture.stages)
        )
    )


Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


def _squared_gradients(
    network: EfficientFormer,
    gates: Mapping[str, Tensor],
    hooks: Sequence[tuple[nn.Module, Hook]],
    images: Images,
    side: int,
    count: int,
) -> dict[str, Tensor]:
    """Of the loss by each gate, summed over batches."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    scores = {key: torch.zeros(len(gate)) for key, gate in gates.items()}
    for x, labels in evaluation_batches(images.sample(count), side, batch_size=32):
        loss = F.cross_entropy(network(x), labels)
        gradients = torch.autograd.grad(loss, list(gates.values()))
        for key, gradient in zip(gates, gradients, strict=True):
            scores[key] += gradient**2
    for handle in handles:
        handle.remove()
    return scores


def _gated(network: EfficientFormer) -> list[tuple[str, int, nn.Module, int]]:
    """(key, channels, module whose output is gated, axis of the channels)."""
    gated: list[tuple[str, int, nn.Module, int]] = []
    for name, layer, module in network.named_modules_of_layers():
        if layer.kind == "stem":
            gated.append(("stem", layer.out_width // 2, module.get_submodule("norm1"), 1))
        if KINDS[layer.kind].role != "head":
            stage = 0 if name == "stem" else int(name.split(".")[1])
            gated.append((f"stage.{stage}", layer.out_width, module, _channel_axis(layer)))
        if KINDS[layer.kind].role == "block":
            hidden = layer.expansion * layer.in_width
            gated.append(
                (f"{name}.{layer.kind}", hidden, module.get_submodule("mlp.act"), _channel_axis(layer))
            )
    return gated


def _channel_axis(layer: Layer) -> int:
    return 1 if KINDS[layer.kind].layout == "map" else 2


def _gate(gate: Tensor, axis: int) -> Hook:
    shape = (-1, 1, 1) if axis == 1 else (-1,)

    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * gate.view(shape)

    return hook


def _stream_gate(gate: Tensor) -> Hook:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return inputs[0] + gate * (output - inputs[0])

    return hook
