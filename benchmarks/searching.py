"""Is a budget met, and by which policy best? Twenty budgets on two runtimes, and the policies at equal cost.

    python benchmarks/searching.py --data imagenette

One supernet is trained; for each runtime a latency table is measured (or `table_audit.py`'s is taken, under
--shared) and each of `--budgets` latencies spread evenly over the range is met as `slim` meets it: searched,
exported, proven. Only the training of the network found is left out: it keeps the supernet's weights, and its
latency is that of the trained one. The file is then measured anew, in processes of its own, beside
MobileNetV2, as it was for the proof: a hit lies between 93 % and 102 % of the budget. Then, under the first
runtime, every policy searches three budgets.
Stopped, it goes on where it was: results are kept one by one under --out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from contracts import OURS, RESULTS, add_options, claim, contract_of, job_of, kept, train_supernets
from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.files import write_atomically, write_json
from efficientformer.latency.bench import Entry, time_entries
from efficientformer.latency.machine import fingerprint
from efficientformer.latency.subjects import peer
from efficientformer.latency.target import Target
from efficientformer.model.network import EfficientFormer
from efficientformer.pipeline.contract import BudgetMissedError, Contract, within
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.job import SHORTFALL, TOLERANCE
from efficientformer.pipeline.prove import PEER
from efficientformer.pipeline.team import Team
from efficientformer.search.journal import Journal
from efficientformer.search.policies.gap import optimality_gap
from efficientformer.search.policies.search import POLICIES, Problem, search
from efficientformer.search.policies.values import measure_values
from efficientformer.search.space.costs import Window

SHARES = "0.25,0.5,0.75"


def spread(contract: Contract, count: int) -> list[float]:
    """Budgets in ms, evenly from a little over the smallest network's to a little under the largest's."""
    low, high = contract.plan.least.median_ms, contract.plan.greatest.median_ms
    return [round(float(one), 4) for one in np.linspace(1.1 * low, 0.98 * high, count)]


class Untrained(Team):
    """Trains no network: each keeps what it inherits, as its latency is the same."""

    def learn(self, architecture: Architecture, folder: RunFolder) -> EfficientFormer:
        """The network with the supernet's weights."""
        return self.judge.inherited(architecture)


def hit(contract: Contract, budget_ms: float, folder: RunFolder) -> dict[str, Any]:
    """One budget: what `slim` comes to, and what its file takes when it is measured once more."""
    job, team = contract.job, contract.team
    untrained = Untrained(team.job, team.judge, team.world, team.progress)
    try:
        met = dataclasses.replace(contract, team=untrained).meet(budget_ms, folder)
    except BudgetMissedError as error:
        return {"budget_ms": budget_ms, "error": str(error), "hit": False}
    network = met.found.compact()
    proven = {one.name: one.latency for one in (met.proof.slimmed, *met.proof.others)}
    mobilenet, _ = peer(PEER, num_classes=network.num_classes)
    entries: dict[str, Entry] = {
        "slimmed": folder.file(met.proof.artefact.path),
        PEER: (mobilenet, (network.in_channels, *network.input_size)),
    }
    anew = time_entries(entries, job.target, quiet=True, rounds=21, seconds=3.0, min_samples=60)
    receipt = anew["slimmed"]
    return {
        "budget_ms": budget_ms,
        "predicted_ms": met.predicted.ms,
        "proven_ms": proven["slimmed"].median_ms,
        "measured_ms": receipt.median_ms,
        "interval_ms": list(receipt.interval_ms),
        "samples": len(receipt.samples_ms),
        "verdict": receipt.verdict,
        "mobilenet_ms": {"proven": proven[PEER].median_ms, "measured": anew[PEER].median_ms},
        "hit": within(receipt.median_ms, budget_ms),
        "network": str(network),
        "inherited_top1": met.search.top1,
        "images": met.search.images,
    }


def hits(contract: Contract, options: argparse.Namespace, folder: RunFolder) -> list[dict[str, Any]]:
    """All budgets of a runtime."""
    found = []
    for index, budget_ms in enumerate(spread(contract, options.budgets)):
        path = folder.file(f"hit-{index:02}.json")
        place = RunFolder(folder.file(f"budget-{index:02}"))
        found.append(kept(path, lambda ms=budget_ms, place=place: hit(contract, ms, place)))
        print(f"{contract.job.target.runtime} {budget_ms:.3f} ms: {came_to(found[-1])}", flush=True)
    return found


def came_to(one: dict[str, Any]) -> str:
    """How a budget was met, in words."""
    if "error" in one:
        return one["error"]
    return f"{one['measured_ms']:.3f} ({one['measured_ms'] / one['budget_ms'] - 1:+.1%}, {one['verdict']})"


def compared(contract: Contract, shares: list[float], folder: RunFolder) -> list[dict[str, Any]]:
    """Every policy on a few budgets, those that score as many networks as they may at the dearest's cost."""
    low, high = contract.plan.least.median_ms, contract.plan.greatest.median_ms
    learnt = contract.job.sampling.teaches_alpha  # by α the plain greedy goes
    rows, contract.rows.scale = [], 1.0
    for share in shares:
        budget_ms, evaluations = low + share * (high - low), 32
        window = Window(0.95 * budget_ms, 0.99 * budget_ms)
        for policy in POLICIES if learnt else POLICIES[1:]:
            path = folder.file(f"policy-{share:g}-{policy}.json")
            journal = Journal(folder.file(f"search-{policy}.jsonl"))
            problem = dataclasses.replace(contract.problem(), journal=journal)
            row = kept(path, partial(_searched, policy, problem, window, evaluations))
            evaluations = max(evaluations, row["evaluations"])
            rows.append({"budget_ms": budget_ms, **row})
    return rows


def _searched(policy: str, problem: Problem, window: Window, evaluations: int) -> dict[str, Any]:
    return search(policy, problem, window, evaluations=evaluations, refine=200).to_json()


def gaps(contract: Contract) -> list[dict[str, Any]]:
    """The optimality gap of the greedy choice, at latencies over the range."""
    problem, found = contract.problem(), []
    values = measure_values(problem.choices, problem.book.score)
    low, high = contract.plan.least.median_ms, contract.plan.greatest.median_ms
    for share in np.linspace(0.1, 0.9, 9):
        high_ms = float(low + share * (high - low))
        try:
            gap = optimality_gap(problem.choices, values, contract.rows, high_ms, problem.book.score)
        except InputError as error:
            print(f"{high_ms:.3f} ms: {error}")
            continue
        found.append({"high_ms": high_ms, **gap.to_json()})
    return found


def folder_of(options: argparse.Namespace, target: str) -> RunFolder:
    """Where a runtime's searches are kept."""
    return RunFolder(options.out / target.replace(":", "-"))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All of it, as one document: first the budgets of every runtime, then the policies under the first."""
    targets, job = options.targets.split(","), job_of(options, options.targets.split(",")[0])
    document: dict[str, Any] = {
        "format": "efficientformer.searching/1",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": fingerprint(Target()),
        "contract": [-SHORTFALL, TOLERANCE],
        "job": {**job.to_json(), "data": job.data.name},
        "runtimes": {},
        "policies": [],
        "gaps": [],
    }
    for target in targets:
        folder = folder_of(options, target)
        with contract_of(options, target, folder) as contract:
            document["runtimes"][target] = hits(contract, options, folder)
            document["space"] = str(contract.plan.space.largest)
    if not options.hits_only:
        folder = folder_of(options, targets[0])
        with contract_of(options, targets[0], folder) as contract:
            found = kept(folder.file("gaps.json"), lambda: {"gaps": gaps(contract)})
            document["gaps"] = found["gaps"]
            document["policies"] = compared(contract, options.shares, folder)
    return document


def page(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    job, machine = document["job"], document["machine"]
    lines = [
        "# Budgets met, policies compared",
        "",
        f"{machine['processor']}, {machine['cores']} cores; {document['date'][:10]}. Space {job['supernet']} "
        f"at {job['input_size']} px with kinds {', '.join(job['kinds'])}, largest {document['space']}; "
        f"its supernet trained for {job['supernet_epochs']} epochs on Imagenette, seed {job['seed']}.",
        "",
        "A hit: the file, measured anew after `slim` has proven it, takes 93 to 102 % of the budget.",
        "",
        "| target | budgets | hits | measured less budget: median, least, greatest | measured over proven "
        "| the same of MobileNetV2 | verdicts |",
        "|---|---|---|---|---|---|---|",
    ]
    for target, found in document["runtimes"].items():
        met = [one for one in found if "error" not in one]
        off = np.array([one["measured_ms"] / one["budget_ms"] - 1 for one in met])
        again = [one["measured_ms"] / one["proven_ms"] for one in met]
        peers = [one["mobilenet_ms"]["measured"] / one["mobilenet_ms"]["proven"] for one in met]
        verdicts = [one["verdict"] for one in met]
        counted = ", ".join(f"{verdicts.count(name)} {name}" for name in dict.fromkeys(verdicts))
        lines.append(
            f"| {target} | {len(found)}, {found[0]['budget_ms']:.3f} to {found[-1]['budget_ms']:.3f} ms | "
            f"{sum(one['hit'] for one in found)} | "
            f"{np.median(off):+.1%}, {off.min():+.1%}, {off.max():+.1%} | "
            f"{min(again):.2f} to {max(again):.2f} | {min(peers):.2f} to {max(peers):.2f} | {counted} |"
        )
    lines += _errors(document)
    return "\n".join([*lines, *_policies(document), *_gaps(document), ""])


def _errors(document: dict[str, Any]) -> list[str]:
    errors = [
        f"- {target}, {one['budget_ms']:.3f} ms: {one['error']}"
        for target, found in document["runtimes"].items()
        for one in found
        if "error" in one
    ]
    return ["", "Not met:", "", *errors] if errors else []


def _policies(document: dict[str, Any]) -> list[str]:
    if not document["policies"]:
        return []
    return [
        "",
        "Policies under the first target; loss and top-1 of inherited weights on the search images.",
        "",
        "| budget ms | policy | predicted ms | loss | top-1 | images | networks scored |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {one['budget_ms']:.3f} | {one['policy']} | {one['predicted_ms']:.3f} | {one['loss']:.4f} | "
            f"{one['top1']:.1%} | {one['images']} | {one['evaluations']} |"
            for one in document["policies"]
        ),
    ]


def _gaps(document: dict[str, Any]) -> list[str]:
    if not document["gaps"]:
        return []
    return [
        "",
        "The greedy choice beside the exact one, over the same rises in loss and the same table:",
        "",
        "| at most ms | greedy: sum of rises | exact | gap | loss measured: greedy, exact |",
        "|---|---|---|---|---|",
        *(
            f"| {one['high_ms']:.3f} | {one['greedy_objective']:.4f} | {one['exact_objective']:.4f} | "
            f"{one['objective_gap']:.4f} | {one['greedy_loss']:.4f}, {one['exact_loss']:.4f} |"
            for one in document["gaps"]
        ),
    ]


def main() -> None:
    """Search, measure, collect, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add_options(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/searching"))
    parser.add_argument("--targets", default="onnxruntime,openvino")
    parser.add_argument("--budgets", type=int, default=20)
    parser.add_argument("--hits-only", action="store_true", help="do not compare policies")
    parser.add_argument(
        "--shares",
        type=lambda text: [float(one) for one in text.split(",") if one],
        default=SHARES,
        help="of the range of latencies: budgets policies are compared at, which takes hours; empty: none",
    )
    options = parser.parse_args()
    claim(options, free=("targets", "hits_only", "shares"))
    train_supernets(options, (OURS,))
    document = run(options)
    write_json(RESULTS / "searching.json", document)
    write_atomically(RESULTS / "searching.md", page(document))
    print(json.dumps({key: sum(one["hit"] for one in found) for key, found in document["runtimes"].items()}))


if __name__ == "__main__":
    main()
