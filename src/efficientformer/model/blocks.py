"""The modules of each kind of layer, in the form that is trained.

Each is built from its `Layer` and knows its own deployed form (`fold`). Shapes: `map` is (B, C, H, W),
`tokens` is (B, N, C) with N = H·W. Facts marked [code] were read in the authors' public code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from efficientformer.architecture import Attention, Layer, Layout
from efficientformer.errors import InputError
from efficientformer.model import folded


def activation(name: str) -> nn.Module:
    """The activation module of that name (`architecture.ACTIVATIONS`)."""
    match name:
        case "gelu":
            return nn.GELU()
        case "gelu_tanh":
            return nn.GELU(approximate="tanh")
        case "relu":
            return nn.ReLU()
        case "hardswish":
            return nn.Hardswish()
        case "silu":
            return nn.SiLU()
    raise InputError(f"unknown activation {name!r}")


class LayerModule(nn.Module):
    """What the modules of all layers have in common: the layout they take, and a deployed form."""

    layout: Layout

    def fold(self) -> nn.Module:
        """A module without norms to spare, equal to this one in evaluation mode."""
        raise NotImplementedError


class LayerScale(nn.Module):
    """A learned factor per channel, applied along `dim`."""

    def __init__(self, width: int, layout: Layout, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), init))
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        """Scale; the shape stays."""
        return x * (self.gamma if self.layout == "tokens" else self.gamma[:, None, None])


class Stem(LayerModule):
    """Two 3×3 stride-2 convolutions, each with batch norm and ReLU [code]."""

    layout: Layout = "map"

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        half = layer.out_width // 2
        self.conv1 = nn.Conv2d(layer.in_width, half, 3, 2, 1)
        self.norm1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, layer.out_width, 3, 2, 1)
        self.norm2 = nn.BatchNorm2d(layer.out_width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, C, H/4, W/4)."""
        x = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(x)))

    def fold(self) -> nn.Module:
        """Batch norms into the convolutions."""
        first, second = folded.conv_bn(self.conv1, self.norm1), folded.conv_bn(self.conv2, self.norm2)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


class Embed(LayerModule):
    """The embedding between stages: one 3×3 stride-2 convolution with batch norm, no activation [code]."""

    layout: Layout = "map"

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv = nn.Conv2d(layer.in_width, layer.out_width, 3, 2, 1)
        self.norm = nn.BatchNorm2d(layer.out_width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H/2, W/2)."""
        return self.norm(self.conv(x))

    def fold(self) -> nn.Module:
        """Batch norm into the convolution."""
        return folded.conv_bn(self.conv, self.norm)


class ConvMlp(nn.Module):
    """1×1 convolution, batch norm, activation, 1×1 convolution, batch norm."""

    def __init__(self, width: int, hidden: int, act: str) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, hidden, 1)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.act = activation(act)
        self.fc2 = nn.Conv2d(hidden, width, 1)
        self.norm2 = nn.BatchNorm2d(width)
        _truncated_normal(self.fc1, self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return self.norm2(self.fc2(self.act(self.norm1(self.fc1(x)))))


class PoolBlock(LayerModule):
    """MetaBlock 4D, MB4D: a pooling token mixer, then a convolutional MLP, each with LayerScale [code].

    The mixer is `pool(x) − x` as in the authors' code; the paper's Eq. 3 has `pool(x)`.
    """

    layout: Layout = "map"

    def __init__(self, layer: Layer, layer_scale_init: float = 1e-5) -> None:
        super().__init__()
        width = layer.in_width
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.ls1 = LayerScale(width, "map", layer_scale_init)
        self.mlp = ConvMlp(width, layer.expansion * width, layer.activation)
        self.ls2 = LayerScale(width, "map", layer_scale_init)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        x = x + self.ls1(self.pool(x) - x)
        return x + self.ls2(self.mlp(x))

    def fold(self) -> nn.Module:
        """LayerScale and batch norms into the two convolutions; the mixer becomes a weighted mean."""
        first = folded.conv_bn(self.mlp.fc1, self.mlp.norm1)
        second = folded.scale_outputs(folded.conv_bn(self.mlp.fc2, self.mlp.norm2), self.ls2.gamma)
        return folded.FoldedPoolBlock(self.ls1.gamma, first, self.mlp.act, second)


class AttentionMixer(nn.Module):
    """Multi-head self-attention with a learned bias per head and offset, LeViT's [code].

    `attention_biases` is (heads, H·W): the bias of two tokens |Δrow| rows and |Δcolumn| columns apart
    stands at |Δrow|·W + |Δcolumn|. `qkv` is laid out per head as [query | key | value].
    """

    attention_bias_idxs: Tensor

    def __init__(self, width: int, grid: tuple[int, int], shape: Attention) -> None:
        super().__init__()
        self.shape = shape
        self.qkv = nn.Linear(width, shape.qkv_width)
        self.proj = nn.Linear(shape.heads * shape.value_dim, width)
        self.attention_biases = nn.Parameter(torch.zeros(shape.heads, grid[0] * grid[1]))
        self.register_buffer("attention_bias_idxs", bias_indices(*grid), persistent=False)
        _truncated_normal(self.qkv, self.proj)

    def bias(self) -> Tensor:
        """The bias added to the logits: (heads, N, N)."""
        return self.attention_biases[:, self.attention_bias_idxs]

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) → the same."""
        scale = self.shape.key_dim**-0.5
        return self.proj(folded.attend(self.qkv(x), self.shape, self.bias(), scale))


def bias_indices(height: int, width: int) -> Tensor:
    """(N, N) indices into an attention-bias table for a grid of tokens: |Δrow|·width + |Δcolumn|."""
    rows, columns = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    return (rows[:, None] - rows).abs() * width + (columns[:, None] - columns).abs()


class LinearMlp(nn.Module):
    """Linear, activation, linear."""

    def __init__(self, width: int, hidden: int, act: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = activation(act)
        self.fc2 = nn.Linear(hidden, width)
        _truncated_normal(self.fc1, self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) → the same."""
        return self.fc2(self.act(self.fc1(x)))


class AttentionBlock(LayerModule):
    """MetaBlock 3D, MB3D: pre-norm self-attention, then a pre-norm MLP, each with LayerScale [code]."""

    layout: Layout = "tokens"

    def __init__(self, layer: Layer, layer_scale_init: float = 1e-5) -> None:
        super().__init__()
        width = layer.in_width
        self.norm1 = nn.LayerNorm(width)
        self.token_mixer = AttentionMixer(width, (layer.height, layer.width), layer.attention or Attention())
        self.ls1 = LayerScale(width, "tokens", layer_scale_init)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = LinearMlp(width, layer.expansion * width, layer.activation)
        self.ls2 = LayerScale(width, "tokens", layer_scale_init)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) → the same."""
        x = x + self.ls1(self.token_mixer(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))

    def fold(self) -> nn.Module:
        """Norm affines, the attention scale and LayerScale into the linears; the bias is looked up once."""
        mixer = self.token_mixer
        qkv = folded.scale_queries(folded.absorb_affine(self.norm1, mixer.qkv), mixer.shape)
        return folded.FoldedAttentionBlock(
            mixer.shape,
            qkv,
            mixer.bias().detach().clone(),
            folded.scale_outputs(mixer.proj, self.ls1.gamma),
            folded.absorb_affine(self.norm2, self.mlp.fc1),
            self.mlp.act,
            folded.scale_outputs(self.mlp.fc2, self.ls2.gamma),
        )


class Head(LayerModule):
    """LayerNorm, mean over the tokens, one classifier or two [code].

    With two, training returns the pair (labels', teacher's) and evaluation their mean.
    """

    layout: Layout = "tokens"

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(layer.in_width)
        self.classifier = nn.Linear(layer.in_width, layer.out_width)
        self.distillation = nn.Linear(layer.in_width, layer.out_width) if layer.heads == 2 else None
        _truncated_normal(*(m for m in (self.classifier, self.distillation) if m is not None))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(B, N, C) → (B, classes), or a pair of them."""
        x = self.norm(x).mean(1)
        if self.distillation is None:
            return self.classifier(x)
        pair = self.classifier(x), self.distillation(x)
        return pair if self.training else (pair[0] + pair[1]) / 2

    def fold(self) -> nn.Module:
        """The classifiers' mean, with LayerNorm's affine."""
        heads = [head for head in (self.classifier, self.distillation) if head is not None]
        return folded.FoldedHead(folded.absorb_affine(self.norm, folded.mean_linear(heads)))


class Flatten(LayerModule):
    """The change of layout before attention: (B, C, H, W) → (B, H·W, C)."""

    layout: Layout = "map"

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, H·W, C)."""
        return x.flatten(2).transpose(1, 2)

    def fold(self) -> nn.Module:
        """Itself: it has no weights."""
        return self


class Unflatten(LayerModule):
    """The change of layout after attention: (B, H·W, C) → (B, C, H, W)."""

    layout: Layout = "tokens"

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.grid = (layer.height, layer.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H·W, C) → (B, C, H, W)."""
        return x.transpose(1, 2).unflatten(2, self.grid)

    def fold(self) -> nn.Module:
        """Itself: it has no weights."""
        return self


def build_layer(layer: Layer, layer_scale_init: float = 1e-5) -> LayerModule:
    """The module of a layer, newly initialised from torch's global generator.

    Args:
        layer: what to build; its `kind` says which module.
        layer_scale_init: LayerScale's start, 1e-5 in the authors' code; larger ones learn sooner.
    """
    match layer.kind:
        case "stem":
            return Stem(layer)
        case "embed":
            return Embed(layer)
        case "pool":
            return PoolBlock(layer, layer_scale_init)
        case "attention":
            return AttentionBlock(layer, layer_scale_init)
        case "flatten":
            return Flatten()
        case "unflatten":
            return Unflatten(layer)
        case "head":
            return Head(layer)
    raise InputError(f"no module is known for a layer of kind {layer.kind!r}")


def _truncated_normal(*modules: nn.Linear | nn.Conv2d) -> None:
    for module in modules:
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
