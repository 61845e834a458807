"""A network as a feature extractor for dense prediction: `create_model(name, features_only=True)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor

from efficientformer.model.network import Backbone, EfficientFormer, Stage, take_indices


class FeatureInfo(list[dict[str, Any]]):
    """What is known of each feature map that comes out, in order."""

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [info["num_chs"] for info in self]

    def reduction(self) -> list[int]:
        """Stride of each map over the image."""
        return [info["reduction"] for info in self]

    def module_name(self) -> list[str]:
        """The stage that gives each map."""
        return [info["module"] for info in self]


class FeatureExtractor(Backbone):
    """The stages that are needed for some feature maps, without a head.

    Args:
        model: the network; its stem and stages are taken over, not copied.
        out_indices: stages from 0; all by default.
    """

    def __init__(self, model: EfficientFormer, out_indices: int | Sequence[int] | None = None) -> None:
        wanted = take_indices(len(model.stages), out_indices)
        stages = [cast(Stage, stage) for stage in model.stages][: wanted[-1] + 1]
        super().__init__(model.architecture, model.stem, stages)
        self.out_indices = tuple(wanted)
        self.pretrained_cfg = model.pretrained_cfg
        self.train(model.training)

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels, stride and name of each map that comes out."""
        return FeatureInfo(self.stage_info()[index] for index in self.out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) → a map (B, C, H/stride, W/stride) for each of `out_indices`."""
        return self.maps(x, self.out_indices)
