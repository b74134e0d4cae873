"""What a site says to a plan: Consent with its public terms, or Refusal with public reasons. Neither is an error.

The fields are all that a coordinator learns about a site besides its updates; each is public by the site's own choice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from federation import canonical
from federation.adapter import NAME
from federation.canonical import Value
from federation.errors import FormatError
from federation.messages import DIGEST
from federation.privacy.accounting import SharedNoise

PROTOCOL = "wardround/1"  # named in every consent question; a site of another version refuses

Reason = Literal[
    "budget_exhausted",
    "noise_too_low",
    "delta_too_large",
    "model_not_allowed",
    "quorum_too_small",
    "noise_shared",
    "secure_required",
    "rank_too_large",
    "roster_absent",
    "privacy_off",
    "plan_not_approved",
    "data_not_released",
    "version_differs",
]

Shapes = Mapping[str, tuple[int, ...]]


def patients_most(declared_patients: int) -> int:
    """So many patients may a site train on that declares so many: what all sites rely on, and each sees to at home."""
    return declared_patients + max(10, declared_patients // 10)


@dataclass(frozen=True)
class PrivacyTerms:
    """How one site takes part in a run with patient-level privacy: public numbers, fixed before any draw."""

    noise_multiplier: float
    sampling_rate: float
    delta: float
    epsilon_after_round: float  # everything in the site's ledger and this round
    epsilon_at_end: float  # everything in the site's ledger and the rest of the run
    shared: SharedNoise | None = None  # with it, the noise is that of the masked sum, and epsilon rests on others too


NUMBERS = ("noise_multiplier", "sampling_rate", "delta", "epsilon_after_round", "epsilon_at_end")


@dataclass(frozen=True)
class Consent:
    base_digest: str
    shapes: Shapes
    declared_patients: int  # a rounded number that the site publishes, not its count
    terms: PrivacyTerms | None  # None: the plan has no privacy, and the site allows that

    def body(self) -> dict[str, Value]:
        body: dict[str, Value] = {
            "base_digest": self.base_digest,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "declared_patients": self.declared_patients,
            "privacy": None,
        }
        if self.terms is not None:
            body["privacy"] = terms_body(self.terms)
        return body


@dataclass(frozen=True)
class Refusal:
    reasons: tuple[Reason, ...]

    def body(self) -> dict[str, Value]:
        return {"reasons": list(self.reasons)}


def consent_from(body: Mapping[str, Value]) -> Consent:
    """Raises: FormatError `not-canonical` for anything that `Consent.body` would not write."""
    match body:
        case {"base_digest": str(base), "shapes": dict(listed), "declared_patients": int(declared), "privacy": written}:
            pass
        case _:
            raise _refused()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in listed.items():
        match shape:
            case [int(rows), int(columns)] if rows > 0 and columns > 0 and NAME.fullmatch(name):
                shapes[name] = (rows, columns)
            case _:
                raise _refused()
    terms = None if written is None else terms_from(written)
    if DIGEST.fullmatch(base) is None or declared < 1 or not shapes:
        raise _refused()
    numbers = {type(number) for shape in shapes.values() for number in shape} | {type(declared)}
    if numbers != {int} or len(body) != 4:  # true is an integer to Python
        raise _refused()
    return Consent(base, shapes, declared, terms)


def refusal_from(body: Mapping[str, Value]) -> Refusal:
    """Only the enumerated reasons: free text from a site would be a way out for data."""
    match body:
        case {"reasons": [*reasons], **rest} if (
            reasons and not rest and all(item in get_args(Reason) for item in reasons)
        ):
            return Refusal(tuple(reasons))  # type: ignore[arg-type]
        case _:
            raise _refused()


def terms_body(terms: PrivacyTerms) -> dict[str, Value]:
    body: dict[str, Value] = {name: canonical.decimal(getattr(terms, name)) for name in NUMBERS}
    return body if terms.shared is None else body | {"shared": dict(vars(terms.shared))}


def terms_from(written: Value) -> PrivacyTerms:
    """The opposite of `terms_body`. Raises: FormatError `not-canonical`."""
    if not isinstance(written, Mapping) or {*written} - {"shared"} != {*NUMBERS}:
        raise _refused()
    match written.get("shared", ()):
        case ():
            shared = None
        case {"honest_sites": int(honest), "grid_bits": int(bits), **rest} if (
            not rest and {type(honest), type(bits)} == {int}  # true is an integer to Python
        ):
            shared = SharedNoise(honest, bits)
        case _:
            raise _refused()
    terms = PrivacyTerms(**{name: canonical.number(written[name]) for name in NUMBERS}, shared=shared)
    if not (terms.noise_multiplier > 0 and 0 < terms.sampling_rate <= 1 and 0 < terms.delta < 1):
        raise _refused()
    return terms


def _refused() -> FormatError:
    return FormatError("not-canonical", "a consent or refusal is not in its agreed form", hint="compare the versions")
