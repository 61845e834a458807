"""The heads: a norm, the mean over all positions, one classifier or two."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from efficientformer.layers import Layer, Layout
from efficientformer.model.blocks import melt
from efficientformer.model.blocks.attention import normalise
from efficientformer.model.blocks.base import LayerModule, truncated_normal
from efficientformer.model.blocks.layout import as_tokens


class Head(LayerModule):
    """LayerNorm over tokens, their mean, the classifiers [code].

    Attributes:
        classifier: for the labels; None if the layer has no classes, the output is then the features.
        distillation: for the teacher's labels; None where there is one classifier only. The two are averaged.
        distilled_training: in training, return the pair instead of its mean.
        pooled: take the mean over positions; without, there is an output at each.
    """

    layout: Layout = "tokens"

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.norm = self._norm(layer.in_width)
        self.distilled_training, self.pooled = False, True
        self.classifier = self.distillation = None
        self.set_classes(layer.out_width, layer.heads)

    def _norm(self, width: int) -> nn.Module:
        return nn.LayerNorm(width)

    def set_classes(self, classes: int, heads: int) -> None:
        """New classifiers, of the norm's device and number type; none for 0 classes."""
        self.classifier = self._linear(classes)
        self.distillation = self._linear(classes) if heads == 2 else None

    def _linear(self, classes: int) -> nn.Linear | None:
        if not classes:
            return None
        like = next(self.norm.parameters())
        linear = nn.Linear(len(like), classes)
        truncated_normal(linear)
        return linear.to(like.device, like.dtype).train(self.training)

    def classifiers(self) -> list[nn.Linear]:
        """Those there are: none, one or two."""
        return [head for head in (self.classifier, self.distillation) if head is not None]

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Features → (B, classes), or a pair of them."""
        return self.classify(self.norm(x))

    def classify(self, x: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """The head behind its norm; `pre_logits` leaves the classifiers out."""
        x = self.pool(x) if self.pooled else x
        if pre_logits or self.classifier is None:
            return x
        if self.distillation is None:
            return self.per_position(self.classifier, x)
        pair = self.per_position(self.classifier, x), self.per_position(self.distillation, x)
        return pair if self.training and self.distilled_training else (pair[0] + pair[1]) / 2

    @staticmethod
    def pool(x: Tensor) -> Tensor:
        """(B, N, C) → (B, C)."""
        return x.mean(1)

    @staticmethod
    def per_position(linear: nn.Linear, x: Tensor) -> Tensor:
        """A linear on the channels of pooled or unpooled features."""
        return linear(x)

    def fold(self) -> nn.Module:
        """The classifiers' mean, with the norm's affine in it; without classifiers, itself on maps."""
        if self.classifier is None:
            return OnTokens(self)
        return FoldedHead(
            melt.absorb_affine(cast(nn.LayerNorm, self.norm), melt.mean_linear(self.classifiers())),
            self.pooled,
        )


class OnTokens(nn.Module):
    """A head without classifiers, deployed: its own norm and mean."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(B, C, H, W) → (B, C), or (B, N, C)."""
        return self.head(as_tokens(x))


class FoldedHead(nn.Module):
    """`Head` deployed: one norm without affine, the mean, one linear."""

    def __init__(self, linear: nn.Linear, pooled: bool) -> None:
        super().__init__()
        self.linear, self.pooled = linear, pooled

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, classes), or (B, N, classes)."""
        x = as_tokens(normalise(x))
        return self.linear(x.mean(1) if self.pooled else x)


class Head2d(Head):
    """EfficientFormerV2's: batch norm over the map, the mean over positions, the classifiers [code]."""

    layout: Layout = "map"

    def _norm(self, width: int) -> nn.Module:
        return nn.BatchNorm2d(width)

    @staticmethod
    def pool(x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C)."""
        return x.mean((2, 3))

    @staticmethod
    def per_position(linear: nn.Linear, x: Tensor) -> Tensor:
        """A linear on the channels of pooled or unpooled features."""
        return linear(x) if x.ndim == 2 else linear(x.movedim(1, -1)).movedim(-1, 1)

    def fold(self) -> nn.Module:
        """The classifiers' mean, with the batch norm in it; without classifiers, itself."""
        if self.classifier is None:
            return self
        linear = melt.absorb_batch_norm(cast(nn.BatchNorm2d, self.norm), melt.mean_linear(self.classifiers()))
        return FoldedHead2d(linear, self.pooled)


class FoldedHead2d(nn.Module):
    """`Head2d` deployed: the mean and one linear."""

    def __init__(self, linear: nn.Linear, pooled: bool) -> None:
        super().__init__()
        self.linear, self.pooled = linear, pooled

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, classes), or (B, classes, H, W)."""
        return Head2d.per_position(self.linear, Head2d.pool(x) if self.pooled else x)
