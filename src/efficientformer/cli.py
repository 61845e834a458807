"""The command line: each command parses, calls one function, prints. `efficientformer --help` lists them.

Exit code 0: done; 2: the input was wrong, one line says what, where and what to do; 1: a fault of ours.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

import efficientformer
from efficientformer import terminal
from efficientformer.data.batches import Augmentation
from efficientformer.errors import InputError
from efficientformer.latency.artefact import ExportMismatchError
from efficientformer.latency.budget import Budget
from efficientformer.latency.measure import measure as measure_subjects
from efficientformer.latency.runtimes import RUNTIMES
from efficientformer.latency.subjects import read_architecture, subject
from efficientformer.latency.target import Target, fingerprint
from efficientformer.model.card import model_card
from efficientformer.model.zoo import list_models
from efficientformer.pipeline.demo import demo_job, write_digits
from efficientformer.pipeline.job import Job
from efficientformer.pipeline.slim import BudgetMissedError
from efficientformer.pipeline.slim import slim as run_slim
from efficientformer.predict import predictor
from efficientformer.report import write_report
from efficientformer.search.journal import Journal, replay, step_of
from efficientformer.search.supernet import Noise, Temperature
from efficientformer.training.recipe import Precision

app = App(
    name="efficientformer",
    help="From a folder of images and a latency budget to a trained network that meets it here.",
    version=efficientformer.__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON document and no table.")]
TargetText = Annotated[
    str, Parameter(name="--target", help="Where to measure: RUNTIME[:DEVICE][:threads=N][:precision=P].")
]
ADVICE = {
    "stable": "latencies measured now can be quoted",
    "noisy": "trust differences of more than a quarter only; stop other programs, or measure again later",
    "unusable": "something else is using this machine; measure when it is quiet",
}
DEFAULT_TARGET = "onnxruntime:cpu:threads=1"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_none")
    except (InputError, CycloptsError) as error:
        line = " ".join(str(error).split())
        print(f"efficientformer: {line}", file=sys.stderr)
        return 2
    except (BudgetMissedError, ExportMismatchError) as error:
        print(f"efficientformer: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("efficientformer: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _print_json(document: Any) -> None:
    print(json.dumps(document, ensure_ascii=False))


@app.command
def check(*, target: TargetText = DEFAULT_TARGET, as_json: Json = False) -> None:
    """What this machine can do: processor, runtimes, versions, and how noisy its clock is."""
    import platform

    import torch

    where = Target.parse(target)
    noise = measure_subjects({"sentinel": lambda: sum(range(20_000))}, where, seconds=1.0)["sentinel"]
    facts = {
        **{name: fact for name, fact in fingerprint(where).items() if name != "runtime"},
        "runtimes": ", ".join(f"{name} {runtime.version()}" for name, runtime in RUNTIMES.items()),
        "python": platform.python_version(),
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads for training",
        "accelerator": "cuda" if torch.cuda.is_available() else "none",
        "a fixed piece of work": f"{noise}",
        "so": ADVICE[noise.verdict],
    }
    if as_json:
        _print_json(facts)
    else:
        terminal.show(terminal.facts_table(f"efficientformer {efficientformer.__version__}", facts))


@app.command
def models(pattern: str = "*", *, input_size: int = 224, as_json: Json = False) -> None:
    """The networks known by name: parameters, MACs, activation memory, published accuracy.

    Args:
        pattern: a shell-style pattern.
        input_size: pixels of a side that MACs and memory are counted for.
        as_json: print JSON, with the published weights and the memory of training as well.
    """
    names = list_models(pattern)
    if not names:
        raise InputError(f"no model matches {pattern!r}; known: {', '.join(list_models())}")
    cards = [model_card(name, input_size) for name in names]
    if as_json:
        _print_json([card.to_json() for card in cards])
    else:
        terminal.show(terminal.models_table(cards))


@app.command
def predict(
    *images: Path,
    model: str,
    pretrained: str | None = None,
    input_size: int | None = None,
    top: int = 5,
    as_json: Json = False,
) -> None:
    """What is in these pictures: the most probable classes of each.

    Args:
        images: picture files.
        model: a finished run's folder, a .safetensors file of ours, or a network known by name.
        pretrained: weights for a name: a file in the authors', timm's or transformers' layout, or hub to
            fetch the published ones from the Hugging Face hub.
        input_size: pixels of a side; the network's own by default.
        top: classes to name.
        as_json: print JSON.
    """
    if not images:
        raise InputError("predict: name at least one picture")
    if top < 1:
        raise InputError(f"--top {top}: name at least one class")
    predictions = list(predictor(model, pretrained, input_size).predict(images, top))
    if as_json:
        _print_json([one.to_json() for one in predictions])
    else:
        terminal.show(terminal.predictions_table(predictions))
    if bad := [one for one in predictions if one.error]:
        raise InputError(
            f"{len(bad)} of {len(predictions)} pictures left out; {bad[0].image}: {bad[0].error}"
        )


@app.command
def measure(
    *names: str, target: TargetText = DEFAULT_TARGET, input_size: int | None = None, as_json: Json = False
) -> None:
    """Latency receipts side by side, in one interleaved run.

    Args:
        names: presets, timm/NAME peers, run folders, architecture.json files or exported files.
        target: where.
        input_size: pixels of a side; each model's own by default.
        as_json: print JSON.
    """
    if not names:
        raise InputError(
            "measure: name at least one model, such as efficientformer_l1 or timm/mobilenetv2_100"
        )
    where = Target.parse(target)
    subjects = [subject(name, where, input_size) for name in dict.fromkeys(names)]
    receipts = measure_subjects({one.name: one.call for one in subjects}, where, seconds=3.0)
    if as_json:
        _print_json([receipt.to_json() for receipt in receipts.values()])
        return
    sizes = {
        one.name: (
            f"{one.image[1]}×{one.image[2]}",
            f"{one.params / 1e6:.2f} M" if one.params else "–",
            f"{one.macs / 1e9:.3f} G" if one.macs else "–",
        )
        for one in subjects
    }
    terminal.show(terminal.receipts_table(receipts, sizes))


@app.command
def slim(
    *,
    data: Path,
    budget: Annotated[str, Parameter(allow_leading_hyphen=True)],
    target: TargetText = DEFAULT_TARGET,
    input_size: int = Job.input_size,
    out: Path = Path("runs/slim"),
    supernet: str = Job.supernet,
    supernet_epochs: int = Job.supernet_epochs,
    epochs: int = Job.epochs,
    batch_size: int = Job.batch_size,
    learning_rate: float = Job.learning_rate,
    min_area: float = Augmentation.min_area,
    flip: bool = Augmentation.flip,
    precision: Precision = Job.precision,
    tau_start: float = Temperature.start,
    tau_end: float = Temperature.end,
    noise: Noise = Temperature.noise,
    max_unreadable: float = Job.max_unreadable,
    train_unslimmed: bool = Job.train_unslimmed,
    table: Path | None = None,
    seed: int = Job.seed,
    as_json: Json = False,
) -> None:
    """The main job: from a folder of images and a budget to a trained network that meets it, with the proof.

    Start the same command again to go on with a run that was stopped.

    Args:
        data: folder of train/<class>/* and val/<class>/*, or of <class>/*.
        budget: latency of one inference with its unit: 8ms, 500us, or 50% of the unslimmed network.
        target: where it must be met.
        input_size: pixels of a side, a multiple of 32.
        out: the run's folder.
        supernet: xs, s, m, l7, or auto for the smallest that leaves room for a search.
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
        max_unreadable: greatest share of unreadable images that is put up with.
        train_unslimmed: also train the unslimmed network, to see what slimming cost.
        table: a latency table to use and extend, instead of the run's own.
        seed: of everything random.
        as_json: print the summary as JSON.
    """
    job = Job(
        data,
        Budget.parse(budget),
        Target.parse(target),
        input_size=input_size,
        supernet=supernet,
        supernet_epochs=supernet_epochs,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        augmentation=Augmentation(min_area, flip),
        precision=precision,
        temperature=Temperature(tau_start, tau_end, noise),
        max_unreadable=max_unreadable,
        train_unslimmed=train_unslimmed,
        seed=seed,
    )
    _print_result(run_slim(job, out, table), out, as_json=as_json)


@app.command
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
        _print_json(_short(summary))


def _print_result(summary: dict[str, Any], out: Path, *, as_json: bool) -> None:
    page = write_report(out)
    if as_json:
        _print_json(_short(summary))
        return
    terminal.show(terminal.summary_table(summary))
    terminal.show(terminal.accuracy_table(summary))
    print(f"network: {summary['architecture']}  (P pooling block, A attention block)")
    print(f"report:  {page}")


def _short(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary without raw samples and layer lists; those stay in `summary.json`."""
    short = {key: value for key, value in summary.items() if key not in ("layers", "classes")}
    short["contenders"] = [
        {**one, "latency": {key: value for key, value in one["latency"].items() if key != "samples_ms"}}
        for one in summary["contenders"]
    ]
    return short


@app.command(name="replay")
def replay_journal(run: Path, *, as_json: Json = False) -> None:
    """A run's journal: every step, applied anew; an error if it does not lead to the network found.

    Args:
        run: a run's folder.
        as_json: print the number of steps, the step of the network found, and its architecture as JSON.
    """
    journal = Journal(run / "journal.jsonl")
    path = replay(journal)
    found = read_architecture(run)
    step = step_of(found, path, journal)
    if as_json:
        _print_json({"steps": len(path) - 1, "found_at_step": step, "architecture": found.to_json()})
        return
    terminal.show(terminal.journal_table(journal))
    print(f"replayed {len(path) - 1} steps; step {step} is the network found: {found}")


@app.command
def report(run: Path) -> None:
    """Write a finished run's HTML page anew.

    Args:
        run: a run's folder.
    """
    print(write_report(run))


def run() -> None:
    """The program."""
    sys.exit(main())


if __name__ == "__main__":
    run()
