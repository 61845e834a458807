"""`efficientformer train` and `recipes`: one network learns by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from efficientformer.cli.options import Json, print_json
from efficientformer.pipeline.train import train as run_train
from efficientformer.pipeline.train_job import TrainJob
from efficientformer.pipeline.training_data import Keep
from efficientformer.terminal.table import show
from efficientformer.terminal.training import recipe_lines, recipes_table, trained_table
from efficientformer.training.distributed import is_first
from efficientformer.training.recipes import RECIPES, recipe_of


def train(
    model: str,
    *,
    data: Path,
    recipe: str = "short",
    out: Path = Path("runs/train"),
    pretrained: str | None = None,
    teacher: str | None = None,
    teacher_weights: str | None = None,
    keep: Keep = TrainJob.keep,
    workers: int = TrainJob.workers,
    device: str = TrainJob.device,
    evaluate_every: int = TrainJob.evaluate_every,
    checkpoint_every: float = TrainJob.checkpoint_s,
    tracker: Annotated[list[str] | None, Parameter(negative="")] = None,
    max_unreadable: float = TrainJob.max_unreadable,
    as_json: Json = False,
    **changes: str,
) -> None:
    """One network learns by a recipe; any field of it is an option too, such as --epochs 5 or --mixup 0.2.

    Start the same command again to go on with a training that was stopped. Under torchrun it runs in many
    processes: torchrun --nproc-per-node 2 -m efficientformer.cli train ...

    Args:
        model: a preset, an architecture.json, timm/NAME, or to go on from: a run or a .safetensors file.
        data: folder of train/<class>/* and val/<class>/*, or of <class>/*, of WebDataset shards (.tar), or of
            Hugging Face Parquet files.
        recipe: one that `efficientformer recipes` lists, or a .toml or .json file of fields.
        out: the run's folder.
        pretrained: weights for a preset or a peer: a file, or hub.
        teacher: what to distil from: timm/NAME, a run, a .safetensors file of ours, or an exported file.
        teacher_weights: of a teacher that is a preset or a peer: a file, or hub.
        keep: images on the device (held), from disk by worker processes (stream), or by what fits (auto).
        workers: processes that read and augment when streaming, for each process that trains.
        device: cpu, cuda, or auto.
        evaluate_every: epochs between two evaluations.
        checkpoint_every: seconds between two checkpoints.
        tracker: of the log, beside JSON lines: tensorboard (the default), wandb, trackio, or none.
        max_unreadable: greatest share of unreadable images that is put up with.
        as_json: print the summary as JSON.
        changes: of the recipe's fields: --epochs, --batch-size, --learning-rate, --distillation, ...
    """
    how = recipe_of(recipe, changes)
    if teacher and how.distillation == "none" and "distillation" not in changes:
        how = recipe_of(recipe, {**changes, "distillation": "hard"})  # a teacher is given to be used
    logs = tuple(tracker) if tracker is not None else TrainJob.logs
    job = TrainJob(
        model,
        data,
        how,
        pretrained,
        teacher,
        teacher_weights,
        keep,
        workers,
        device,
        evaluate_every,
        checkpoint_every,
        () if logs == ("none",) else logs,
        max_unreadable,
    )
    summary = run_train(job, out)
    if not is_first():
        return
    if as_json:
        print_json(summary)
    else:
        show(trained_table(summary))
        print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir() if path.name[0] != '.'))}")


def recipes(*, as_json: Json = False) -> None:
    """The named recipes: what for, from where, and what they are known to reach.

    Args:
        as_json: print JSON, with every field.
    """
    if as_json:
        print_json(
            {
                name: {
                    "about": one.about,
                    "source": one.source,
                    "expected": one.expected,
                    "recipe": one.recipe.to_json(),
                }
                for name, one in RECIPES.items()
            }
        )
    else:
        show(recipes_table(RECIPES))
        for name, one in RECIPES.items():
            print(recipe_lines(name, one))
        print("\nAny field is an option of train; `efficientformer recipes --json` has them all.")
