"""What a site answers about its held-out patients: its terms, and noisy numbers.

After a round one change (federation/privacy/validation.py), after the last one a histogram per question of the plan.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from federation import canonical
from federation.canonical import Value
from federation.consent import PrivacyTerms, terms_body, terms_from
from federation.errors import FormatError
from federation.privacy.histograms import BINS, Axis, Histogram


@dataclass(frozen=True)
class Evaluation:
    """One release. `terms` are those of the held-out patients: their noise, and what they have spent with it."""

    terms: PrivacyTerms
    histograms: tuple[Histogram, ...]

    def body(self) -> dict[str, Value]:
        return {"privacy": terms_body(self.terms), "histograms": [_histogram_body(item) for item in self.histograms]}


@dataclass(frozen=True)
class Validation:
    """How much better a round's candidate is than what the round began with: the change of the mean score, noisy."""

    terms: PrivacyTerms
    change: float

    def body(self) -> dict[str, Value]:
        return {"privacy": terms_body(self.terms), "change": canonical.decimal(self.change)}


def validation_from(body: Mapping[str, Value]) -> Validation:
    """Raises: FormatError `not-canonical` for anything that `Validation.body` would not write."""
    match body:
        case {"privacy": written, "change": change, **rest} if not rest:
            made = Validation(terms_from(written), canonical.number(change))
        case _:
            raise _refused()
    if canonical.dump(made.body()) != canonical.dump(body):
        raise _refused()
    return made


def evaluation_from(body: Mapping[str, Value], questions: int) -> Evaluation:
    """Raises: FormatError `not-canonical` for anything that `Evaluation.body` would not write about these questions."""
    match body:
        case {"privacy": written, "histograms": [*listed], **rest} if not rest and len(listed) == questions:
            made = Evaluation(terms_from(written), tuple(_histogram_from(item) for item in listed))
        case _:
            raise _refused()
    if canonical.dump(made.body()) != canonical.dump(body):
        raise _refused()
    return made


def _histogram_body(made: Histogram) -> dict[str, Value]:
    return {
        "axis": [[canonical.decimal(number) for number in curve] for curve in made.axis.curves],
        "positive": [canonical.decimal(number) for number in made.positive],
        "negative": [canonical.decimal(number) for number in made.negative],
        "influence": canonical.decimal(made.influence),
    }


def _histogram_from(written: Value) -> Histogram:
    match written:
        case {"axis": [*axis], "positive": [*positive], "negative": [*negative], "influence": influence} if (
            len(positive) == len(negative) == BINS + 1 and 1 <= len(axis) <= 2
        ):
            curves = tuple(_curve_from(curve) for curve in axis)
            counts = [tuple(canonical.number(item) for item in row) for row in (positive, negative)]
            return Histogram(Axis(curves), counts[0], counts[1], canonical.number(influence))
        case _:
            raise _refused()


def _curve_from(written: Value) -> tuple[float, float, float]:
    match written:
        case [weight, mean, std]:
            curve = (canonical.number(weight), canonical.number(mean), canonical.number(std))
            if 0.0 <= curve[0] <= 1.0 and abs(curve[1]) <= 100.0 and 0.01 <= curve[2] <= 100.0:
                return curve
    raise _refused()


def _refused() -> FormatError:
    return FormatError("not-canonical", "an evaluation is not in its agreed form", hint="compare the versions")
