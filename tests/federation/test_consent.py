"""Consent and refusal on the wire: agreed words and numbers, nothing else."""

from dataclasses import replace

import pytest

from federation.consent import Consent, PrivacyTerms, Refusal, consent_from, refusal_from
from federation.errors import FormatError
from federation.privacy.accounting import SharedNoise

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


SHARED = replace(CONSENT, terms=replace(CONSENT.terms, shared=SharedNoise(4, 12)))


def test_terms_say_whether_the_noise_is_shared_and_without_it_they_are_as_they_were():
    assert consent_from(SHARED.body()) == SHARED
    assert SHARED.body()["privacy"]["shared"] == {"honest_sites": 4, "grid_bits": 12}
    assert "shared" not in CONSENT.body()["privacy"]


@pytest.mark.parametrize(
    "shared",
    [
        None,
        {},
        {"honest_sites": 4},
        {"honest_sites": 4, "grid_bits": True},
        {"honest_sites": 4, "grid_bits": 12, "x": 1},
    ],
)
def test_shared_noise_in_another_form_is_refused(shared):
    with pytest.raises(FormatError):
        consent_from({**SHARED.body(), "privacy": {**SHARED.body()["privacy"], "shared": shared}})


@pytest.mark.parametrize(
    "body", [{}, {"reasons": []}, {"reasons": ["patient Doe"]}, {"reasons": ["privacy_off"], "x": 1}]
)
def test_a_refusal_has_only_the_enumerated_reasons(body):
    with pytest.raises(FormatError):
        refusal_from(body)
