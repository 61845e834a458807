"""Figures as text: milliseconds, percentages, counts. The templates use these as filters."""

from __future__ import annotations

from datetime import UTC, datetime

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def ms(value: float) -> str:
    """Milliseconds without their unit, to the microsecond below 10."""
    size = abs(value)
    return f"{value:.3f}" if size < 10 else f"{value:.2f}" if size < 100 else f"{value:.1f}"


def percent(share: float, images: int = 0) -> str:
    """A share as a percentage without its sign; a second decimal only where so many images carry it."""
    return f"{100 * share:.{2 if images >= 2000 else 1}f}"


def points(share: float) -> str:
    """A difference of two shares in percentage points, signed when negative, never -0."""
    text = f"{100 * share:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def change(ratio: float) -> str:
    """A ratio as a signed change: 0.57 is −43 %."""
    return f"{100 * (ratio - 1):+.0f} %".replace("-", "−")


def short(count: float) -> str:
    """A large count with three figures: 1.15 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            scaled = count / size
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f} {letter}"
    return f"{count:.0f}"


def whole(count: int) -> str:
    """A count in full, thousands apart."""
    return f"{count:,}"


def power(value: float) -> str:
    """A small number as a power of ten: 4.6 × 10⁻⁷."""
    if value == 0:
        return "0"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def day(iso: str) -> str:
    """A moment as people write it, in UTC."""
    moment = datetime.fromisoformat(iso).astimezone(UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def target(text: str) -> str:
    """A target in words: `onnxruntime:cpu:threads=1` is onnxruntime · cpu · 1 thread."""
    words = []
    for part in text.split(":"):
        name, _, value = part.partition("=")
        if name == "threads":
            words.append(f"{value} thread{'s' * (value != '1')}")
        else:
            words.append(value or name)
    return " · ".join(words)


def duration(seconds: float) -> str:
    """A time in minutes, or in hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


FILTERS = {
    one.__name__: one for one in (ms, percent, points, change, short, whole, power, day, target, duration)
}
"""By the name they have in templates."""


_ACTIONS = {
    "remove_block": "block removed",
    "remove_attention": "attention replaced",
    "narrow_stage": "stage narrowed",
    "replace_block": "block replaced by a cheaper one",
    "narrow_mlp": "MLP narrowed",
    "change_activation": "activation changed",
    "change_stem": "stem changed",
    "shrink_input": "smaller images",
    "several": "several at once",
}
_GREEDY = (
    "At each, of the actions possible, the one that cost the least accuracy for a millisecond saved was taken"
)
_POLICIES = {
    "greedy": f"{_GREEDY}.",
    "greedy-remeasured": f"{_GREEDY}; importance was measured anew after each.",
    "exact": "Integer programming chose it, by what each single change costs in loss and in milliseconds.",
    "bayesian": "It is the best of the networks scored in the window of latency; Bayesian optimisation "
    "chose them, by a Gaussian process over the scores so far.",
    "evolution": "It is the best of the networks that evolution scored in the window of latency.",
    "random": "It is the best of the networks drawn at random in the window of latency.",
}


def action(kind: str) -> str:
    """A kind of action in words."""
    return _ACTIONS[kind]


def policy(name: str) -> str:
    """What a policy did, in a sentence."""
    return _POLICIES[name]
