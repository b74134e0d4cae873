"""Consent and refusal on the wire: agreed words and numbers, nothing else."""

import pytest

from federation.consent import Consent, PrivacyTerms, Refusal, consent_from, refusal_from
from federation.errors import FormatError

CONSENT = Consent("ab" * 32, {"m.lora_A.weight": (2, 3)}, 500, PrivacyTerms(1.25, 0.1, 2e-4, 0.5, 1.5))


def test_what_was_written_is_read():
    assert consent_from(CONSENT.body()) == CONSENT
    assert refusal_from(Refusal(("privacy_off", "noise_too_low")).body()) == Refusal(("privacy_off", "noise_too_low"))


@pytest.mark.parametrize(
    "change",
    [
        {"base_digest": "ab"},
        {"shapes": {}},
        {"shapes": {"m.lora_A.weight": [2]}},
        {"shapes": {"m.lora_A.weight": [True, 3]}},
        {"shapes": {"patient": [2, 3]}},
        {"declared_patients": 0},
        {"declared_patients": True},
        {"privacy": {}},
        {"privacy": {**CONSENT.body()["privacy"], "sampling_rate": "1.5"}},
        {"privacy": {**CONSENT.body()["privacy"], "delta": "1e-4"}},
        {"true_patients": 17},
    ],
)
def test_anything_more_less_or_otherwise_is_refused(change):
    with pytest.raises(FormatError):
        consent_from({**CONSENT.body(), **change})


@pytest.mark.parametrize(
    "body", [{}, {"reasons": []}, {"reasons": ["patient Doe"]}, {"reasons": ["privacy_off"], "x": 1}]
)
def test_a_refusal_has_only_the_enumerated_reasons(body):
    with pytest.raises(FormatError):
        refusal_from(body)
