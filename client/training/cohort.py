"""Which of a site's patients a run trains on, and which it only examines."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, repr=False)
class Cohort:
    """Patients of one site under one plan. Nobody is in both parts."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]

    def __repr__(self) -> str:
        return "<Cohort: hidden>"


def split(patients: Iterable[str], *, held_out_share: float) -> Cohort:
    """Each patient goes to one part by their own key alone: adding or removing a patient moves nobody else.

    The key is a keyed pseudonym, so its first 64 bits are as good as a coin, and the same in every run of the site.
    """
    parts: tuple[list[str], list[str]] = ([], [])
    for key in sorted(patients):
        parts[int(key[:16], 16) < held_out_share * 2**64].append(key)
    return Cohort(tuple(parts[0]), tuple(parts[1]))
