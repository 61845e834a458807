"""Is the supernet's word worth anything? Inherited accuracy against training alone, Kendall's τ.

    python benchmarks/rank_correlation.py --data imagenette

Random architectures spread over the space are trained from scratch, each alone; supernets of several settings
are trained once each, and score the same architectures with inherited weights. Both are judged on the same
validation images. Stopped, it goes on where it was: each result is a file under --out. With `--onto` an
earlier result, its networks are not trained again, and the supernets are added to those it has.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch

from efficientformer.architecture import Architecture
from efficientformer.data.sources.folder import scan
from efficientformer.errors import InputError
from efficientformer.evaluation.score import evaluate
from efficientformer.files import read_json, write_atomically, write_json
from efficientformer.latency.budget import Budget
from efficientformer.latency.machine import fingerprint
from efficientformer.latency.target import Target
from efficientformer.model.network import EfficientFormer
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.job import Job
from efficientformer.pipeline.slim_training import Pictures, learn_supernet, rank, recipe
from efficientformer.progress import Progress
from efficientformer.search.space.search_space import OPEN_KINDS, SearchSpace, supernet_space
from efficientformer.search.supernet.draws import Sampling
from efficientformer.training.batches import held_batches
from efficientformer.training.distributed import World
from efficientformer.training.loop import train

RESULTS = Path(__file__).with_name("results")
SETTINGS = {
    "soft": Sampling(),
    "soft, uniform noise": Sampling(noise="uniform"),
    "sampled": Sampling(paths="sampled"),
    "sampled, elastic": Sampling(paths="sampled", elastic=True),
    "even": Sampling(paths="even"),
    "even, elastic": Sampling(paths="even", elastic=True),
}
"""The first two are the paper's MetaPath, with Gumbel's noise and with its text's."""


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    data: Path
    out: Path
    supernet: str
    input_size: int
    networks: int
    epochs: int
    supernet_epochs: int
    precision: str
    seed: int

    def job(self, sampling: Sampling) -> Job:
        """The slimming job whose supernet is trained."""
        return Job(
            self.data,
            (Budget(share=0.5),),
            input_size=self.input_size,
            supernet=self.supernet,
            supernet_epochs=self.supernet_epochs,
            epochs=self.epochs,
            precision=self.precision,  # ty: ignore[invalid-argument-type]
            policy="exact",  # it goes without α, which even paths do not teach
            sampling=sampling,
            seed=self.seed,
        )

    def pictures(self) -> tuple[Pictures, tuple[str, ...]]:
        """Images, decoded when they are asked for, and the classes."""
        split = scan(self.data, self.seed)
        made = Pictures(self.job(Sampling()), split, RunFolder(self.out), World(), Progress(None))
        return made, split.classes

    def space(self, classes: int) -> SearchSpace:
        """What can be searched."""
        options = {"kinds": OPEN_KINDS, "expansions": (2, 3), "width_step": 8}
        return supernet_space(self.supernet, input_size=self.input_size, num_classes=classes, **options)


def spread(space: SearchSpace, count: int, seed: int) -> list[Architecture]:
    """Random networks, one from each of `count` equal shares of 50 times as many ordered by their MACs."""
    generator = random.Random(seed)
    drawn = sorted((space.sample(generator) for _ in range(50 * count)), key=lambda one: one.macs)
    return [generator.choice(drawn[50 * index : 50 * (index + 1)]) for index in range(count)]


def alone(plan: Plan, index: int) -> None:
    """Train one architecture from scratch and score it."""
    path = plan.out / f"alone-{index:02}.json"
    pictures, classes = plan.pictures()
    images = pictures.at(plan.input_size)
    architecture = spread(plan.space(len(classes)), plan.networks, plan.seed)[index]
    torch.manual_seed(plan.seed)
    network = EfficientFormer(architecture.compact(), layer_scale_init=0.1)
    how = recipe(plan.job(Sampling()), plan.epochs)
    train(
        network,
        held_batches(images.train, how),
        how,
        path.with_suffix(".safetensors"),
        classes=len(classes),
        title=f"network {index}",
        progress=Progress(None),
    )
    score = evaluate(network, images.val, plan.input_size)
    write_json(path, {"architecture": architecture.to_json(), "drawn": str(architecture), **score.to_json()})


def inherited(plan: Plan, name: str) -> None:
    """Train one supernet and score all architectures with its weights."""
    folder = RunFolder(plan.out / f"supernet-{name.replace(', ', '-').replace(' ', '-')}")
    pictures, classes = plan.pictures()
    images = pictures.at(plan.input_size)
    space, job = plan.space(len(classes)), plan.job(SETTINGS[name])
    supernet = learn_supernet(job, space, images.train, folder, Progress(None))
    judge = rank(job, supernet, pictures, folder)
    scores = [
        evaluate(judge.inherited(one), images.val, plan.input_size).to_json()
        for one in spread(space, plan.networks, plan.seed)
    ]
    probabilities = [[round(v, 3) for v in row] for one in supernet.probabilities() for row in one.tolist()]
    write_json(folder.file("scores.json"), {"scores": scores, "probabilities": probabilities})


def work(task: tuple[str, Plan, Any]) -> str:
    """One piece of work in a process of one thread."""
    torch.set_num_threads(1)
    kind, plan, what = task
    (alone if kind == "alone" else inherited)(plan, what)
    return f"{kind} {what}"


def score_file(plan: Plan, name: str) -> Path:
    """Where a supernet's scores are kept."""
    return plan.out / f"supernet-{name.replace(', ', '-').replace(' ', '-')}" / "scores.json"


def tasks(plan: Plan, settings: list[str], before: dict[str, Any] | None) -> list[tuple[str, Plan, Any]]:
    """What is not done yet, the longest first; networks that were trained before are not."""
    supernets = [("supernet", plan, name) for name in settings if not score_file(plan, name).exists()]
    networks = [
        ("alone", plan, index)
        for index in reversed(range(plan.networks))
        if before is None and not (plan.out / f"alone-{index:02}.json").exists()
    ]
    return [*supernets, *networks]


def correlation(inherit: list[float], trained: list[float]) -> dict[str, Any]:
    """Kendall's τ-b with its 95 % interval, a bootstrap over architectures; and Spearman's ρ."""
    pairs, generator = np.array([inherit, trained]), np.random.default_rng(0)
    draws = [pairs[:, generator.integers(0, len(trained), len(trained))] for _ in range(2000)]
    low, high = np.nanquantile([scipy.stats.kendalltau(*draw).statistic for draw in draws], (0.025, 0.975))
    return {
        "kendall": float(scipy.stats.kendalltau(*pairs).statistic),
        "interval": [float(low), float(high)],
        "spearman": float(scipy.stats.spearmanr(*pairs).statistic),
    }


def _against(trained: list[float], scores: list[dict[str, Any]], sampling: Sampling) -> dict[str, Any]:
    """A supernet's scores of the networks, held against their training alone."""
    top1, loss = ([one[name] for one in scores] for name in ("top1", "loss"))
    return {
        "sampling": dataclasses.asdict(sampling),
        "top1": top1,
        "loss": loss,
        **correlation(top1, trained),
        "by loss": correlation([-one for one in loss], trained),
    }


def collected(plan: Plan, before: dict[str, Any] | None) -> dict[str, Any]:
    """All results as one document; with one from before, new supernets in it."""
    document = before or _trained(plan)
    top1 = [one["top1"] for one in document["networks"]]
    here = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": fingerprint(Target())["processor"],
        "precision": plan.precision,
    }
    found = {
        name: here | _against(top1, read_json(score_file(plan, name))["scores"], SETTINGS[name])
        for name in SETTINGS
        if score_file(plan, name).exists()
    }
    known = document["supernets"] | found
    return document | {"supernets": {name: known[name] for name in SETTINGS if name in known}}


def _trained(plan: Plan) -> dict[str, Any]:
    """The networks that were trained alone."""
    networks = [read_json(plan.out / f"alone-{index:02}.json") for index in range(plan.networks)]
    macs = [Architecture.from_json(one["architecture"]).macs for one in networks]
    return {
        "format": "efficientformer.rank-correlation/1",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": fingerprint(Target()),
        "plan": {key: value for key, value in dataclasses.asdict(plan).items() if key not in ("data", "out")},
        "images": networks[0]["images"],
        "networks": [
            {"network": one["drawn"], "macs": m, "top1": one["top1"]}
            for one, m in zip(networks, macs, strict=True)
        ],
        "macs alone": correlation([float(one) for one in macs], [one["top1"] for one in networks]),
        "supernets": {},
    }


def earlier(plan: Plan, path: Path, classes: int) -> dict[str, Any]:
    """A result that others are added to; it must be of the same networks, trained for as long."""
    document = read_json(path)
    drawn = [str(one) for one in spread(plan.space(classes), plan.networks, plan.seed)]
    alike = ("supernet", "input_size", "networks", "epochs", "supernet_epochs", "seed")
    if [one["network"] for one in document["networks"]] != drawn or any(
        document["plan"][key] != getattr(plan, key) for key in alike
    ):
        raise InputError(f"{path}: is of other networks or trainings than asked for")
    return document


def _tau(one: dict[str, Any]) -> str:
    low, high = one["interval"]
    return f"{one['kendall']:.2f} ({low:.2f} to {high:.2f})"


def _where(one: dict[str, Any], document: dict[str, Any]) -> str:
    """Where a supernet was trained, when and in which precision."""
    machine = one.get("machine", document["machine"]["processor"])
    precision = one.get("precision", document["plan"]["precision"])
    return f"{machine}, {precision}, {one.get('date', document['date'])[:10]}"


def table(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    plan, machine = document["plan"], document["machine"]
    lines = [
        "# Does the supernet rank?",
        "",
        f"{plan['networks']} random networks of space {plan['supernet']} at {plan['input_size']} px "
        f"(kinds {', '.join(OPEN_KINDS)}, expansions 2 to 4, widths in steps of 8), each "
        f"trained alone for {plan['epochs']} epochs on Imagenette; supernets for {plan['supernet_epochs']}. "
        f"Judged on {document['images']:,} validation images. {document['date'][:10]}, "
        f"{machine['processor']}, {plan['precision']}, seed {plan['seed']}.",
        "",
        "| supernet | Kendall τ of top-1 (95 %) | of loss (95 %) | Spearman ρ of top-1 | inherited top-1 "
        "| trained on |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in document["supernets"].items():
        lines.append(
            f"| {name} | {_tau(one)} | {_tau(one['by loss'])} | {one['spearman']:.2f} | "
            f"{min(one['top1']):.1%} to {max(one['top1']):.1%} | {_where(one, document)} |"
        )
    one, trained = document["macs alone"], [row["top1"] for row in document["networks"]]
    missing = [name for name in SETTINGS if name not in document["supernets"]]
    lines += [
        f"| none: by MACs | {_tau(one)} | – | {one['spearman']:.2f} | – | – |",
        "",
        f"Trained alone, one seed each: {min(trained):.1%} to {max(trained):.1%}.",
        *([f"Not trained: {', '.join(missing)}."] if missing else []),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Train what is not trained yet, collect, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/rank"))
    parser.add_argument("--supernet", default="s")
    parser.add_argument("--input-size", type=int, default=64)
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--supernet-epochs", type=int, default=15)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", default=";".join(SETTINGS), help="names of supernets, with ; between")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--onto", type=Path, help="an earlier result, such as results/rank_correlation.json")
    options = vars(parser.parse_args())
    settings, processes = options.pop("settings").split(";"), options.pop("processes")
    onto = options.pop("onto")
    plan = Plan(**options)
    pictures, classes = plan.pictures()
    pictures.at(plan.input_size)  # decoded once, before the processes start
    before = earlier(plan, onto, len(classes)) if onto else None
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        for done in pool.imap_unordered(work, tasks(plan, settings, before)):
            print(f"{datetime.now():%H:%M:%S} {done}", flush=True)
    document = collected(plan, before)
    write_json(RESULTS / "rank_correlation.json", document)
    write_atomically(RESULTS / "rank_correlation.md", table(document))
    print(json.dumps({name: one["kendall"] for name, one in document["supernets"].items()}))


if __name__ == "__main__":
    main()
