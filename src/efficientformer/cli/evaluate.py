"""`efficientformer evaluate`: how accurate networks are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from efficientformer.cli.options import Json, print_json
from efficientformer.errors import InputError
from efficientformer.evaluation.pictures import open_pictures
from efficientformer.evaluation.result import against_first
from efficientformer.evaluation.run import Request, evaluate_several
from efficientformer.files import write_json
from efficientformer.latency.target import Target
from efficientformer.progress import Progress
from efficientformer.terminal import evaluate as tables
from efficientformer.terminal.table import show

FORMAT = "efficientformer.evaluations/1"


def evaluate(
    *models: str,
    data: Path,
    split: Literal["val", "train"] = "val",
    protocol: str | None = None,
    pretrained: str | None = None,
    input_size: int | None = None,
    target: Annotated[str | None, Parameter(help="Where exported files run: RUNTIME[:DEVICE]…")] = None,
    limit: int | None = None,
    seed: int | None = None,
    workers: int = Request.workers,
    batch_size: int = Request.batch_size,
    max_unreadable: float = Request.max_unreadable,
    device: Literal["cpu", "cuda"] = "cpu",
    per_class: bool = False,
    out: Path | None = None,
    as_json: Json = False,
) -> None:
    """How accurate networks are on the same pictures, and what each changes against the first.

    Args:
        models: run folders, .safetensors files of ours, exported files, presets or timm/NAME.
        data: a folder of train/<class>/* and val/<class>/* or of <class>/*, or another data set that training
            reads.
        split: which part of it.
        protocol: how pictures are prepared: paper, timm, full, run or RESIZE:CROP[:INTERPOLATION]; by default
            as each network's own configuration says.
        pretrained: weights of presets and timm's networks: a file, or hub to fetch the published ones.
        input_size: pixels of a side; each network's own by default.
        target: where exported files run.
        limit: score at most so many pictures, drawn by the seed with the classes mixed.
        seed: of that, and of the split of a data set that comes in one part; by default the run's own.
        workers: processes that decode.
        batch_size: pictures a batch.
        max_unreadable: greatest share of unreadable pictures that is put up with.
        device: where networks run that are no exported files.
        per_class: also show the worst classes and the most confused pairs.
        out: also write everything to this JSON file.
        as_json: print JSON.
    """
    if not models:
        raise InputError("evaluate: name at least one network, such as a run's folder")
    if out and out.is_dir():
        raise InputError(f"--out {out}: is a folder; name a JSON file")
    request = Request(
        protocol,
        pretrained,
        input_size,
        Target.parse(target) if target else None,
        device,
        workers,
        batch_size,
        max_unreadable,
    )
    names, progress = tuple(dict.fromkeys(models)), Progress()
    pictures = open_pictures(data, split, limit, seed, models=names, progress=progress)
    found = evaluate_several(names, pictures, request, progress)
    compared = against_first(found)
    document = {
        "format": FORMAT,
        "evaluations": [one.to_json() for one in found],
        "comparisons": [one.to_json() for one in compared],
    }
    if out:
        write_json(out, document)
    if as_json:
        print_json(document)
        return
    for one in found if per_class else []:
        show(tables.classes_table(one))
        show(tables.confused_table(one))
    show(tables.evaluations_table(found))  # the answer, last on the screen
    if compared:
        show(tables.comparisons_table(compared))
