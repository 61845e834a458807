"""Can a vision transformer be as fast as MobileNet and still be accurate, here?

    python benchmarks/mobilenet_speed.py --data imagenette

For each runtime MobileNetV2 ×1.0's latency is the budget. A network is slimmed to it, and for comparison: the
plain greedy choice of the paper, L1 uniformly narrowed, random networks of the same space and latency, a
network made by hand, LeViT of the nearest latency and MobileNetV4-Conv-S. All are timed in one interleaved
run and trained from scratch by one recipe: the slimmed network, the peers and the best of the random networks
--seeds times, the others once.
The paper's supernet serves all runtimes; ours is trained anew for each one's budget. Stopped, it goes on
where it was: each result is a file under --out. With --device cuda the trainings run there; latencies are
the targets'.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import random
import statistics
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy.stats import kendalltau

from contracts import OURS, RESULTS, WAYS, add_options, at_once, claim, contract_of, kept, train_supernets
from efficientformer.architecture import Architecture, Block
from efficientformer.files import read_json, write_atomically, write_json
from efficientformer.latency.bench import Entry, time_entries
from efficientformer.latency.budget import Budget
from efficientformer.latency.machine import fingerprint
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.subjects import deployed_peer
from efficientformer.latency.target import Target
from efficientformer.latency.untrained import untrained
from efficientformer.layers import Attention
from efficientformer.pipeline.contract import Contract
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.train import train
from efficientformer.pipeline.train_job import TrainJob
from efficientformer.presets import PRESETS, pooling
from efficientformer.progress import Progress
from efficientformer.search.space.costs import Window
from efficientformer.search.space.variation import Variation
from efficientformer.training.logs import read_log
from efficientformer.training.recipe import Recipe
from efficientformer.training.recipes import recipe_of

MOBILENET, CONV_S = "timm/mobilenetv2_100", "timm/mobilenetv4_conv_small"
LEVITS = ("timm/levit_128s", "timm/levit_128", "timm/levit_192", "timm/levit_256")
BUDGET, CONV_S_NAME, LEVIT_NAME = "MobileNetV2 ×1.0", "MobileNetV4-Conv-S", "LeViT of the nearest latency"
CLASSES = 10
LONG = 80  # epochs from which on the recipe is `scratch`'s
AIM = 0.98  # of MobileNetV2's latency: the network is to be no slower in the run that compares them

NOT_SAID = ("data", "out", "shared", "only", "processes")

Model = str | Architecture


def entry(model: Model, side: int) -> Entry:
    """What is timed: a peer, or one of ours with random weights."""
    network = untrained(model) if isinstance(model, Architecture) else deployed_peer(model, side, CLASSES)
    return network, (3, side, side)


def milliseconds(models: dict[str, Model], target: Target, side: int, **settings: Any) -> dict[str, float]:
    """Medians of one interleaved run."""
    receipts = time_entries({name: entry(one, side) for name, one in models.items()}, target, **settings)
    return {name: receipt.median_ms for name, receipt in receipts.items()}


def narrowed_l1(factor: float, side: int, step: int = 8) -> Architecture:
    """L1 with all widths, and the heads of its attention, by one factor; widths in multiples of the step."""
    network = PRESETS["efficientformer_l1"]
    heads = max(1, round(factor * network.attention.heads))
    attention = dataclasses.replace(network.attention, heads=heads)
    for stage, width in enumerate(network.widths):
        network = network.with_width(stage, max(step, step * round(factor * width / step)))
    return dataclasses.replace(
        network, attention=attention, input_size=(side, side), num_classes=CLASSES, distilled=False
    )


def widest_l1(target: Target, budget_ms: float, side: int) -> Architecture:
    """The narrowed L1 that is slowest within the budget, all in one run, as widths cost in stairs."""
    networks = dict.fromkeys(
        narrowed_l1(factor / 64, side, step) for factor in range(16, 49, 2) for step in (8, 16)
    )
    narrowed = {str(index): one for index, one in enumerate(networks)}
    took = milliseconds(narrowed, target, side, seconds=1.5)
    return narrowed[max((name for name in took if took[name] <= budget_ms), key=took.__getitem__)]


def made_by_hand(side: int) -> Architecture:
    """Unified FFN blocks and one attention block, as tried before there was a search."""
    network = pooling((24, 32, 80, 160), (2, 2, 6, 4), 1)
    for stage, one in enumerate(network.stages):
        for position, block in enumerate(one.blocks):
            if block.kind == "pool":
                network = network.with_block(stage, position, "ffn")
    return dataclasses.replace(
        network,
        attention=Attention(heads=4, key_dim=16, value_dim=64),
        input_size=(side, side),
        num_classes=CLASSES,
        distilled=False,
    )


def random_networks(contract: Contract, budget_ms: float, count: int) -> list[Architecture]:
    """Networks of the space, drawn in the window of predicted latency just under the budget."""
    window = Window(0.95 * budget_ms, 0.99 * budget_ms)
    variation = Variation(contract.problem().choices, contract.rows, window, random.Random(0))
    drawn = (variation.sample() for _ in range(100 * count))
    found = dict.fromkeys(one.compact() for one in drawn if one is not None)
    return list(found)[:count]


def in_place(network: Architecture, largest: Architecture) -> Architecture | None:
    """A network as one of the largest's space, identities first in each stage; None if it is none."""
    for stage, one in enumerate(network.stages):
        largest = largest.with_width(stage, one.width)
        spare = len(largest.stages[stage].blocks) - len(one.blocks)
        if spare < 0:
            return None
        for position, block in enumerate((*spare * (Block("identity"),), *one.blocks)):
            largest = largest.with_block(stage, position, block.kind)
            largest = largest.with_expansion(stage, position, block.expansion)
    return largest if largest.compact() == network else None


def inherited(contract: Contract, networks: dict[str, Architecture]) -> dict[str, Any]:
    """What our supernet says of the networks that are of its space: top-1 and loss on the search's images."""
    problem, largest = contract.problem(), contract.plan.space.largest
    placed = {name: in_place(one, largest) for name, one in networks.items()}
    held = {name: one for name, one in placed.items() if one and problem.choices.holds(one)}
    scores = problem.book.score(list(held.values()))
    return {name: {"top1": one.top1, "loss": one.loss} for name, one in zip(held, scores, strict=True)}


def contenders(options: argparse.Namespace, text: str, folder: RunFolder) -> dict[str, Any]:
    """Every contender under a runtime, a peer's name or an architecture; and how they were found."""
    target, side = Target.parse(text), options.input_size
    peers = {name: name for name in (MOBILENET, *LEVITS)}
    took = kept(folder.file("peers.json"), lambda: milliseconds(peers, target, side, seconds=4.0))
    budget_ms = AIM * took[MOBILENET]
    found: dict[str, Any] = {BUDGET: MOBILENET, CONV_S_NAME: CONV_S}
    found[LEVIT_NAME] = min(LEVITS, key=lambda name: abs(took[name] - took[MOBILENET]))
    found["L1, narrowed"] = widest_l1(target, budget_ms, side).to_json()
    found["made by hand"] = made_by_hand(side).to_json()
    searched: dict[str, Any] = {}
    for way in WAYS:
        own, budget = RunFolder(folder.root / way.replace(" ", "-")), Budget(ms=round(budget_ms, 4))
        with contract_of(options, text, own, way, budget) as contract:
            one = contract.find(budget_ms)
            found[way] = one.architecture.compact().to_json()
            searched[way] = one.to_json()
            if way == OURS:
                drawn = random_networks(contract, budget_ms, options.random)
                found |= {f"random {index}": network.to_json() for index, network in enumerate(drawn)}
                scores = inherited(contract, architectures(found))
                # Its identities are where the search put them.
                scores[OURS] = {"top1": one.top1, "loss": one.loss}
    return {
        "mobilenet_ms": took[MOBILENET],
        "contenders": found,
        "searched": searched,
        "inherited": scores,
    }


def architectures(found: dict[str, Any]) -> dict[str, Architecture]:
    """Those of the contenders that are ours to describe."""
    return {name: Architecture.from_json(one) for name, one in found.items() if isinstance(one, dict)}


def models_of(asked: dict[str, Any]) -> dict[str, Model]:
    """The contenders that `contenders` wrote."""
    return asked["contenders"] | architectures(asked["contenders"])


def timed(models: dict[str, Model], target: Target, side: int) -> dict[str, Any]:
    """Receipts of all contenders in one interleaved run."""
    entries = {name: entry(one, side) for name, one in models.items()}
    receipts = time_entries(entries, target, rounds=21, seconds=3.0, min_samples=60)
    return {name: receipt.to_json() for name, receipt in receipts.items()}


def folder_of(options: argparse.Namespace, model: Model, seed: int) -> Path:
    """Where a training is kept: a network that two runtimes share is trained once."""
    trained = options.out / f"trained-{options.epochs}-{options.input_size}-{options.precision}"
    if isinstance(model, Architecture):
        digest = hashlib.sha256(json.dumps(model.to_json(), sort_keys=True).encode()).hexdigest()[:12]
        return trained / f"{digest}-{seed}"
    return trained / f"{model.removeprefix('timm/')}-{seed}"


def recipe(options: argparse.Namespace, seed: int) -> Recipe:
    """How everything is trained."""
    changes = {
        "epochs": options.epochs,
        "warmup_epochs": options.epochs / 10,
        "input_size": options.input_size,
        "precision": options.precision,
        "seed": seed,
    }
    return recipe_of("scratch" if options.epochs >= LONG else "short", changes)


def learnt(options: argparse.Namespace, model: Model, seed: int, threads: int) -> str:
    """One training from scratch."""
    torch.set_num_threads(threads)
    out = folder_of(options, model, seed)
    name = model
    if isinstance(model, Architecture):
        name = str(out.with_suffix(".json"))
        write_json(Path(name), model.to_json())
    job = TrainJob(
        str(name), options.data, recipe(options, seed), keep="held", device=options.device, logs=()
    )
    summary = train(job, out, Progress(None))
    return f"{model}, seed {seed}: {summary['top1']:.1%}, {summary['seconds']:.0f} s"


def seeds_of(options: argparse.Namespace, name: str) -> list[int]:
    """The seeds a contender is trained with: all, or the first."""
    return options.seeds if name in (OURS, BUDGET, CONV_S_NAME, LEVIT_NAME) else options.seeds[:1]


def train_all(options: argparse.Namespace, models: dict[str, dict[str, Model]]) -> None:
    """Every training that is not done: first seeds first, random networks last, then more of the best."""
    everyone = [
        (name.startswith("random"), options.seeds.index(seed), model, seed)
        for own in models.values()
        for name, model in own.items()
        for seed in seeds_of(options, name)
    ]
    ordered = sorted(everyone, key=lambda one: one[:2])
    train_left(options, [(model, seed) for *_, model, seed in ordered])
    best = [best_random(options, own) for own in models.values()]
    train_left(options, [(model, seed) for seed in options.seeds for model in best if model])


def train_left(options: argparse.Namespace, asked: list[tuple[Model, int]]) -> None:
    """Those trainings that are not done."""
    folders = {folder_of(options, *one): one for one in asked}
    left = [one for folder, one in folders.items() if not (folder / "summary.json").exists()]
    print(f"{len(left)} of {len(folders)} trainings to do", flush=True)
    at_once(options, learnt, left)


def best_random(options: argparse.Namespace, models: dict[str, Model]) -> Model | None:
    """The random network that was best with the first seed; it gets the others, as that one may be luck."""
    drawn = [model for name, model in models.items() if name.startswith("random")]
    return max(drawn, key=lambda model: top1_of(options, model, options.seeds[0]), default=None)


def top1_of(options: argparse.Namespace, model: Model, seed: int) -> float:
    """What a training came to."""
    return read_json(folder_of(options, model, seed) / "summary.json")["top1"]


def row(
    options: argparse.Namespace, name: str, model: Model, times: dict[str, Any], asked: dict[str, Any]
) -> dict[str, Any] | None:
    """What was measured of one contender; None if it has not been trained yet."""
    receipt, beside = Measurement.from_json(times[name]), Measurement.from_json(times[BUDGET])
    done = {seed: folder_of(options, model, seed) for seed in options.seeds}
    done = {seed: folder for seed, folder in done.items() if (folder / "summary.json").exists()}
    if not done:
        return None
    seeds, folders = list(done), list(done.values())
    runs = [read_json(folder / "summary.json") for folder in folders]
    curves = [
        [line["weights/top1"] for line in read_log(folder / "log.jsonl") if line["kind"] == "epoch"]
        for folder in folders
    ]
    return {
        "name": name,
        "network": str(model),
        "architecture": model.to_json() if isinstance(model, Architecture) else None,
        "median_ms": receipt.median_ms,
        "interval_ms": list(receipt.interval_ms),
        "samples": len(receipt.samples_ms),
        "verdict": receipt.verdict,
        "ratio": receipt.median_ms / beside.median_ms,
        "inherited": asked["inherited"].get(name),
        "params": runs[0]["params"],
        "seeds": seeds,
        "top1": [run["top1"] for run in runs],
        "top1_by_epoch": curves,
        "images": runs[0]["images"],
        "seconds": [run["seconds"] for run in runs],
    }


def spread_of(top1: list[float]) -> str:
    """A mean, and the least and the greatest where there are several."""
    mean = f"{statistics.fmean(top1):.1%}"
    return mean if len(top1) == 1 else f"{mean} ({min(top1):.1%} to {max(top1):.1%})"


def scored_as(one: dict[str, Any]) -> str:
    """What the supernet says of a contender."""
    return f"{one['inherited']['top1']:.1%}, {one['inherited']['loss']:.3f}" if one["inherited"] else "–"


def ranks(rows: list[dict[str, Any]]) -> list[str]:
    """How the supernet ranks networks of one latency, against their training alone with the first seed."""
    known = [one for one in rows if one["inherited"]]
    alone = [one["top1"][0] for one in known]
    if len(known) < 3:
        return []
    by_top1 = kendalltau([one["inherited"]["top1"] for one in known], alone).statistic
    by_loss = kendalltau([-one["inherited"]["loss"] for one in known], alone).statistic
    return [
        f"Of the supernet's space {len(known)} were trained ({min(alone):.1%} to {max(alone):.1%} with the "
        f"first seed): Kendall's τ with what they inherit is {by_loss:.2f} by loss, {by_top1:.2f} by top-1."
    ]


def page(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    asked, machine = document["asked"], document["machine"]
    lines = [
        "# MobileNet speed, here",
        "",
        f"{machine['processor']}, {machine['cores']} cores, latencies with one thread; "
        f"{document['date'][:10]}. Imagenette at {asked['input_size']} px from scratch, {asked['epochs']} "
        f"epochs, {asked['precision']}, trained on {asked['device']}, seeds of "
        f"{', '.join(map(str, asked['seeds']))} as the last column counts. "
        f"Supernet {asked['supernet']}, {asked['supernet_epochs']} "
        f"epochs, paths {asked['paths']}; slimmed by the policy {asked['policy']}. The plain greedy "
        "is the paper's space, supernet (soft paths, a quarter of the epochs) and search. Latencies of a "
        "runtime are of one interleaved run. Top-1 of all 3,925 validation images after the last epoch: mean "
        "of the seeds (least to greatest). Inherited: top-1 and loss with our supernet's weights, on images "
        "set apart from training.",
    ]
    for target, rows in document["runtimes"].items():
        drawn = [one for one in rows if one["name"].startswith("random")]
        best = max(drawn, key=lambda one: one["top1"][0], default=None)
        lines += [
            "",
            f"## {target}",
            "",
            "| | ms | times MobileNetV2 | n | verdict | parameters | top-1 | seeds | inherited |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for one in rows:
            if one in drawn and one is not best:
                continue
            name = f"best of {len(drawn)} random networks" if one is best else one["name"]
            lines.append(
                f"| {name} | {one['median_ms']:.3f} | {one['ratio']:.2f} | {one['samples']} | "
                f"{one['verdict']} | {one['params'] / 1e6:.2f} M | {spread_of(one['top1'])} | "
                f"{len(one['seeds'])} | {scored_as(one)} |"
            )
        lines += ["", *ranks(rows)]
        left = document["not trained"][target]
        lines += [
            "",
            *(f"- {one['name']}: `{one['network']}`" for one in rows if one not in drawn),
            *([f"- Not trained: {', '.join(left)}."] if left else []),
        ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Search, time, train, collect, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add_options(parser, paths="near", policy="bayesian")
    parser.add_argument("--out", type=Path, default=Path("runs/mobilenet-speed"))
    parser.add_argument("--targets", default="onnxruntime,openvino,tflite")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=lambda text: list(map(int, text.split(","))), default=[0, 1, 2])
    parser.add_argument("--random", type=int, default=10, help="random networks for each runtime")
    parser.add_argument(
        "--only",
        choices=("supernets", "search", "collect"),
        help="stop after supernets, or after the search; or train nothing and write what there is",
    )
    options = parser.parse_args()
    claim(options, free=("targets", "epochs", "seeds", "only"))
    asked, times, models = {}, {}, {}
    train_supernets(options)
    if options.only == "supernets":
        return
    for text in options.targets.split(","):
        folder, target = RunFolder(options.out / text.replace(":", "-")), Target.parse(text)
        folder.root.mkdir(parents=True, exist_ok=True)
        make = partial(contenders, options, text, folder)
        asked[text] = kept(folder.file("contenders.json"), make)
        models[text] = models_of(asked[text])
        make = partial(timed, models[text], target, options.input_size)
        times[text] = kept(folder.file("latency.json"), make)
    if options.only == "search":
        return
    if options.only != "collect":
        train_all(options, models)
    made = {
        text: {name: row(options, name, model, times[text], asked[text]) for name, model in own.items()}
        for text, own in models.items()
    }
    document = {
        "format": "efficientformer.mobilenet-speed/1",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": fingerprint(Target()),
        "asked": {key: value for key, value in vars(options).items() if key not in NOT_SAID},
        "recipe": recipe(options, options.seeds[0]).to_json(),
        "searched": {text: one["searched"] for text, one in asked.items()},
        "runtimes": {text: [one for one in own.values() if one] for text, own in made.items()},
        "not trained": {text: [name for name, one in own.items() if not one] for text, own in made.items()},
    }
    name = f"mobilenet_speed-{options.epochs}"
    write_json(RESULTS / f"{name}.json", document)
    write_atomically(RESULTS / f"{name}.md", page(document))
    print(page(document))


if __name__ == "__main__":
    main()
