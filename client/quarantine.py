"""The quarantine as a place to work in: look at items, find them in their source, forget them.

What is printed names no file and no value. Only `find_items`, which is asked for, writes names of patients' files, into
a file for the person who repairs them.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from client.guarded import guarded
from client.imaging.attestation import attestation, keep
from client.imaging.held import find
from client.imaging.reasons import REASONS, explained
from client.imaging.store import Held, Store
from client.imaging.workers import cores
from client.signed_record import require_person
from client.workplace import Workplace
from federation.errors import DataError, StoreError
from federation.terminal import Talk
from federation.trust import times

Json = dict[str, Any]
KINDS = {"row": "report row with its images", "file": "file", "archive": "archive"}
_PAGE = 1000
_ITEM = re.compile(r"[0-9a-f]{6,32}")


def items(place: Workplace, *, reason: str) -> Iterator[Json]:
    """`quarantine list`, one by one: a store with millions of them takes no more memory."""
    _require_reason(reason)
    with guarded(), place.open_store() as store:
        page = store.held_items(reason=reason, most=_PAGE)
        while page:  # between two pages nobody is kept from truncating the log of the index
            yield from map(asdict, page)
            page = store.held_items(reason=reason, after=page[-1].item, most=_PAGE)


def show(place: Workplace, start: str) -> Json:
    """`quarantine show`: one item, what its reason means, and what to do."""
    with guarded(), place.open_store() as store:
        held = _item(store, start)
    return asdict(held) | explained(held.reason)._asdict()


def find_items(
    place: Workplace, source: Path, target: Path, starts: Sequence[str], talk: Talk, *, workers: int | None
) -> Json:
    """`quarantine find`. See `client.imaging.held.find` for what is promised of the table."""
    profile, keys = place.profile(), place.keys()
    with guarded(), place.open_store() as store:
        if store.key_id != keys.key_id:
            raise StoreError(
                "store-mismatch", "the store was made with another site secret", hint="restore that secret"
            )
        only = [_item(store, start).item for start in starts]
        with talk.progress("read headers") as progress:
            counts = find(
                source, target, store, profile, keys, place.spool, apart=(place.reports,), only=only, listing=progress,
                workers=cores() if workers is None else workers,
            )  # fmt: skip
    return asdict(counts)


def discard(place: Workplace, starts: Sequence[str], *, reason: str, person: str) -> Json:
    """`quarantine discard`: these items, or all of a reason, or all. The originals are not touched, and an ingest of
    the same source holds them again. It is attested before it is done."""
    require_person(person)
    _require_reason(reason)
    profile = place.profile()
    with guarded(), place.open_store() as store, store.batch():
        chosen = [_item(store, start).item for start in starts] if starts else None
        counts = store.discard(chosen, reason=reason)
        if counts:
            text = attestation(
                "discard", profile, store.key_id, {"discarded": counts}, data_digest=store.digest(), person=person,
                time_utc=times.now(),
            )  # fmt: skip
            keep(store.folder / "attestations", text, place.signing_key())
    return {"discarded": dict(sorted(counts.items()))}


def _require_reason(reason: str) -> None:
    if reason and reason not in REASONS:
        raise DataError(
            "item-unknown",
            "there is no such reason for quarantine",
            hint="wardround site quarantine lists those that there are",
        )


def _item(store: Store, start: str) -> Held:
    """The one item whose id begins so."""
    found = store.held_like(start.lower()) if _ITEM.fullmatch(start.lower()) else []
    exact = [held for held in found if held.item == start.lower()]
    if len(exact or found) == 1:
        return (exact or found)[0]
    raise DataError(
        "item-unknown",
        "more than one item in quarantine begins so" if found else "no item in quarantine has this id",
        hint="give six letters of its id or more: wardround site quarantine list shows them",
    )
