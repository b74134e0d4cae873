"""Masked sums in groups: more than one mean to compare, at the price of more than one sum that is learned.

With one masked sum a wrong update can only be rejected together with everybody's. With `aggregation.group_size` the
sites are masked in groups of at least so many: each group's mean has its own bound, and the rules of robust.py look at
the means of groups as they look at single updates elsewhere. Nothing is opened of fewer sites than that: every site of
a group refuses otherwise.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from federation.adapter import AdapterUpdate
from server.record import MaskedRecord

Groups = tuple[tuple[str, ...], ...]


def groups_of(sites: Sequence[str], size: int) -> Groups:
    """As many groups as can have `size` sites, as equal as possible, in the order of ids; one of all sites for size 0.

    Guarantees: depends on the sites alone, not on who has answered: a site that is missing in one round does not move
    the others into new groups, whose sums would differ by one update.

    >>> groups_of("abcdefghijklm", 5)
    (('a', 'b', 'c', 'd', 'e', 'f', 'g'), ('h', 'i', 'j', 'k', 'l', 'm'))
    """
    ordered = sorted(sites)
    count = max(1, len(ordered) // size) if size else 1
    small, larger = divmod(len(ordered), count)
    starts = [number * small + min(number, larger) for number in range(count + 1)]
    return tuple(tuple(ordered[start:end]) for start, end in pairwise(starts))


def shares_of(
    opened: Sequence[tuple[AdapterUpdate, Mapping[str, int]]], weights: Mapping[str, int]
) -> tuple[list[tuple[AdapterUpdate, int]], dict[str, float]]:
    """Each group's mean with its weight, the sum of its survivors' public weights; and what each site counts in all.

    `opened` has a group's mean and the weights of its survivors within the group.
    """
    means: list[tuple[AdapterUpdate, int]] = []
    shares: dict[str, float] = {}
    for mean, within in opened:
        whole = sum(weights[site] for site in within)
        means.append((mean, whole))
        shares |= {site: whole * weight / sum(within.values()) for site, weight in within.items()}
    return means, shares


def joined(records: Sequence[MaskedRecord]) -> MaskedRecord:
    """What the next round needs to know of all groups: the largest size of each matrix, the widest bounds."""
    names = [name for record in records for name in record.rms]
    return MaskedRecord(
        bits=max(record.bits for record in records),
        clipped=sum(record.clipped for record in records),
        widen=max(record.widen for record in records),
        rms={name: max(record.rms.get(name, 0.0) for record in records) for name in names},
        suspects={site: code for record in records for site, code in record.suspects.items()},
    )
