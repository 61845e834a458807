"""EfficientFormer L1 and MobileNetV2 from scratch on Imagenette at 128 px, with and without a teacher.

    python benchmarks/imagenette_training.py --data imagenette --teacher mobilenet.tflite  # 4 epochs
    python benchmarks/imagenette_training.py --data imagenette --teacher mobilenet.tflite --epochs 80

Each of the four trainings resumes where it was stopped. Writes results/imagenette_training-EPOCHS.json, .md:
recipe, seed, the accuracy of every epoch with its number of images, date and machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from efficientformer.files import read_json, write_atomically, write_json
from efficientformer.pipeline.train import train
from efficientformer.pipeline.train_job import TrainJob
from efficientformer.training.logs import read_log
from efficientformer.training.recipes import recipe_of

RESULTS = Path(__file__).with_name("results")
MODELS = {"l1": "efficientformer_l1", "mobilenetv2": "timm/mobilenetv2_100"}
FIGURES = ("top1", "interval", "top5", "loss", "calibration_error", "images")
LONG = 80  # epochs; the board's figures are of 80 and 200
BOARD = "fastai's board, xresnet50 family, from scratch at 128 px: 93.55 % after 80 epochs, 94.24 % after 200"


def jobs(options: argparse.Namespace) -> dict[str, TrainJob]:
    """The four trainings by the names of their folders."""
    name = "scratch" if options.epochs >= LONG else "short"
    changes = {
        "epochs": options.epochs,
        "warmup_epochs": options.epochs / 10,
        "precision": options.precision,
        "seed": options.seed,
    }
    made = {}
    for short, model in MODELS.items():
        made[short] = TrainJob(
            model, options.data, recipe_of(name, changes), keep="held", device=options.device
        )
        taught = recipe_of(name, {**changes, "distillation": "hard"})
        made[f"{short}-taught"] = TrainJob(
            model, options.data, taught, teacher=str(options.teacher), keep="held", device=options.device
        )
    return made


def collected(out: Path, names: list[str]) -> dict[str, Any]:
    """What finished runs say of themselves."""
    runs = {}
    for name in names:
        summary = read_json(out / name / "summary.json")
        epochs = [line for line in read_log(out / name / "log.jsonl") if line["kind"] == "epoch"]
        kept = ("model", "date", "version", "params", "seed", "processes", "device", "machine")
        weights = summary["accuracy"]["weights"]
        runs[name] = {
            **{key: summary[key] for key in kept},
            "teacher": Path(summary["teacher"]).name if summary["teacher"] else None,
            "recipe": summary["recipe"],
            "protocol": summary["preprocessing"],
            "data": {key: value for key, value in summary["data"].items() if key != "unreadable"},
            **{
                key: weights[key]
                for key in ("top1", "interval", "top5", "loss", "calibration_error", "images")
            },
            "curve": [{"epoch": line["epoch"], "top1": line["weights/top1"]} for line in epochs],
        }
    return {"format": "efficientformer.imagenette/1", "board": BOARD, "runs": runs}


def table(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    first = next(iter(document["runs"].values()))
    recipe, machine = first["recipe"], first["machine"]
    short = recipe["epochs"] < LONG
    lines = [
        f"# Imagenette from scratch at {recipe['input_size']} px, {recipe['epochs']} epochs",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {first['device']}; {machine['runtime']}; "
        f"{first['date'][:10]}. {first['data']['train']:,} training images, seed {first['seed']}, "
        f"{recipe['precision']}, {recipe['batch_size']} images a step. One seed each.",
        "",
        "| network | teacher | top-1 (95 %) of images | top-5 | parameters | by epoch |",
        "|---|---|---|---|---|---|",
    ]
    for one in document["runs"].values():
        low, high = one["interval"]
        curve = ", ".join(f"{point['top1']:.1%}" for point in one["curve"])
        lines.append(
            f"| {one['model']} | {one['teacher'] or '–'} | {one['top1']:.2%} ({low:.2%}–{high:.2%}) of "
            f"{one['images']:,} | {one['top5']:.2%} | {one['params'] / 1e6:.2f} M | {curve} |"
        )
    told = (
        "a short training, named as such: nothing to compare with the board" if short else "to compare with"
    )
    lines += ["", f"{document['board']} ({told}).", ""]
    return "\n".join(lines)


def main() -> None:
    """Train, collect, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/imagenette"))
    parser.add_argument("--collect", action="store_true", help="train nothing; read finished runs")
    options = parser.parse_args()
    made = jobs(options)
    if not options.collect:
        for name, job in made.items():
            train(job, options.out / name)
    done = [name for name in made if (options.out / name / "summary.json").exists()]
    document = collected(options.out, done)
    name = f"imagenette_training-{options.epochs}"
    write_json(RESULTS / f"{name}.json", document)
    write_atomically(RESULTS / f"{name}.md", table(document))
    print(json.dumps({name: one["top1"] for name, one in document["runs"].items()}))


if __name__ == "__main__":
    main()
