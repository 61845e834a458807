"""`efficientformer slim` and `demo`: the main job."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from efficientformer.cli.options import DEFAULT_TARGET, Json, TargetText, names, print_json
from efficientformer.cli.space import DEFAULT_SPACE, SpaceOptions
from efficientformer.data.augmentation import Augmentation
from efficientformer.latency.budget import Budget
from efficientformer.latency.target import Target
from efficientformer.pipeline.demo import demo_job, write_digits
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.front import front
from efficientformer.pipeline.job import Job, sampling_for
from efficientformer.pipeline.slim import place, slim_to_budgets
from efficientformer.pipeline.slim import slim as run_slim
from efficientformer.report import write_report
from efficientformer.search.supernet.draws import Noise, Paths, Sampling
from efficientformer.terminal.runs import accuracy_table, front_table, summary_table
from efficientformer.terminal.table import show
from efficientformer.training.distributed import is_first
from efficientformer.training.recipe import Precision


def slim(
    *,
    data: Path,
    budget: Annotated[str, Parameter(allow_leading_hyphen=True)],
    target: TargetText = DEFAULT_TARGET,
    precisions: str = "",
    input_size: int = Job.input_size,
    out: Path = Path("runs/slim"),
    supernet: str = Job.supernet,
    space: SpaceOptions = DEFAULT_SPACE,
    policy: str = Job.policy,
    evaluations: int = Job.evaluations,
    supernet_epochs: int = Job.supernet_epochs,
    epochs: int = Job.epochs,
    batch_size: int = Job.batch_size,
    learning_rate: float = Job.learning_rate,
    min_area: float = Augmentation.min_area,
    flip: bool = Augmentation.flip,
    precision: Precision = Job.precision,
    tau_start: float = Sampling.tau_start,
    tau_end: float = Sampling.tau_end,
    noise: Noise = Sampling.noise,
    paths: Paths | None = None,
    elastic: bool | None = None,
    max_unreadable: float = Job.max_unreadable,
    train_unslimmed: bool = Job.train_unslimmed,
    table: Path | None = None,
    device: str = Job.device,
    seed: int = Job.seed,
    as_json: Json = False,
) -> None:
    """The main job: from a folder of images and a budget to a trained network that meets it, with the proof.

    Start the same command again to go on with a run that was stopped.

    Args:
        data: folder of train/<class>/* and val/<class>/*, or of <class>/*.
        budget: latency of one inference with its unit: 8ms, 500us, or 50% of the unslimmed network;
            several with commas between get a network each from the one supernet.
        target: where it must be met.
        precisions: that the network may run in there, such as fp32,int8: a network is searched in each, and
            the one whose exported file does best on images set apart is trained.
        input_size: pixels of a side, a multiple of 32.
        out: the run's folder.
        supernet: xs, s, m, l7, or auto for the smallest that leaves room for a search.
        space: what it has to choose from.
        policy: bayesian (optimisation by scores of networks of the budget), evolution, random, exact (integer
            programming by rises in loss from the largest network), greedy (the paper's), greedy-remeasured.
        evaluations: networks that bayesian, evolution and random search may score.
        supernet_epochs: passes over the training images for the supernet.
        epochs: the same for the network that is found.
        batch_size: images a step.
        learning_rate: AdamW's peak.
        min_area: smallest share of an image that a random crop keeps.
        flip: mirror images in training.
        precision: of training; bf16 is faster where the processor has it.
        tau_start: the supernet's softmax temperature at first.
        tau_end: and at last.
        noise: of the Gumbel softmax; the paper's text has uniform.
        paths: of the supernet's steps: near runs a network of a latency near the budget, even any path,
            sampled one by its probability, soft mixes all (the paper's). By default soft for the greedy
            policies, even and elastic for exact, near for the others.
        elastic: train narrower widths and expansions too.
        max_unreadable: greatest share of unreadable images that is put up with.
        train_unslimmed: also train the unslimmed network, to see what slimming cost.
        table: a latency table to use and extend, instead of the run's own.
        device: that trains: cpu, cuda, or auto.
        seed: of everything random.
        as_json: print the summary as JSON.
    """
    job = Job(
        data,
        tuple(map(Budget.parse, budget.split(","))),
        Target.parse(target),
        precisions=names(precisions),
        input_size=input_size,
        **space.read(),
        policy=policy,
        evaluations=evaluations,
        device=device,
        supernet=supernet,
        supernet_epochs=supernet_epochs,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        augmentation=Augmentation(min_area, flip),
        precision=precision,
        sampling=_sampling(policy, paths, elastic, Sampling(tau_start, tau_end, noise)),
        max_unreadable=max_unreadable,
        train_unslimmed=train_unslimmed,
        seed=seed,
    )
    summaries = slim_to_budgets(job, out, table)
    if not is_first():
        return
    folders = [place(RunFolder(out), one).root for one in job.budgets]
    if len(summaries) == 1:
        _print_result(summaries[0], folders[0], as_json=as_json)
    elif as_json:
        for folder in folders:
            write_report(folder)
        print_json(front(summaries))
    else:
        for summary, folder in zip(summaries, folders, strict=True):
            _print_result(summary, folder, as_json=False)
        show(front_table(front(summaries)))


def _sampling(policy: str, paths: Paths | None, elastic: bool | None, asked: Sampling) -> Sampling:
    """What was asked for; what suits the policy where nothing was."""
    best = sampling_for(policy) if paths is None else Sampling(paths=paths)
    elastic = best.elastic if elastic is None else elastic
    return dataclasses.replace(asked, paths=best.paths, elastic=elastic)


def demo(
    *,
    budget: str = "50%",
    target: TargetText = DEFAULT_TARGET,
    out: Path = Path("runs/demo"),
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """The main job on scikit-learn's handwritten digits: minutes on two cores, no download.

    Args:
        budget: latency with its unit, or a share of the unslimmed network's.
        target: where it must be met.
        out: the run's folder; the images are written beside it.
        seed: of everything random.
        as_json: print the summary as JSON and nothing else.
    """
    job = demo_job(out.with_name("digits"), Budget.parse(budget), Target.parse(target), seed)
    write_digits(job.data)
    summary = run_slim(job, out)
    _print_result(summary, out, as_json=as_json)
    if not as_json:
        print_json(_short(summary))


def _print_result(summary: dict[str, Any], out: Path, *, as_json: bool) -> None:
    page = write_report(out)
    if as_json:
        print_json(_short(summary))
        return
    show(summary_table(summary))
    show(accuracy_table(summary))
    print(f"network: {summary['architecture']}  (P pooling, F unified FFN, A attention block)")
    print(f"report:  {page}")


def _short(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary without raw samples and layer lists; those stay in `summary.json`."""
    short = {key: value for key, value in summary.items() if key not in ("layers", "classes")}
    short["contenders"] = [
        {**one, "latency": {key: value for key, value in one["latency"].items() if key != "samples_ms"}}
        for one in summary["contenders"]
    ]
    return short
