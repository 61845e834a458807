"""`efficientformer measure`: latencies side by side."""

from __future__ import annotations

from pathlib import Path

from efficientformer.cli.options import DEFAULT_TARGET, Json, Targets, print_json
from efficientformer.errors import InputError
from efficientformer.files import write_json
from efficientformer.latency.compare import compared, read_receipts
from efficientformer.latency.matrix import Matrix, measure_matrix
from efficientformer.latency.published import published_beside
from efficientformer.latency.subjects import Subject, subject
from efficientformer.latency.target import Target
from efficientformer.progress import Progress
from efficientformer.terminal import latency as tables
from efficientformer.terminal.table import show


def measure(
    *names: str,
    target: Targets | None = None,
    input_size: int | None = None,
    seconds: float = 3.0,
    launches: int = 3,
    out: Path | None = None,
    against: Path | None = None,
    published: bool = False,
    as_json: Json = False,
) -> None:
    """Latency receipts side by side, interleaved; several targets make a portability matrix.

    Args:
        names: presets, timm/NAME peers, run folders, architecture.json files or exported files.
        target: where; give it several times to compare targets.
        input_size: pixels of a side; each model's own by default.
        seconds: time each model gets on each target, warm-up apart.
        launches: how often the measured processes are started anew.
        out: also write everything, samples included, to this JSON file.
        against: a JSON file written by --out or --json, to see how the medians agree with it.
        published: show what others published of these models, with source and device.
        as_json: print JSON.
    """
    if not names:
        raise InputError(
            "measure: name at least one model, such as efficientformer_l1 or timm/mobilenetv2_100"
        )
    if as_json and (against or published):
        raise InputError("measure: --against and --published are tables; leave --json out")
    if seconds <= 0 or launches < 1:
        raise InputError(
            f"measure: --seconds must be above 0 and --launches at least 1, not {seconds:g} and {launches}"
        )
    targets = [Target.parse(text) for text in target or [DEFAULT_TARGET]]
    earlier = read_receipts(against) if against else []
    subjects = [subject(name, input_size, targets) for name in dict.fromkeys(names)]
    progress = Progress()
    matrix = measure_matrix(subjects, targets, told=progress.update, seconds=seconds, launches=launches)
    if out:
        write_json(out, matrix.to_json())
        progress.line(f"   every sample: {out}")
    if as_json:
        print_json([one.to_json() for row in matrix.receipts.values() for one in row.values()])
    else:
        _show(matrix, subjects)
        if published:
            figures = published_beside(names)
            show(tables.published_table(figures)) if figures else print("  nothing published is known here")
        if against:
            agreements = compared(earlier, matrix)
            if not agreements:
                raise InputError(f"{against}: holds none of these models on these targets")
            show(tables.agreement_table(agreements))
    _complain(matrix)


def _show(matrix: Matrix, subjects: list[Subject]) -> None:
    sizes = {one.name: tables.size_cells(one.image, one.params, one.macs) for one in subjects}
    for receipts in matrix.receipts.values():
        show(tables.receipts_table(receipts, sizes, matrix.yardstick))
        for line in tables.receipt_notes(receipts):
            print(line)
    if len(matrix.receipts) > 1:
        show(tables.matrix_table(matrix, [one.name for one in subjects]))
        for ranking in matrix.rankings():
            print(f"  {ranking}")


def _complain(matrix: Matrix) -> None:
    if matrix.failures:
        first, rest = matrix.failures[0], len(matrix.failures) - 1
        more = "".join(f"; {one.model} on {one.target}: {one.why}" for one in matrix.failures[1:4])
        others = more + (f"; and {rest - 3} more" if rest > 3 else "")
        raise InputError(f"not measured: {first.model} on {first.target}: {first.why}{others}")
