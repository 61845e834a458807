"""Models × targets on this machine: the peers of the paper's Table 1 and today's, relative to MobileNetV2.

    python benchmarks/portability_matrix.py

Writes `results/portability_matrix.json` (every receipt, samples included) and `.md`. Exports are kept in the
user's cache folder, so that a second run only measures. The weights are random; times do not depend on them.
Run nothing else meanwhile: the first run exports for about an hour, measuring takes about half an hour.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from efficientformer.files import read_json, write_atomically
from efficientformer.latency.matrix import Matrix, matrix_of, measure_matrix, merged
from efficientformer.latency.subjects import Subject, subject
from efficientformer.latency.target import Target
from efficientformer.progress import Progress

RESULTS = Path(__file__).parent / "results"
PAPER = (
    "timm/mobilenetv2_100",
    "timm/mobilenetv2_140",
    "timm/resnet50",
    "timm/efficientnet_b0",
    "timm/efficientnet_b5",
    "timm/deit_tiny_patch16_224",
    "timm/deit_small_patch16_224",
    "timm/poolformer_s24",
    "timm/levit_256",
    "timm/mobilevit_xs",
    "efficientformer_l1",
    "efficientformer_l3",
    "efficientformer_l7",
)
LATER = (
    "timm/mobilenetv4_conv_small",
    "timm/mobilenetv4_conv_medium",
    "timm/repvit_m1",
    "timm/fastvit_t8",
    "timm/mobileone_s1",
    "efficientformerv2_s0",
    "efficientformerv2_s1",
)
TARGETS = ("onnxruntime", "openvino", "tflite", "executorch", "ncnn", "torch")


def page(matrix: Matrix, subjects: Sequence[Subject]) -> str:
    """The matrix as a page for people."""
    first = next(iter(next(iter(matrix.receipts.values())).values()))
    facts = first.fingerprint
    versions = ", ".join(row[next(iter(row))].fingerprint["runtime"] for row in matrix.receipts.values())
    lines = [
        "# Models × targets on one machine",
        "",
        f"{first.date[:10]}, {facts['processor']}, {facts['cores']} cores, {facts['memory']}, "
        f"{facts['system']}; one thread, float32, batch 1; Python {platform.python_version()}, "
        f"{facts['exporter']}, timm {version('timm')}; {versions}.",
        "",
        "Made by `python benchmarks/portability_matrix.py`. Each file ran in a process of its own, started "
        f"{first.conditions.launches} times; the models of one target took turns in one run. Cells: median "
        "milliseconds (× MobileNetV2 ×1.0 on the same target in the same run), and the verdict where it is "
        "not *stable*. All samples: `portability_matrix.json`.",
        "",
        f"| model | input | params M | GMACs | {' | '.join(map(_short, matrix.receipts))} |",
        "|" + "---|" * (4 + len(matrix.receipts)),
        *(_row(matrix, one) for one in subjects),
        "",
        "## How targets rank models",
        "",
        *(f"- {ranking}" for ranking in matrix.rankings()),
    ]
    if matrix.failures:
        lines += ["", "## Not measured", ""]
        lines += [f"- {one.model} on {_short(one.target)}: {one.why}" for one in matrix.failures]
    lines += ["", "## Receipts", "", "| target | model | median ms | 95 % | p10–p90 | n | verdict | why |"]
    lines.append("|" + "---|" * 8)
    for target, row in matrix.receipts.items():
        for name, one in row.items():
            low, high = one.interval_ms
            lines.append(
                f"| {_short(target)} | {name} | {one.median_ms:.3f} | {low:.3f}–{high:.3f} "
                f"| {one.p10_ms:.3f}–{one.p90_ms:.3f} | {len(one.samples_ms)} | {one.verdict} "
                f"| {'; '.join(one.reasons)} |"
            )
    return "\n".join(lines) + "\n"


def _row(matrix: Matrix, one: Subject) -> str:
    size = f"{one.params / 1e6:.2f} | {one.macs / 1e9:.3f}" if one.params and one.macs else "– | –"
    cells = []
    for target, row in matrix.receipts.items():
        receipt = row.get(one.name)
        if receipt is None:
            cells.append("–")
            continue
        verdict = "" if receipt.verdict == "stable" else f", {receipt.verdict}"
        cells.append(f"{receipt.median_ms:.2f} ({matrix.ratio(target, one.name):.2f}{verdict})")
    return f"| {one.name} | {one.image[1]}×{one.image[2]} | {size} | {' | '.join(cells)} |"


def _short(target: str) -> str:
    return Target.parse(target).short


def main() -> None:
    """Export, measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=[*PAPER, *LATER])
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--add", action="store_true", help="keep the targets that are in --out already")
    parser.add_argument("--out", type=Path, default=RESULTS / "portability_matrix")
    options = parser.parse_args()
    subjects = [subject(name) for name in options.models]
    targets = [Target.parse(text) for text in options.targets]
    matrix = measure_matrix(subjects, targets, told=Progress().update, seconds=options.seconds)
    written = options.out.with_suffix(".json")
    if options.add and written.exists():
        matrix = merged(matrix_of(read_json(written)), matrix)
    write_atomically(written, json.dumps(matrix.to_json()).encode())
    write_atomically(options.out.with_suffix(".md"), page(matrix, subjects).encode())
    print(json.dumps({str(one): one.spearman for one in matrix.rankings()}))


if __name__ == "__main__":
    main()
