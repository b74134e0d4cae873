"""Poisson sampling of patients: each one enters a step by an independent coin, as the accountant assumes.

Shuffled or fixed-size batches are not offered: accounted as Poisson they understate epsilon up to fourfold
(Chua et al. 2024; arXiv:2411.10614).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from federation.errors import PlanError, StoreError
from federation.privacy.keystream import KeyStream

PatientKey: TypeAlias = str  # 32 hex characters, the keyed pseudonym made at the site


@dataclass(frozen=True)
class PoissonSampling:
    """Each patient is drawn with probability `sampling_rate`, independently of every other patient and step.

    Guarantees:
        Whether a patient is drawn depends on that patient's own coin only. The drawn set and its size are arguments of
        the next function and nothing else: they are never stored, logged or sent.

    | edge case                   | result                                           |
    |-----------------------------|--------------------------------------------------|
    | nobody drawn, or no patient | an empty list; the step is run and charged as ever |
    | sampling_rate 1             | everybody, in the given order                    |
    | a patient listed twice      | refused: two coins would be a higher rate        |
    | rate 0, above 1, NaN        | refused                                          |
    """

    sampling_rate: float

    def __post_init__(self) -> None:
        if not 0.0 < self.sampling_rate <= 1.0:
            raise PlanError("plan-value", "the sampling rate is not in (0, 1]", hint="set a rate such as 0.05")

    def draw(self, patients: Sequence[PatientKey], stream: KeyStream) -> list[PatientKey]:
        """The patients of one step, in the given order. The coin is k / 2^53 < sampling_rate."""
        if len(set(patients)) != len(patients):
            raise StoreError("store-damaged", "a patient is listed twice", hint="check the store, then ingest again")
        coins = stream.uniform(len(patients)) < self.sampling_rate
        return [patient for patient, drawn in zip(patients, coins.tolist(), strict=True) if drawn]
