"""Withdrawing a patient: first it is written down who, then everything of them goes, so that a kill loses neither.

Ids of patients come on standard input, never on a command line, which shell histories and `ps` keep. Nothing here
prints one, and nothing stores one: what is written down is the keyed pseudonym.
"""

import getpass
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any, BinaryIO, TextIO

from client.guarded import guarded
from client.imaging.attestation import attestation, keep
from client.imaging.ingest import patient_keys
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys, normal_id
from client.imaging.receive import scan
from client.imaging.scratch import scratch
from client.imaging.sources import Source
from client.imaging.spool import Spool
from client.imaging.store import Store
from client.signed_record import require_person
from client.withdrawals import Action, Withdrawal
from client.workplace import Workplace
from federation.errors import DataError, StoreError
from federation.terminal import Talk
from federation.trust import times

Json = dict[str, Any]
_ID_LETTERS_MAX = 256
_KEY = re.compile(r"[0-9a-f]{12,32}")
_KEY_LETTERS = 32


def erase(
    place: Workplace, ids: Sequence[str], shown_keys: Sequence[str], talk: Talk, *, person: str, issuer: str
) -> Json:
    """`site erase`: withdraw these patients. Doing it again finishes what was interrupted, and adds nothing.

    Guarantees: before the store is touched, the record that keeps them out is on disk; afterwards no example, picture
    or row of them is left in the store, nor in the log of its index, and no object in the spool, unless a receiver
    runs, which drops them at its next look. Where an ingest writes to the store meanwhile, it is the ingest that erases
    them at its end; then the error says that the record is made and the erasing is not.

    Raises: DataError patient-unknown for a key that nobody has; StoreError store-busy, withdrawal-damaged.
    """
    require_person(person)
    profile, keys = place.profile(), place.keys()
    with guarded(), ExitStack() as stack:
        store = stack.enter_context(_own_store(place, keys)) if place.has_store() else None
        known = place.withdrawals().patients(keys.key_id)
        mark = None if store is None else store.mark()
        people = _chosen(ids, shown_keys, keys, profile, issuer, store, known)
        chosen = list(dict.fromkeys(key for person_keys in people for key in person_keys))
        _record(place, "withdraw", [key for key in chosen if key not in known], keys, person)
        received = _drop_received(place, profile, keys, chosen, talk)
        stored, examples, meanwhile = set[str](), 0, False
        if store is not None:
            with _alone(store):
                meanwhile = store.mark() != mark
                stored.update(store.present(chosen))
                examples = store.erase(*chosen)
        unknown = sum((stored | known | received.keys()).isdisjoint(one) for one in people)
        if meanwhile and unknown:
            talk.line(
                f"wardround: {unknown} of them not in the store; another command wrote to it meanwhile, and erases "
                "those who are withdrawn itself: whether an id was mistyped cannot be told"
            )
        counts = {
            "patients": sum(not stored.isdisjoint(one) for one in people), "examples": examples,
            "received": received.total(), "unknown": 0 if meanwhile else unknown,
        }  # fmt: skip
        _attest(place, "erase", profile, keys, counts, store, person)
    return counts


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """With the store's lock. Raises: StoreError store-busy, which says that the record is made all the same."""
    with ExitStack() as stack:
        try:
            stack.enter_context(store.batch())
        except StoreError as error:
            if error.code != "store-busy":
                raise
            raise StoreError(
                "store-busy",
                "recorded, but not erased yet: another process is writing to the store",
                hint="an ingest or a receiver erases them when it has done; then run the same command again, which "
                "finishes what is left",
            ) from None
        yield


def take_back(
    place: Workplace, ids: Sequence[str], shown_keys: Sequence[str], *, person: str, issuer: str
) -> Json:  # fmt: skip
    """`site erase --undo`: these patients may come back. What was erased stays so until it is ingested again."""
    require_person(person)
    profile, keys = place.profile(), place.keys()
    with guarded(), ExitStack() as stack:
        store = stack.enter_context(_own_store(place, keys)) if place.has_store() else None
        known = place.withdrawals().patients(keys.key_id)
        people = _chosen(ids, shown_keys, keys, profile, issuer, None, known)
        undone = list(dict.fromkeys(key for one in people for key in one if key in known))
        unknown = sum(known.isdisjoint(one) for one in people)
        counts = {"undone": len(people) - unknown, "unknown": unknown}
        if undone:
            _record(place, "undo", undone, keys, person)
            _attest(place, "erase-undo", profile, keys, counts, store, person)
    return counts


def require_known(counts: Json) -> None:
    """Raises: DataError patient-unknown when an id or key was of nobody; said after what was done is printed."""
    unknown, undo = counts["unknown"], "undone" in counts
    if not unknown:
        return
    one = f"{unknown} id was of" if unknown == 1 else f"{unknown} ids were of"
    if undo:
        raise DataError(
            "patient-unknown",
            f"{one} nobody who is withdrawn",
            hint="compare it with the source; if the images name an issuer, give it with --issuer",
        )
    raise DataError(
        "patient-unknown",
        f"{one} nobody in the store; recorded all the same, so that they stay out",
        hint="if it was mistyped, take it back with --undo; if the images name an issuer, give it with --issuer",
    )


def ids_from(stdin: TextIO | None) -> list[str]:
    """Asked for at a terminal, otherwise read as a list; there is no standard input where somebody has closed it."""
    if stdin is None:
        return _some([])
    return ask_ids() if stdin.isatty() else read_ids(stdin.buffer)


def read_ids(stream: BinaryIO) -> list[str]:
    """One id a line; blank lines are none. A list that Windows made is one, too.

    Raises: DataError patient-unknown for what is no such list, by the number of its line.
    """
    ids = []
    for number, line in enumerate(stream.read().splitlines(), 1):
        try:
            text = line.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise _no_id(f"line {number} on standard input is no text in UTF-8") from None
        if len(text) > _ID_LETTERS_MAX:
            raise _no_id(f"line {number} on standard input is too long for a patient id")
        if normal_id(text):
            ids.append(text)
    return _some(ids)


def ask_ids() -> list[str]:
    """Ids from a person at a terminal, which does not show them."""

    def typed() -> Iterator[str]:
        try:
            while text := getpass.getpass("patient id, not shown (empty: that is all): ", stream=sys.stderr).strip():
                yield text
        except EOFError:
            return

    return _some(list(typed()))


def _some(ids: list[str]) -> list[str]:
    if not ids:
        raise _no_id("no patient id came on standard input")
    return ids


def _no_id(message: str) -> DataError:
    return DataError("patient-unknown", message, hint="give one id a line, or --key; nothing was erased")


def _own_store(place: Workplace, keys: SiteKeys) -> Store:
    store = place.open_store()
    if store.key_id != keys.key_id:
        store.close()
        raise StoreError(
            "store-mismatch",
            "the store was made with another site secret: with this one its patients cannot be told",
            hint="restore that secret, then erase again",
        )
    return store


def _chosen(
    ids: Sequence[str], shown_keys: Sequence[str], keys: SiteKeys, profile: DeidProfile, issuer: str,
    store: Store | None, known: Collection[str],
) -> list[tuple[str, ...]]:  # fmt: skip
    """The keys of each person, once, in the order in which they were given: that of now, and those of before records
    were joined under which somebody is found."""
    issuer = issuer or profile.default_issuer
    people = []
    for each in ids:
        current = keys.patient_key(issuer, each)
        earlier = sorted(keys.person_keys(issuer, each) - {current})
        people.append(
            (current, *(key for key in earlier if key in known or (store is not None and store.has_patient(key))))
        )
    people += [(_whole_key(shown.rstrip("… ").lower(), store, known),) for shown in shown_keys]
    return list(dict.fromkeys(people))


def _whole_key(start: str, store: Store | None, known: Collection[str]) -> str:
    """The key that begins as the inspection page shows it."""
    if _KEY.fullmatch(start) is None:
        raise _no_key("a key has 12 to 32 hex digits")
    if len(start) == _KEY_LETTERS:
        return start
    found = {key for key in known if key.startswith(start)}
    if store is not None:
        query = "SELECT patient_key FROM patient WHERE patient_key >= ? AND patient_key < ? LIMIT 2"
        found |= {key for (key,) in store.rows(query, start, start + "g")}
    if len(found) != 1:
        raise _no_key("more than one patient has a key that begins so" if found else "nobody has a key that begins so")
    return found.pop()


def _no_key(message: str) -> DataError:
    return DataError(
        "patient-unknown",
        message,
        hint="copy the pseudonym from the page of site inspect; nothing was erased",
    )


def _record(place: Workplace, action: Action, chosen: Sequence[str], keys: SiteKeys, person: str) -> None:
    if chosen:
        now = times.now()
        place.withdrawals().append([Withdrawal(action, key, keys.key_id, person, now) for key in chosen])


def _drop_received(
    place: Workplace, profile: DeidProfile, keys: SiteKeys, chosen: Collection[str], talk: Talk
) -> Counter[str]:
    """Remove the raw objects of these patients that wait for a report. Returns how many by patient."""
    folder = place.spool / "received"
    if not folder.is_dir():
        return Counter()
    try:
        spool = Spool(place.spool, profile.limits, keys)
    except StoreError as error:
        if error.code != "store-busy":
            raise
        talk.line("wardround: site receive is running: what it holds of them goes at its next look")
        return Counter()
    wanted, gone = set(chosen), Counter[str]()
    with closing(spool), scratch(place.spool) as work:
        intake = scan(Source(folder, profile.limits, work), profile, work, every_row=False)
        with closing(intake):
            for image in intake.images():
                for key in wanted & patient_keys(keys, profile, image.issuer, image.patient_id):
                    image.path.unlink(missing_ok=True)
                    gone[key] += 1
    return gone


def _attest(
    place: Workplace, kind: str, profile: DeidProfile, keys: SiteKeys, counts: dict[str, int], store: Store | None,
    person: str,
) -> None:  # fmt: skip
    digest = None if store is None else store.digest()
    text = attestation(kind, profile, keys.key_id, counts, data_digest=digest, time_utc=times.now(), person=person)
    keep((place.state if store is None else store.folder) / "attestations", text, place.signing_key())
