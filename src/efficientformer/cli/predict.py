"""`efficientformer predict`: what is in a picture."""

from __future__ import annotations

from pathlib import Path

from efficientformer.cli.options import Json, print_json
from efficientformer.errors import InputError
from efficientformer.predict import predictor
from efficientformer.terminal.models import predictions_table
from efficientformer.terminal.table import show


def predict(
    *images: Path,
    model: str,
    pretrained: str | None = None,
    input_size: int | None = None,
    top: int = 5,
    as_json: Json = False,
) -> None:
    """What is in these pictures: the most probable classes of each.

    Args:
        images: picture files.
        model: a finished run's folder, a .safetensors file of ours, or a network known by name.
        pretrained: weights for a name: a file in the authors', timm's or transformers' layout, or hub to
            fetch the published ones from the Hugging Face hub.
        input_size: pixels of a side; the network's own by default.
        top: classes to name.
        as_json: print JSON.
    """
    if not images:
        raise InputError("predict: name at least one picture")
    if top < 1:
        raise InputError(f"--top {top}: name at least one class")
    predictions = list(predictor(model, pretrained, input_size).predict(images, top))
    if as_json:
        print_json([one.to_json() for one in predictions])
    else:
        show(predictions_table(predictions))
    if bad := [one for one in predictions if one.error]:
        raise InputError(
            f"{len(bad)} of {len(predictions)} pictures left out; {bad[0].image}: {bad[0].error}"
        )
