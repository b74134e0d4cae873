"""Patients whose records were joined: which id counts as which, as a site's patients.csv says.

Ids and issuers are in their normal form here (`pseudonyms.normal_id`). A join that names no issuer holds within
whatever issuer an image names, and leads from no issuer to another: it can make one person of two ids, and never one
of two issuers.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

ANY = ""
"""The issuer of a join that names none. (That of an image without one is the profile's default, often empty too.)"""


class Join(NamedTuple):
    """One row: where it stands, for the error that names it, and what it says."""

    line: int
    issuer: str
    old: str
    current: str


class JoinError(Exception):
    """Joins that contradict each other; says in which line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line, self.message = line, message


@dataclass(frozen=True, repr=False)
class Joined:
    """Which id is another's older one. Chains are followed: A to B and B to C makes C of A."""

    _next: Mapping[tuple[str, str], str] = field(default_factory=dict)
    _before: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "<Joined: hidden>"

    @classmethod
    def of(cls, joins: Iterable[Join]) -> "Joined":
        """Raises: JoinError for an id with two current ones, or one that leads back to itself."""
        following: dict[tuple[str, str], str] = {}
        lines: dict[tuple[str, str], int] = {}
        for join in joins:
            where = (join.issuer, join.old)
            if following.setdefault(where, join.current) != join.current:
                raise JoinError(join.line, f"joins the id of line {lines[where]} to another one")
            lines.setdefault(where, join.line)
        _require_one(following, lines)
        _require_ends(following, lines)
        before: dict[tuple[str, str], list[str]] = {}
        for (issuer, old), current in following.items():
            before.setdefault((issuer, current), []).append(old)
        return cls(following, {where: tuple(olds) for where, olds in before.items()})

    def current(self, issuer: str, patient_id: str) -> str:
        """The id that this one counts as; itself if nothing says otherwise."""
        while (after := _after(self._next, issuer, patient_id)) is not None:
            patient_id = after
        return patient_id

    def is_vague(self, issuer: str, patient_id: str) -> bool:
        """Whether this id was joined by a row that does not say whose ids it is about."""
        while (after := _after(self._next, issuer, patient_id)) is not None:
            if issuer == ANY or (issuer, patient_id) not in self._next:
                return True
            patient_id = after
        return False

    def all_ids(self, issuer: str, patient_id: str) -> frozenset[str]:
        """Every id of this person, the current one too; none for a person with one id only."""
        todo, found = [self.current(issuer, patient_id)], set[str]()
        while todo:
            here = todo.pop()
            found.add(here)
            olds = {old for whose in {issuer, ANY} for old in self._before.get((whose, here), ())}
            todo += [old for old in olds - found if _after(self._next, issuer, old) == here]
        return frozenset(found) if len(found) > 1 else frozenset()

    @property
    def issuers(self) -> frozenset[str]:
        """Those that a row names."""
        return frozenset(issuer for issuer, _ in self._next) - {ANY}

    def old_ids(self, issuer: str) -> Iterator[str]:
        """The ids that count as another one where the issuer is this."""
        for whose, old in self._next:
            if whose in (issuer, ANY):
                yield old


def _after(following: Mapping[tuple[str, str], str], issuer: str, patient_id: str) -> str | None:
    found = following.get((issuer, patient_id))
    return following.get((ANY, patient_id)) if found is None else found


def _require_one(following: Mapping[tuple[str, str], str], lines: Mapping[tuple[str, str], int]) -> None:
    """With and without an issuer, an id may lead to one other only."""
    for (issuer, old), current in following.items():
        if following.get((ANY, old), current) != current:
            first, last = sorted((lines[issuer, old], lines[ANY, old]))
            raise JoinError(last, f"joins the id of line {first} to another one")


def _require_ends(following: Mapping[tuple[str, str], str], lines: Mapping[tuple[str, str], int]) -> None:
    """No way may come back. One that is closed holds a row of its own issuer, or rows without one only."""
    ended = set[tuple[str, str]]()
    for issuer, start in following:
        way: dict[str, int] = {}
        at: str | None = start
        while at is not None and (issuer, at) not in ended:
            if at in way:
                circle = list(way.values())[list(way).index(at) :]
                raise JoinError(max(circle), "joins an id to itself, or closes a circle")
            row = (issuer, at) if (issuer, at) in following else (ANY, at)
            way[at] = lines.get(row, 0)
            at = _after(following, issuer, at)
        ended.update((issuer, each) for each in way)
