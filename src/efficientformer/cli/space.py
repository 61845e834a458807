"""The options that say what a search space has to choose from: those of `slim` and `table build`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cyclopts import Parameter

from efficientformer.cli.options import names, numbers
from efficientformer.pipeline.job import Job


@Parameter(name="*", group="Search space")
@dataclass(frozen=True)
class SpaceOptions:
    """What a search space has to choose from.

    Attributes:
        kinds: of blocks: pool and attention are the paper's, ffn is EfficientFormerV2's.
        expansions: that a block's MLP may be narrowed to; 4 leaves all as wide as the paper's.
        activations: that all blocks may have instead of GELU, such as relu,hardswish.
        stems: beside the two 3×3 convolutions: stem_patch, one convolution of 4×4 patches.
        input_sizes: smaller sides of images to consider, in pixels.
        width_step: channels between two widths of a stage.
    """

    kinds: str = ",".join(Job.kinds)
    expansions: str = ",".join(map(str, Job.expansions))
    activations: str = ""
    stems: str = ""
    input_sizes: str = ""
    width_step: int = Job.width_step

    def read(self) -> dict[str, Any]:
        """As a job and a space take them."""
        return {
            "kinds": names(self.kinds),
            "expansions": numbers("expansions", self.expansions),
            "activations": names(self.activations),
            "stems": names(self.stems),
            "input_sizes": numbers("input-sizes", self.input_sizes),
            "width_step": self.width_step,
        }


DEFAULT_SPACE = SpaceOptions()
