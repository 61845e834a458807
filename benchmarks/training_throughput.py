"""Images per second of our training loop against timm's, same network, machine, augmentation and precision.

    python benchmarks/training_throughput.py --data photos          # L1, MobileNetV2, 224 px: 15 minutes
    python benchmarks/training_throughput.py --data photos --device cuda --batch-size 256 --precision bf16

timm's script is not part of its package; its loop is put together here from the very parts the script takes
(`create_dataset`, `create_loader`, `Mixup`, `create_optimizer_v2`, `dispatch_clip_grad`, `ModelEmaV3`), with
the options of the paper's recipe. It is measured as the script runs by default, and with `--channels-last`.
Turns are interleaved; a round is so many steps of each, more than workers make ahead between turns. Loaders
are also measured alone, and memory in a process for each. Writes results/training_throughput-*.json and .md;
the last line printed is the table as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import efficientformer as ef  # before timm: it repairs torchvision where it must
from efficientformer.data.batches import normalise_planes
from efficientformer.data.mixing import Mixing
from efficientformer.data.sources import open_parts
from efficientformer.files import write_atomically, write_json
from efficientformer.latency.machine import fingerprint
from efficientformer.latency.subjects import peer
from efficientformer.latency.target import Target
from efficientformer.pipeline.student import student
from efficientformer.pipeline.training_data import open_data
from efficientformer.progress import Progress
from efficientformer.training.distributed import World
from efficientformer.training.learner import Learner, Part
from efficientformer.training.recipe import Recipe
from efficientformer.training.recipes import RECIPES

RESULTS = Path(__file__).with_name("results")
CONTENDERS = ("timm", "timm, channels-last", "ours, held", "ours, streamed")
MODELS = ("efficientformer_l1", "mobilenetv2_100")
Step = Callable[[], int]
AHEAD = 3  # batches: a worker has two made ahead


@dataclass
class Contender:
    """One loop: a step, its batches alone, and what to close."""

    step: Step
    load: Step
    close: Callable[[], None] = lambda: None


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The paper's recipe without its teacher, at this batch size and precision."""
    return dataclasses.replace(
        RECIPES["paper"].recipe,
        batch_size=options.batch_size,
        distillation="none",
        precision=options.precision,
        sync_norm=False,
    )


def timms(model: str, recipe: Recipe, options: argparse.Namespace, *, channels_last: bool) -> Contender:
    """timm's loop, as its training script puts it together."""
    from timm.data import Mixup, add_img_extensions, create_dataset, create_loader
    from timm.loss import SoftTargetCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3, dispatch_clip_grad

    device = torch.device(options.device)
    add_img_extensions(".webp")
    keep_a_bit()
    dataset = create_dataset("", root=str(options.data), split="train", is_training=True)
    classes = len(dataset.reader.class_to_idx)
    loader = create_loader(
        dataset,
        input_size=(3, recipe.input_size, recipe.input_size),
        batch_size=recipe.batch_size,
        is_training=True,
        use_prefetcher=True,
        re_prob=recipe.augmentation.erase,
        re_mode="pixel",
        auto_augment=recipe.augmentation.rand_augment,
        color_jitter=0.0,
        interpolation=recipe.augmentation.interpolation,
        num_workers=options.workers,
        device=device,
        persistent_workers=True,
    )
    network, _ = peer(f"timm/{model}", num_classes=classes)
    network = network.train().to(device)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
    mixup = Mixup(
        recipe.augmentation.mixup,
        recipe.augmentation.cutmix,
        label_smoothing=recipe.label_smoothing,
        num_classes=classes,
    )
    optimizer = create_optimizer_v2(network, "adamw", lr=recipe.peak_rate, weight_decay=recipe.weight_decay)
    average, loss_of = ModelEmaV3(network, decay=recipe.ema), SoftTargetCrossEntropy()
    batches = endless(loader)

    def load() -> int:
        return len(mixup(*next(batches))[0])

    def step() -> int:
        x, targets = mixup(*next(batches))
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with autocast(recipe, device):
            outputs = network(x)
            loss = loss_of(outputs[0] if isinstance(outputs, tuple) else outputs, targets)
        loss.backward()
        dispatch_clip_grad(network.parameters(), recipe.clip, mode="agc")
        optimizer.step()
        average.update(network)
        optimizer.zero_grad()
        return len(x)

    return Contender(step, load)


def keep_a_bit() -> None:
    """timm asks posterize for 0 bits now and then, which Pillow 13 refuses: the script would end there."""
    from PIL import ImageOps

    plain = ImageOps.posterize
    ImageOps.posterize = lambda image, bits: plain(image, max(1, bits))


def ours(model: str, recipe: Recipe, options: argparse.Namespace, work: Path, keep: Any) -> Contender:
    """Our loop's own parts: batches, mixing, learner."""
    world = World(device=torch.device(options.device))
    data = open_data(
        open_parts(options.data),
        recipe,
        work / keep,
        world,
        keep=keep,
        workers=options.workers,
        max_unreadable=0.05,
        progress=Progress(None),
    )
    classes = len(data.parts.classes)
    name = model if model.startswith("efficientformer") else f"timm/{model}"
    found = student(name, classes, recipe)
    learner = Learner(one_output(found.network), recipe, world=world)
    mixing = Mixing(recipe.augmentation, recipe.label_smoothing, classes, recipe.seed)
    batches, made = data.train.from_step(0), [0]

    def batch() -> tuple[Tensor, Tensor]:
        raw = next(batches)
        made[0] += 1
        return mixing(normalise_planes(raw.pixels), raw.labels, made[0])

    def load() -> int:
        return len(batch()[0])

    def step() -> int:
        x, targets = batch()
        learner.step(Part(x, targets), made[0])
        return len(x)

    return Contender(step, load, data.close)


def one_output(network: nn.Module) -> nn.Module:
    """timm's EfficientFormer gives the mean of its classifiers unless told otherwise: so does ours, then."""
    switch = getattr(network, "set_distilled_training", None)
    if callable(switch):
        switch(False)
    return network


def autocast(recipe: Recipe, device: torch.device) -> Any:
    """The recipe's precision."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    kind = kinds.get(recipe.precision)
    return torch.autocast(device.type, kind) if kind else nullcontext()


def endless(loader: Any) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from loader


def built(name: str, model: str, options: argparse.Namespace, work: Path) -> Contender:
    """A contender by its name."""
    recipe = recipe_of(options)
    if name.startswith("timm"):
        return timms(model, recipe, options, channels_last="channels-last" in name)
    return ours(model, recipe, options, work, "held" if "held" in name else "stream")


def rate(step: Step, count: int, device: torch.device) -> float:
    """Images a second of so many steps."""
    finish(device)
    begun, images = time.perf_counter(), 0
    for _ in range(count):
        images += step()
    finish(device)
    return images / (time.perf_counter() - begun)


def finish(device: torch.device) -> None:
    """Wait for an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def contest(model: str, options: argparse.Namespace, work: Path) -> dict[str, dict[str, list[float]]]:
    """Images a second of each contender's whole loop and of its loader, a number a round."""
    device = torch.device(options.device)
    contenders = {name: built(name, model, options, work) for name in options.contenders}
    rates: dict[str, dict[str, list[float]]] = {name: {"whole": [], "loader": []} for name in contenders}
    for one in contenders.values():
        rate(one.step, 2, device)  # warm up
    for number in range(options.rounds):
        order = list(contenders.items())
        for name, one in order if number % 2 else reversed(order):
            rates[name]["whole"].append(rate(one.step, options.steps, device))
        print(f"  {model}: round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    for one in contenders.values():
        one.close()
    del contenders, order
    gc.collect()  # timm's workers end with their loader
    for name in rates:
        one = built(name, model, options, work)
        rate(one.load, AHEAD * options.workers, device)  # what workers had made ahead
        rates[name]["loader"] = [rate(one.load, options.steps, device) for _ in range(options.rounds)]
        one.close()
        del one
        gc.collect()
    return rates


def memory_mb(name: str, model: str, options: argparse.Namespace) -> float:
    """Peak memory of a contender alone, in MiB: of the device, or of the process without its workers."""
    arguments = [sys.executable, __file__, *sys.argv[1:], "--models", model, "--alone", name]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def alone(name: str, model: str, options: argparse.Namespace, work: Path) -> None:
    """A few steps of one contender; prints its peak memory."""
    contender = built(name, model, options, work)
    rate(contender.step, 3, torch.device(options.device))
    if options.device == "cuda":
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        print(
            int(lines["VmHWM"].split()[0]) / 2**10
        )  # of this program alone; ru_maxrss begins at the parent's
    contender.close()


def ceiling(model: str, options: argparse.Namespace) -> dict[str, float]:
    """Operations of a training step for one image, and what matrix products of this precision reach here."""
    network, image = peer(f"timm/{model}", num_classes=10)
    x = torch.zeros(1, *image)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[options.precision]
    size, device = (8192 if options.device == "cuda" else 2048), torch.device(options.device)
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    times = []
    for _ in range(40):
        finish(device)
        begun = time.perf_counter()
        a @ b
        finish(device)
        times.append(time.perf_counter() - begun)
    flops = 3 * counter.get_total_flops()  # backward is twice forward; torch counts grouped ones as if dense
    reached = 2 * size**3 / min(times)
    return {"gflop_per_image": flops / 1e9, "matrix_gflops": reached / 1e9, "images_per_s": reached / flops}


def row(rates: dict[str, list[float]], base: list[float]) -> dict[str, Any]:
    """Medians, spread, and the ratio to timm within each round."""
    whole = sorted(rates["whole"])
    ratios = [mine / theirs for mine, theirs in zip(rates["whole"], base, strict=True)]
    return {
        "images_per_s": statistics.median(whole),
        "low": whole[0],
        "high": whole[-1],
        "rounds": len(whole),
        "times_timm": statistics.median(ratios),
        "times_timm_low": min(ratios),
        "times_timm_high": max(ratios),
        "loader_images_per_s": statistics.median(rates["loader"]),
    }


def table(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    how, machine = document["options"], document["machine"]
    where = f"{machine['processor']}, {how['device']}, {document['threads']} threads"
    versions = f"torch {document['torch']}, timm {document['timm']}, Python {document['python']}"
    what = f"{how['batch_size']} images a step at 224 px in {how['precision']}"
    turns = f"{how['rounds']} interleaved rounds of {how['steps']} steps"
    lines = [
        "# Training throughput",
        "",
        f"{document['date']}; {where}; {versions}.",
        f"{what}, the paper's augmentation, no teacher; {how['workers']} worker processes where images are",
        f"streamed; {turns}. Medians (least–greatest), ratios within rounds.",
        "",
        "| network | loop | images/s | × timm | loader alone, images/s | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for model, one in document["models"].items():
        lines += [_line(model, name, row) for name, row in one["rows"].items()]
    return "\n".join([*lines, "", *(_ceiling(*one) for one in document["models"].items())]) + "\n"


def _line(model: str, name: str, r: dict[str, Any]) -> str:
    speed = f"{r['images_per_s']:.1f} ({r['low']:.1f}–{r['high']:.1f})"
    ratio = f"{r['times_timm']:.2f} ({r['times_timm_low']:.2f}–{r['times_timm_high']:.2f})"
    loader, memory = f"{r['loader_images_per_s']:.0f}", f"{r['memory_mb']:.0f} MiB"
    return f"| {model} | {name} | {speed} | {ratio} | {loader} | {memory} |"


def _ceiling(model: str, one: dict[str, Any]) -> str:
    most, best = one["ceiling"], max(row["images_per_s"] for row in one["rows"].values())
    return (
        f"{model}: {most['gflop_per_image']:.2f} GFLOP an image (three times forward's, counted by torch). "
        f"Matrix products reach {most['matrix_gflops']:.0f} GFLOP/s, {most['images_per_s']:.0f} images/s. "
        f"The fastest loop is at {best / most['images_per_s']:.0%} of that.\n"
    )


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--alone", default="")
    options = parser.parse_args()
    options.data = options.data.resolve()
    if not (options.data / "train").is_dir():
        parser.error(f"{options.data}: no folder with train/<class>/*")
    with tempfile.TemporaryDirectory() as folder:
        if options.alone:
            alone(options.alone, options.models[-1], options, Path(folder))
            return
        document = measured(options, Path(folder))
    name = f"training_throughput-{options.device}-{options.precision}"
    write_json(RESULTS / f"{name}.json", document)
    write_atomically(RESULTS / f"{name}.md", table(document))
    print(table(document), file=sys.stderr)
    print(json.dumps({model: one["rows"] for model, one in document["models"].items()}))


def measured(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Everything, as one document."""
    models = {}
    for model in options.models:
        rates = contest(model, options, work)
        rows = {name: row(one, rates[options.contenders[0]]["whole"]) for name, one in rates.items()}
        for name, one in rows.items():
            one["memory_mb"] = memory_mb(name, model, options)
        models[model] = {"rows": rows, "ceiling": ceiling(model, options), "rates": rates}
    shown = {key: value for key, value in vars(options).items() if key not in ("data", "alone")}
    return {
        "format": "efficientformer.throughput/1",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": fingerprint(Target("torch")),
        "threads": torch.get_num_threads(),
        "version": ef.__version__,
        "torch": torch.__version__,
        "timm": version("timm"),
        "python": platform.python_version(),
        "data": options.data.name,
        "options": shown,
        "models": models,
    }


if __name__ == "__main__":
    main()
