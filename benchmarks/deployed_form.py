"""The deployed form against timm's implementation of the same weights: interleaved, one thread, batch 1.

    python benchmarks/deployed_form.py                      # L1, L3, L7 on four engines: about 15 minutes
    python benchmarks/deployed_form.py --models efficientformerv2_s0 --engines onnxruntime eager

Writes results/deployed_form.json (receipts, profiles) and results/deployed_form.md; the last line printed is
the table as one JSON document. Everything is float32. Weights are random, none at a value that a converter
could leave out.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import efficientformer as ef  # before timm: it repairs torchvision where it must
from efficientformer.files import write_atomically
from efficientformer.latency.measure import in_process, measure
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.target import Target
from efficientformer.latency.untrained import randomise_vectors
from efficientformer.model.packed import ChannelsLast
from efficientformer.profile.work import macs_of
from efficientformer.runtimes import RUNTIMES, Operator, Settings, Trace, Traced

RESULTS = Path(__file__).with_name("results")
ENGINES = ("onnxruntime", "openvino", "eager", "compiled")
TARGETS = {"onnxruntime": 1.05, "openvino": 1.05, "eager": 1.4, "compiled": 1.1}  # times as fast as timm's
TARGET = Target.parse("onnxruntime:cpu:threads=1")  # of the receipts: this machine, one thread
IMAGE = (1, 3, 224, 224)
PROFILED = 20  # inferences of each form under a profiler
ROUNDS = 40

Call = Callable[[], object]


@dataclass
class Contest:
    """Forms of one network on one engine.

    Attributes:
        calls: one inference by form; the first is timm's.
        outputs: the logits of each for the same image.
        profiles: milliseconds by operator of each form, where the engine tells.
    """

    calls: dict[str, Call]
    outputs: dict[str, np.ndarray]
    profiles: dict[str, dict[str, Any]]


def networks(name: str) -> tuple[nn.Module, ef.EfficientFormer]:
    """timm's network and ours with the same weights."""
    import timm

    torch.manual_seed(0)
    ours = ef.EfficientFormer(ef.PRESETS[name], layer_scale_init=0.5).eval()
    randomise_vectors(ours)
    theirs = timm.create_model(name).eval()
    theirs.load_state_dict(ef.to_layout(ours, "timm"))
    return theirs.requires_grad_(False), ours


def runtime_contest(runtime: str, forms: dict[str, nn.Module], image: np.ndarray, folder: Path) -> Contest:
    """The forms exported for a runtime and run by it in float32, then each under the runtime's profiler."""
    engine, contest, paths = RUNTIMES[runtime], Contest({}, {}, {}), {}
    for form, module in forms.items():
        paths[form] = folder / runtime / f"{form}{engine.suffix}"
        engine.export(Traced(module, IMAGE), paths[form])
        session = engine.load(paths[form], Settings())
        contest.calls[form] = lambda session=session: session.run(image)
        contest.outputs[form] = session.run(image)
    for form, path in paths.items():
        contest.profiles[form] = by_group(engine.operators(path, Settings(), image, PROFILED))
    return contest


def torch_contest(forms: dict[str, nn.Module], image: np.ndarray, *, compiled: bool) -> Contest:
    """The forms in PyTorch; timm's also with what torch itself offers: another layout, or frozen weights."""
    x, contest = torch.from_numpy(image), Contest({}, {}, {})
    tuned = copy.deepcopy(forms["timm"])
    extra = ("timm, frozen", tuned) if compiled else ("timm, channels last", channels_last(tuned))
    for form, module in (*forms.items(), extra):
        call = compile_apart(module) if compiled else module
        frozen = torch._inductor.config.patch(freezing=form.endswith("frozen"))
        with torch.no_grad(), frozen:  # compiled here, at the first call
            call(x)
            contest.outputs[form] = call(x).numpy()
        contest.calls[form] = lambda call=call: call(x)
    return contest


def compile_apart(module: nn.Module) -> Call:
    """Compile a network under code of its own: networks of one class would share what was compiled first."""
    names: dict[str, Any] = {}
    exec("def wrap(module):\n def call(x): return module(x)\n return call", names)
    return torch.compile(names["wrap"](module))


def channels_last(module: nn.Module) -> nn.Module:
    """The same network on channels-last maps."""
    return ChannelsLast(module.to(memory_format=torch.channels_last))


def by_group(trace: Trace) -> dict[str, Any]:
    """Milliseconds and GFLOP/s by operator, convolutions by kernel and grid where shapes are told."""
    groups: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])
    for operator in trace.operators:
        for place, figure in enumerate((operator.ms, 2.0 * (macs_of(operator) or 0), 1)):
            groups[group_of(operator)][place] += figure
    return by_time({label: row(*figures) for label, figures in groups.items()})


def by_time(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The longest first; without those that took no time."""
    return {label: one for label, one in sorted(rows.items(), key=lambda r: -r[1]["ms"]) if one["ms"] > 0}


def group_of(operator: Operator) -> str:
    """Its kind; with kernel and grid for ONNX Runtime's convolutions, for OpenVINO with the code that ran."""
    taken, arrow, given = operator.detail.partition(" → ")
    if not arrow:
        return f"{operator.kind} {operator.detail.split(' ')[0]}".strip()
    if operator.kind != "Conv":
        return operator.kind
    weight, outputs = taken.split(", ")[1].split("×"), given.split("×")
    depthwise = "depthwise " if weight[1] == "1" and int(outputs[1]) > 8 else ""
    return f"Conv {depthwise}{'×'.join(weight[2:])} → {'×'.join(outputs[2:])}"


def row(ms: float, flop: float, nodes: int) -> dict[str, Any]:
    """One line of a profile."""
    return {"ms": round(ms, 4), "nodes": nodes, "gflops": round(flop / ms / 1e6, 1) if flop else None}


def matmul_gflops(side: int = 1024, runs: int = 60) -> tuple[float, float]:
    """Median and best rate of a float32 product of two square matrices on one thread: the yardstick."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    rates = []
    for _ in range(runs):
        begun = time.perf_counter()
        torch.mm(a, b)
        rates.append(2 * side**3 / (time.perf_counter() - begun) / 1e9)
    return statistics.median(rates), max(rates)


def contest(name: str, engine: str, folder: Path) -> dict[str, Any]:
    """One network on one engine: receipts, ratios to timm's, largest differences, profiles."""
    theirs, ours = networks(name)
    image = np.random.default_rng(0).standard_normal(IMAGE, dtype=np.float32)
    match engine:
        case "onnxruntime" | "openvino":
            entered = runtime_contest(engine, {"timm": theirs, "fold": ef.fold(ours)}, image, folder)
        case _:
            forms = {"timm": theirs, "fold": ef.fold(ours), "pack": ef.pack(ours)}
            entered = torch_contest(forms, image, compiled=engine == "compiled")
    turns = {form: in_process(call) for form, call in entered.calls.items()}
    with torch.no_grad():
        receipts = {
            form: on_engine(receipt, engine)
            for form, receipt in measure(
                turns, TARGET, rounds=ROUNDS, seconds=10.0, min_samples=ROUNDS
            ).items()
        }
        wanted = theirs(torch.from_numpy(image)).numpy()
    return {
        "model": name,
        "engine": engine,
        "receipts": {form: receipt.to_json() for form, receipt in receipts.items()},
        "ratio": {form: ratio(receipts["timm"], receipt) for form, receipt in receipts.items()},
        "difference": {
            form: float(np.abs(given - wanted).max() / np.abs(wanted).max())
            for form, given in entered.outputs.items()
        },
        "profiles": entered.profiles,
    }


def on_engine(receipt: Measurement, engine: str) -> Measurement:
    """A receipt that says what it was taken on; the clock was started for `TARGET`."""
    package = engine if engine in ("onnxruntime", "openvino") else "torch"
    facts = {**receipt.fingerprint, "runtime": f"{engine} {version(package)}"}
    return dataclasses.replace(receipt, target=f"{engine}:cpu:threads=1", fingerprint=facts)


def ratio(theirs: Measurement, ours: Measurement) -> dict[str, float]:
    """timm's time over ours: of the medians, and the spread of the same over the rounds."""
    turns = [
        (statistics.median(np.array_split(theirs.samples_ms, ROUNDS)[index]) / statistics.median(part))
        for index, part in enumerate(np.array_split(ours.samples_ms, ROUNDS))
    ]
    low, high = np.quantile(turns, (0.1, 0.9))
    return {
        "median": round(float(statistics.median(turns)), 4),
        "p10": round(float(low), 4),
        "p90": round(float(high), 4),
        "of_medians": round(theirs.median_ms / ours.median_ms, 4),
    }


def document(name: str, results: list[dict[str, Any]], rates: tuple[float, float]) -> str:
    """The results as a page for people."""
    receipt = results[0]["receipts"]["timm"]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "onnxruntime", "openvino"))
    lines = [
        "# The deployed form against timm's implementation of the same weights",
        "",
        f"{receipt['date'][:10]}, {receipt['fingerprint']['processor']}, one thread, float32, batch 1, "
        f"224×224; Python {platform.python_version()}, {packages}.",
        f"A product of two 1024×1024 matrices ran at {rates[0]:.0f} GFLOP/s (best {rates[1]:.0f}).",
        f"Made by `python benchmarks/deployed_form.py`: the forms took turns in {ROUNDS} rounds;",
        "*times as fast* is the median over rounds of timm's median over the form's, in brackets p10–p90.",
        "*Difference* is the largest of a logit from timm's in PyTorch, over the largest logit.",
        "*timm* is its network as it comes; the lines beside it are the same network with what torch itself",
        f"offers: channels-last memory, or inductor's freezing of weights. All samples: `{name}.json`.",
        "",
        "| model | engine | form | median ms | p10–p90 | n | verdict | times as fast | difference | target |",
        "|" + "---|" * 10,
    ]
    for result in results:
        for form, one in result["receipts"].items():
            speed, wanted = result["ratio"][form], TARGETS[result["engine"]]
            met = (
                ""
                if form.startswith("timm")
                else f"{wanted} {'met' if speed['median'] >= wanted else 'missed'}"
            )
            lines.append(
                f"| {result['model']} | {result['engine']} | {form} | {one['median_ms']:.2f} "
                f"| {one['p10_ms']:.2f}–{one['p90_ms']:.2f} | {one['samples']} | {one['verdict']} "
                f"| **{speed['median']:.3f}** [{speed['p10']:.3f}–{speed['p90']:.3f}] "
                f"| {result['difference'][form]:.0e} | {met} |"
            )
    for result in results:
        for form, profile in result["profiles"].items():
            lines += ["", f"## {result['model']}, {result['engine']}, {form}: where the time goes", ""]
            lines += profile_lines(profile, rates[0])
    return "\n".join(lines) + "\n"


def profile_lines(profile: dict[str, Any], rate: float) -> list[str]:
    """A profile as a table."""
    total = sum(one["ms"] for one in profile.values())
    lines = [
        "| operator | nodes | ms | share | GFLOP/s | of the matrix product's |",
        "|---|---|---|---|---|---|",
    ]
    for label, one in profile.items():
        reached = f"{one['gflops']} | {one['gflops'] / rate:.0%}" if one["gflops"] else "– | –"
        lines.append(f"| {label} | {one['nodes']} | {one['ms']:.3f} | {one['ms'] / total:.1%} | {reached} |")
    return lines


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=ef.list_models("efficientformer_*"))
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--out", type=Path, default=RESULTS / "deployed_form")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rates, results = matmul_gflops(), []
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            for engine in options.engines:
                results.append(contest(name, engine, Path(folder)))
                torch.compiler.reset()
                speeds = {form: one["median"] for form, one in results[-1]["ratio"].items()}
                print(f"{name:22} {engine:12} times as fast as timm: {speeds}", flush=True)
    results.sort(key=lambda result: result["model"])
    about = {"format": "efficientformer.deployed-form/1", "matmul_gflops": rates, "results": results}
    write_atomically(options.out.with_suffix(".json"), json.dumps(about).encode())
    write_atomically(options.out.with_suffix(".md"), document(options.out.name, results, rates).encode())
    print(json.dumps([{key: one[key] for key in ("model", "engine", "ratio")} for one in results]))


if __name__ == "__main__":
    main()
