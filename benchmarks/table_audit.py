"""The latency table against end to end: 100 held-out networks on each of three runtimes.

    python benchmarks/table_audit.py

Builds (or goes on with) a table for one search space a runtime, audits it, and writes for each
`results/table_audit-<runtime>.json` (every network), and `results/table_audit.md`. Tables are kept under
--shared, so that a stopped run goes on, and `searching.py` and `mobilenet_speed.py` take them. Run nothing
else meanwhile: it takes about an hour.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contracts import EXPANSIONS, RESULTS, table_of
from efficientformer.files import read_json, write_atomically, write_json
from efficientformer.latency.target import Target
from efficientformer.pipeline import table_job
from efficientformer.progress import Progress
from efficientformer.search.space.search_space import OPEN_KINDS, supernet_space

TARGETS = ("onnxruntime", "openvino", "tflite")
WANTED = {"onnxruntime": "≤ 3 % median, ≤ 8 % largest, rank ≥ 0.99"}
OTHERS = "≤ 5 % median"


def audited(target: Target, options: argparse.Namespace) -> dict[str, Any]:
    """Build and audit one runtime's table; with `--page-only`, read what was written already."""
    path, progress = RESULTS / f"table_audit-{target.runtime}.json", Progress()
    if options.page_only:
        return read_json(path)
    space = supernet_space(
        options.supernet,
        input_size=options.input_size,
        num_classes=options.classes,
        kinds=OPEN_KINDS,
        expansions=EXPANSIONS,
    )
    table = table_of(options, target)
    built = table_job.build(space, table, target, every=2, progress=progress)  # as slim measures it
    found = table_job.audit(table, target, networks=options.networks, seed=options.seed, progress=progress)
    space_said = (
        f"{options.supernet} at {options.input_size} px, kinds {', '.join(OPEN_KINDS)}, "
        f"expansions {', '.join(map(str, (*EXPANSIONS, 4)))}"
    )
    document = {"space": space_said, "build": {**built.to_json(), "table": table.name}, **found.to_json()}
    write_json(path, document)
    return document


def page(documents: Sequence[dict[str, Any]]) -> str:
    """The audits as a page for people."""
    facts = documents[0]["fingerprint"]
    lines = [
        "# The latency table against end to end",
        "",
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory']}. Random networks of the space that "
        "the table was not calibrated to.",
        "",
        "| target | space | networks | median error | largest | rank (Spearman) | within ± | spread | wanted "
        "| as measured: median, largest, rank | slowest batch | rows, build | audit | date |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in documents:
        runtime, raw = one["target"].split(":")[0], one["raw"]
        cells = (
            f"{one['target']} ({one['fingerprint']['runtime']})",
            one["space"],
            one["networks"],
            f"{one['median_error_percent']:.1f} %",
            f"{one['max_error_percent']:.1f} %",
            f"{one['spearman']:.4f}",
            f"{one['within_interval']:.0%}",
            f"{one['spread_percent']:.1f} %",
            WANTED.get(runtime, OTHERS),
            f"{raw['median_error_percent']:.1f} %, {raw['max_error_percent']:.1f} %, {raw['spearman']:.4f}",
            f"{raw['slowed'][1]:.2f}",
            f"{one['build']['rows']}, {_build_time(one['build'])}",
            f"{one['seconds'] / 60:.0f} min" if one["seconds"] > 60 else "in several starts",
            one["date"][:10],
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [
        "",
        "Networks are measured in batches of ten, minutes after the table, on a machine whose speed changes. "
        "A small reference network takes its turns in every batch, of rows and of networks, and errors are "
        "those at the speed of the calibration; *as measured* they are those of the medians as they came. "
        "*Slowest batch*: the reference there over the reference at the calibration. Spread: the median "
        "interquartile range of the networks' receipts.",
        "",
    ]
    return "\n".join(lines)


def _build_time(build: dict[str, Any]) -> str:
    """Of a table that was built in one go; of one that was gone on with there is no such time."""
    return f"{build['seconds'] / 60:.0f} min" if build["added"] == build["rows"] else "in several starts"


def main() -> None:
    """Audit every runtime, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--supernet", default="s")
    parser.add_argument("--input-size", type=int, default=96)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shared", type=Path, default=Path("runs/shared"), help="where tables are kept")
    parser.add_argument("--page-only", action="store_true", help="measure nothing; write the page anew")
    options = parser.parse_args()
    documents = [audited(Target.parse(name), options) for name in options.targets]
    write_atomically(RESULTS / "table_audit.md", page(documents))


if __name__ == "__main__":
    main()
