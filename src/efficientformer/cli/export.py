"""`efficientformer export`: a network as files for the runtimes people deploy on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from efficientformer.cli.options import Json, print_json
from efficientformer.errors import InputError, PromiseError
from efficientformer.evaluation.preparation import of_run
from efficientformer.files import write_json
from efficientformer.latency.target import Target
from efficientformer.named import run_of
from efficientformer.pipeline.ship import FORMAT, Model, Shipped, model_to_ship, ship
from efficientformer.progress import Progress
from efficientformer.terminal.latency import shipped_table
from efficientformer.terminal.table import show


def export(
    model: str,
    *,
    to: str = "onnxruntime",
    out: Path = Path("exports"),
    images: Path | None = None,
    pretrained: str | None = None,
    input_size: int | None = None,
    as_json: Json = False,
) -> None:
    """A network as files for the runtimes people deploy on, each checked against PyTorch and timed.

    Args:
        model: a run's folder, a .safetensors file of ours, a preset, an architecture.json, or timm/NAME.
        to: targets, parted by commas: onnxruntime,openvino:precision=int8,tflite.
        out: the folder of the files.
        images: a folder of pictures to check on, and for int8 to calibrate on; without, random numbers check.
        pretrained: a preset's weights: a file in any layout, or hub; without, they are random.
        input_size: pixels of a side; the network's own by default.
        as_json: print JSON.
    """
    targets = [Target.parse(text.strip()) for text in to.split(",")]
    progress = Progress()
    found = model_to_ship(model, pretrained, input_size)
    shipped = ship(found, targets, out, images, progress)
    document: dict[str, Any] = {"format": FORMAT, "model": model, "files": [one.to_json() for one in shipped]}
    if run := run_of(Path(model)):  # what a file's users need when the run is no longer at hand
        protocol, classes, _ = of_run(run)
        document |= {"preprocessing": protocol.to_json(), "classes": list(classes)}
    write_json(out / f"{found.name}.export.json", document)
    if as_json:
        print_json(document)
    else:
        show(shipped_table(model, shipped))
        _notes(found, shipped)
    _fail(shipped)


def _notes(model: Model, shipped: Sequence[Shipped]) -> None:
    if not model.trained:
        print("  the weights are random: these files are for timing, and agreement would mean nothing")
    bounds = {one.target.precision: one.artefact.bound for one in shipped if one.artefact}
    allowed = ", ".join(f"{bound:g} in {precision}" for precision, bound in bounds.items())
    if allowed:
        print(f"  differs by: largest difference from PyTorch's logits, over the largest; at most {allowed}")
    for one in shipped:
        if one.untimed:
            print(f"  {one.target.runtime}: not timed here: {one.untimed}")
        elif one.latency and one.latency.reasons:
            print(f"  {one.target}: {'; '.join(one.latency.reasons)}")


def _fail(shipped: Sequence[Shipped]) -> None:
    """The first file that is wrong, or the first runtime that cannot, is the command's error."""
    for one in sorted(shipped, key=lambda one: not one.broken):
        if one.error:
            raise (PromiseError if one.broken else InputError)(f"{one.target}: {one.error}")
