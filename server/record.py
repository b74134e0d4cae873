"""What happened in a round, as public values: kept with the checkpoint, read by the report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from federation import canonical
from federation.canonical import Value
from federation.consent import PrivacyTerms, terms_body, terms_from
from federation.errors import StoreError

OUTCOMES: Mapping[str, str] = {  # what a round came to, and the words for people
    "accepted": "accepted",
    "too-few-answers": "too few sites gave a usable update after others had paid for the round",
    "masked-closed": "the masked sum could not be opened: too few sites were left, or somebody broke its protocol",
    "gate-not-finite": "the sum holds NaN or infinity",
    "gate-bound": "the sum is longer than clipping and noise of these sites allow",
    "gate-worse": "the sites' held-out patients are served worse than the plan allows",
}


@dataclass(frozen=True)
class SentMessage:
    """One message that left a site."""

    site_id: str
    kind: str
    size_bytes: int
    sha256: str  # the message's digest: it covers header and payload


@dataclass(frozen=True)
class MaskedRecord:
    """What a masked round left behind, all of it public: the next round's bounds follow from it."""

    bits: int
    clipped: int  # coordinates in 10 000, added up over the sites
    widen: int  # by how much the next bounds are wider than usual; doubled when too many were clipped
    rms: Mapping[str, float]  # of each matrix of the last mean that held it
    suspects: Mapping[str, str]  # site -> code: a share or box of it did not fit

    def value(self) -> dict[str, Value]:
        return {
            "bits": self.bits,
            "clipped": self.clipped,
            "widen": self.widen,
            "rms": {name: canonical.decimal(value) for name, value in self.rms.items()},
            "suspects": dict(self.suspects),
        }


@dataclass(frozen=True)
class RoundRecord:
    round_number: int
    asked: tuple[str, ...]
    participants: tuple[str, ...]  # consented
    accepted: tuple[str, ...]  # their updates are in the adapter, in this order; none if the round was rejected
    refusals: Mapping[str, tuple[str, ...]]  # site -> its reasons
    failures: Mapping[str, str]  # site -> code of why its answer was left out
    weights: Mapping[str, int]
    declared_patients: Mapping[str, int]
    privacy: Mapping[str, PrivacyTerms | None]  # of every participant; None for a plan without privacy
    uplink_bytes: Mapping[str, int]
    downlink_bytes: Mapping[str, int]
    messages: tuple[SentMessage, ...]
    outcome: str  # "accepted", or why the round left the adapter as it was: a word of OUTCOMES
    gate: Mapping[str, Value]  # norm, bound, validation, energy_cut; empty if nothing reached the gate
    update_rms: float  # of the mean update
    adapter_digest: str  # after the round
    result_digest: str  # of what the run gives out if it ends here: the adapter, or the mean over the rounds
    seconds: float
    masked: MaskedRecord | None = None  # None without secure aggregation, or if the masked round was closed
    closed: str = ""  # the code that closed a masked round without a result

    def value(self) -> dict[str, Value]:
        return {
            "round_number": self.round_number,
            "asked": list(self.asked),
            "participants": list(self.participants),
            "accepted": list(self.accepted),
            "refusals": {site: list(reasons) for site, reasons in self.refusals.items()},
            "failures": dict(self.failures),
            "weights": dict(self.weights),
            "declared_patients": dict(self.declared_patients),
            "privacy": {site: _terms_value(terms) for site, terms in self.privacy.items()},
            "uplink_bytes": dict(self.uplink_bytes),
            "downlink_bytes": dict(self.downlink_bytes),
            "messages": [[m.site_id, m.kind, m.size_bytes, m.sha256] for m in self.messages],
            "outcome": self.outcome,
            "gate": dict(self.gate),
            "update_rms": canonical.decimal(self.update_rms),
            "adapter_digest": self.adapter_digest,
            "result_digest": self.result_digest,
            "seconds": canonical.decimal(self.seconds),
            "masked": None if self.masked is None else self.masked.value(),
            "closed": self.closed,
        }


def record_from(value: Value) -> RoundRecord:
    """The opposite of `RoundRecord.value`. Its bytes were checked against their digest before."""
    match value:
        case {
            "round_number": int(round_number),
            "asked": list(asked),
            "participants": list(participants),
            "accepted": list(accepted),
            "refusals": dict(refusals),
            "failures": dict(failures),
            "weights": dict(weights),
            "declared_patients": dict(declared),
            "privacy": dict(privacy),
            "uplink_bytes": dict(uplink),
            "downlink_bytes": dict(downlink),
            "messages": list(messages),
            "outcome": str(outcome),
            "gate": dict(gate),
            "update_rms": rms,
            "adapter_digest": str(adapter_digest),
            "result_digest": str(result_digest),
            "seconds": seconds,
            "masked": masked,
            "closed": str(closed),
        } if outcome in OUTCOMES:
            return RoundRecord(
                round_number,
                tuple(asked),
                tuple(participants),
                tuple(accepted),
                {site: tuple(reasons) for site, reasons in refusals.items()},
                failures,
                weights,
                declared,
                {site: _terms_from(terms) for site, terms in privacy.items()},
                uplink,
                downlink,
                tuple(SentMessage(*fields) for fields in messages),
                outcome,
                gate,
                canonical.number(rms),
                adapter_digest,
                result_digest,
                canonical.number(seconds),
                _masked_from(cast(Mapping[str, Value] | None, masked)),
                closed,
            )
        case _:
            raise StoreError("checkpoint-damaged", "a round's record is damaged", hint="restore the run's folder")


def _terms_value(terms: PrivacyTerms | None) -> Value:
    return None if terms is None else terms_body(terms)


def _terms_from(value: Value) -> PrivacyTerms | None:
    return None if value is None else terms_from(value)


def _masked_from(value: Mapping[str, Value] | None) -> MaskedRecord | None:
    match value:
        case None:
            return None
        case {"bits": int(bits), "clipped": int(clipped), "widen": int(widen), "rms": dict(rms), "suspects": dict(who)}:
            return MaskedRecord(bits, clipped, widen, {name: canonical.number(text) for name, text in rms.items()}, who)
        case _:
            raise StoreError("checkpoint-damaged", "a round's record is damaged", hint="restore the run's folder")
