"""What a study found, as plain values: JSON in and out. Tables and pages read these and compute nothing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientformer.errors import InputError
from efficientformer.files import read_json
from efficientformer.latency.measurement import Measurement
from efficientformer.study.observations import Observation
from efficientformer.study.verdict import (
    INEXPRESSIBLE,
    NO_CLAIM,
    NO_DIFFERENCE,
    REVERSED,
    SAME,
    UNDECIDED,
    Comparison,
    Ratio,
)

FORMAT = "efficientformer.study/1"
MIXED = "mixed"
_DECIDED = (SAME, REVERSED, NO_DIFFERENCE)


@dataclass(frozen=True)
class VariantFacts:
    """A variant, told: see `experiment.Variant`; its first is the experiment's baseline."""

    name: str
    image: tuple[int, ...]
    params: int
    macs: int
    expect: str | None
    paper: str


@dataclass(frozen=True)
class Trial:
    """One experiment on one target.

    Attributes:
        target: where.
        receipts: by variant, of one interleaved run.
        failures: why a variant has none.
        comparisons: each variant against the baseline.
    """

    target: str
    receipts: Mapping[str, Measurement]
    failures: Mapping[str, str]
    comparisons: tuple[Comparison, ...]

    def comparison(self, variant: str) -> Comparison | None:
        """A variant's row; None for the baseline."""
        return next((one for one in self.comparisons if one.variant == variant), None)


@dataclass(frozen=True)
class Tried:
    """One experiment, told, with its trial on each target: see `experiment.Experiment`."""

    name: str
    observation: int
    title: str
    about: str
    variants: tuple[VariantFacts, ...]
    trials: tuple[Trial, ...]

    def trial(self, target: str) -> Trial:
        """What came of it on a target."""
        return next(one for one in self.trials if one.target == target)


@dataclass(frozen=True)
class Answer:
    """What a target says to one observation: the verdict its claims share, `mixed`, or `not decided`.

    Attributes:
        verdict: of all the paper's claims that were decided, if these are at least half of them.
        counts: how many rows have each verdict, rows without a claim left out.
    """

    verdict: str
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Study:
    """Experiments tried on targets.

    Attributes:
        version: of this package.
        date: when it began, UTC.
        targets: where.
        source: what the claims are taken from.
        observations: the paper's, those that were tried.
        experiments: in order.
    """

    version: str
    date: str
    targets: tuple[str, ...]
    source: str
    observations: tuple[Observation, ...]
    experiments: tuple[Tried, ...]

    def of(self, observation: int) -> list[Tried]:
        """The experiments on one observation."""
        return [one for one in self.experiments if one.observation == observation]

    def answer(self, observation: int, target: str) -> Answer:
        """What a target says to an observation."""
        verdicts = [
            one.verdict
            for tried in self.of(observation)
            for one, facts in zip(tried.trial(target).comparisons, tried.variants[1:], strict=True)
            if facts.expect
        ]
        decided = [verdict for verdict in verdicts if verdict in _DECIDED]
        shared = decided[0] if len(set(decided)) == 1 else MIXED
        if 2 * len(decided) < len(verdicts) or not decided:
            shared = UNDECIDED
        order = (*_DECIDED, UNDECIDED, INEXPRESSIBLE, NO_CLAIM)
        counts = Counter(verdicts)
        return Answer(shared, {verdict: counts[verdict] for verdict in order if counts[verdict]})

    def to_json(self) -> dict[str, Any]:
        """Everything, samples included."""
        document = {"format": FORMAT, **_plain(self)}
        document["answers"] = [
            {"observation": one.number, "target": target, **_plain(self.answer(one.number, target))}
            for one in self.observations
            for target in self.targets
        ]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Study:
        """The study that `to_json` wrote.

        Raises:
            InputError: if it is of another format, or lacks a value.
        """
        if not isinstance(document, Mapping) or document.get("format") != FORMAT:
            raise InputError(f'study: expected a JSON object with "format": "{FORMAT}"')
        try:
            return cls(
                document["version"],
                document["date"],
                tuple(document["targets"]),
                document["source"],
                tuple(Observation(**one) for one in document["observations"]),
                tuple(_tried(one) for one in document["experiments"]),
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"study: a value is missing, unknown or of the wrong type: {error}") from None


def read_study(path: Path) -> Study:
    """The study in a file, or in the folder that `--out` named.

    Raises:
        InputError: if there is none.
    """
    file = path / "study.json" if path.is_dir() else path
    try:
        return Study.from_json(read_json(file))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; give what study --out wrote") from None
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Measurement):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (tuple, list)) else value


def _tried(document: Mapping[str, Any]) -> Tried:
    fields: dict[str, Any] = dict(document)
    fields["variants"] = tuple(_variant(dict(one)) for one in document["variants"])
    fields["trials"] = tuple(_trial(one) for one in document["trials"])
    return Tried(**fields)


def _variant(fields: dict[str, Any]) -> VariantFacts:
    return VariantFacts(image=tuple(fields.pop("image")), **fields)


def _trial(document: Mapping[str, Any]) -> Trial:
    receipts = {name: Measurement.from_json(one) for name, one in document["receipts"].items()}
    comparisons = tuple(_comparison(dict(one)) for one in document["comparisons"])
    return Trial(document["target"], receipts, document["failures"], comparisons)


def _comparison(fields: dict[str, Any]) -> Comparison:
    ratio = fields.pop("ratio")
    return Comparison(ratio=Ratio(**ratio) if ratio else None, **fields)
