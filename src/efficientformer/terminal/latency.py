"""Tables of latencies: receipts, matrices, agreements, what others published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from efficientformer.latency.compare import Agreement
from efficientformer.latency.matrix import Matrix
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.published import Published
from efficientformer.latency.target import Target
from efficientformer.pipeline.ship import Shipped
from efficientformer.terminal.table import table


def receipts_table(
    receipts: Mapping[str, Measurement], sizes: Mapping[str, tuple[str, str, str]], yardstick: str
) -> Table:
    """Latencies side by side; `sizes` gives input, parameters and MACs of each."""
    first = next(iter(receipts.values()))
    unit = receipts.get(yardstick, first)
    where = f"{Target.parse(first.target).short} · {first.fingerprint['processor']}"
    title = (
        f"{where} · {first.fingerprint['runtime']} · {first.date}\n×: over that of {unit.model} in this run"
    )
    columns = ("model", "input", "params", "MACs", "median ms", "95 %", "p10–p90", "n", "×", "verdict")
    made = table(title, columns)
    made.columns[0].no_wrap = True
    for name, receipt in receipts.items():
        made.add_row(
            name,
            *sizes[name],
            _ms(receipt.median_ms),
            "–".join(map(_ms, receipt.interval_ms)),
            f"{_ms(receipt.p10_ms)}–{_ms(receipt.p90_ms)}",
            str(len(receipt.samples_ms)),
            f"{receipt.median_ms / unit.median_ms:.2f}",
            receipt.verdict,
        )
    return made


def _ms(value: float) -> str:
    """Four figures, as far as they mean anything."""
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def size_cells(image: tuple[int, int, int], params: int | None, macs: int | None) -> tuple[str, str, str]:
    """Input, parameters and MACs for `receipts_table`."""
    return (
        f"{image[1]}×{image[2]}",
        f"{params / 1e6:.2f} M" if params else "–",
        f"{macs / 1e9:.3f} G" if macs else "–",
    )


def receipt_notes(receipts: Mapping[str, Measurement]) -> list[str]:
    """What must be said below a run's receipts: conditions, and why a verdict is not better."""
    first = next(iter(receipts.values()))
    seen = first.conditions
    started = "once" if seen.launches == 1 else f"{seen.launches} times"
    notes = [
        f"  each file in a process of its own, started {started}"
        + (f", kept on processor {', '.join(map(str, seen.cpus))}" if seen.pinned else "")
        + (
            f"; {seen.set_aside} rounds set aside because a fixed piece of work was slow"
            if seen.set_aside
            else ""
        )
    ]
    by_reason: dict[str, list[str]] = {}
    for name, one in receipts.items():
        for reason in one.reasons:
            by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        whom = "all" if len(names) == len(receipts) > 1 else ", ".join(names)
        notes.append(f"  {whom}: {reason}")
    return notes


def matrix_table(matrix: Matrix, models: Sequence[str]) -> Table:
    """Models × targets: the median, and its ratio to the yardstick's in the same run."""
    targets = (Target.parse(target).short for target in matrix.receipts)
    made = table(f"median ms (× {matrix.yardstick} in the same run)", ("model", *targets))
    failed = {(one.model, one.target) for one in matrix.failures}
    for model in models:
        cells = []
        for target, row in matrix.receipts.items():
            ratio = matrix.ratio(target, model)
            share = f" ({ratio:.2f})" if ratio is not None else ""
            mark = "failed" if (model, target) in failed else "–"
            cells.append(f"{row[model].median_ms:.2f}{share}" if model in row else mark)
        made.add_row(model, *cells)
    return made


def agreement_table(agreements: Sequence[Agreement]) -> Table:
    """Medians then and now."""
    made = table("against the earlier receipts", ("model", "target", "then ms", "now ms", "now / then", ""))
    for one in agreements:
        words = "within 3 %" if one.agree else "apart"
        if not one.same_machine:
            words += ", but machine or versions differ"
        made.add_row(
            one.now.model,
            Target.parse(one.now.target).short,
            f"{one.then.median_ms:.3f}",
            f"{one.now.median_ms:.3f}",
            f"{one.ratio:.3f}",
            words,
        )
    return made


def published_table(figures: Sequence[Published]) -> Table:
    """Other people's figures, each with its device and source."""
    made = table(
        "published by others, on other devices, at 224×224 pixels", ("model", "ms", "device", "source")
    )
    for column in made.columns[2:]:
        column.justify = "left"
    for one in figures:
        made.add_row(one.model, f"{one.ms:g}" + ("" if one.certain else " ?"), one.device, one.source)
    return made


def shipped_table(model: str, shipped: Sequence[Shipped]) -> Table:
    """Exported files: size, seconds, difference from PyTorch, agreement, latency."""
    columns = ("target", "file", "MB", "export s", "differs by", "top-1 same", "median ms", "n")
    made = table(f"{model}, exported", (*columns, "verdict"))
    made.columns[1].justify = "left"
    for column in made.columns[:2]:
        column.overflow = "fold"
    for one in shipped:
        if one.artefact is None:
            made.add_row(one.target.short, "failed" if one.broken else "not exported")
            continue
        proof, latency = one.artefact, one.latency
        same = f"{proof.agreement:.0%} of {proof.images}" if proof.photographs else "–"
        made.add_row(
            one.target.short,
            proof.path,
            f"{proof.size_bytes / 1e6:.2f}",
            f"{proof.seconds:.1f}",
            f"{proof.max_difference:.1e}",
            same,
            f"{latency.median_ms:.3f}" if latency else "–",
            str(len(latency.samples_ms)) if latency else "–",
            latency.verdict if latency else "not timed",
        )
    return made
