"""What the data commands of a site do: one function per command of `client/cli.py`, each returning what is printed.

Nothing here prints a value of a patient, a path of a file or a key. Every batch leaves an attestation.
"""

import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

from client.exports import Beginning
from client.guarded import guarded as _guarded
from client.imaging.attestation import attestation, countable, keep, prepare
from client.imaging.export import export
from client.imaging.ingest import IngestCounts, Withdrawn, ingest
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.reasons import explained
from client.imaging.site_lists import SiteLists
from client.imaging.store import Store
from client.imaging.withheld import REASONS, KeptOut, Reach, Withheld, device_words
from client.imaging.workers import cores
from client.releases import Release
from client.settings import ensure_declared
from client.signed_record import require_person
from client.workplace import Workplace
from federation.errors import DataError, SettingsError, StoreError
from federation.terminal import Talk
from federation.trust import times
from federation.trust.keys import SigningKey

Json = dict[str, Any]
_DIGEST_LETTERS_MIN = 12
_KEY_LETTERS_MIN = 8
_WAITS = {
    "store-busy": "another process is writing to the store; what was received waits until it ends",
    "no-worker": "no worker process starts; what was received waits and is tried again every minute: free some memory",
}
_KEY_BEGINS = re.compile(rf"[0-9a-f]{{{_KEY_LETTERS_MIN},32}}")


def ingest_folder(place: Workplace, source: Path, talk: Talk, *, workers: int | None) -> Json:
    """`site ingest`. Raises: DataError nothing-clean when not one example is in the store afterwards."""
    profile, keys, key, lists = place.profile(), place.keys(), place.signing_key(), place.lists
    gone = withdrawn(place, keys, talk)
    place.releases().all()  # a damaged record is told before the work, not in place of its counts
    with _guarded(), place.store_for(profile, keys) as store:
        prepare(store.folder / "attestations")
        with talk.progress("read headers, then de-identify") as progress:
            counts = ingest(
                source, store, profile, keys, listing=progress, progress=progress,
                workers=cores() if workers is None else workers, withdrawn=gone, listed=lists.listed,
            )  # fmt: skip
        digest = _attest_batch("ingest", store, profile, keys, lists, counts, key)
        if not store.count():
            counted = ", ".join(f"{reason} {count}" for reason, count in counts.quarantined.items())
            raise DataError(
                "nothing-clean",
                "no study could be proven clean" + (f" ({counted})" if counted else ""),
                hint="see the reasons with wardround site quarantine",
            )
    return asdict(counts) | {"data_digest": digest, "released": place.releases().of(digest) is not None}


def deidentify_folder(
    place: Workplace, source: Path, target: Path, talk: Talk, *, workers: int | None, held: Path | None = None
) -> Json:
    """`site deidentify`. Which files are held back is written into `held`, if somebody asks for it."""
    profile, keys, key = place.profile(), place.keys(), place.signing_key()
    joined = place.lists.attested(keys).get("patients", {}).get("digest", "")
    now = Beginning(keys.key_id, str(joined), profile.digest)
    gone = withdrawn(place, keys, talk)
    with _guarded():
        prepare(place.state / "attestations")
        with talk.progress("read headers, then de-identify") as progress:
            counts = export(
                source, target, profile, keys, place.spool, listing=progress, progress=progress, workers=workers,
                withdrawn=gone(), kept_out=_kept_out(place),
                begin=lambda goes_on: place.exports().begin(target, now, goes_on=goes_on),
                apart=(place.state, place.store_folder, place.reports), held=held,
            )  # fmt: skip
        text = attestation(
            "deidentify", profile, keys.key_id, asdict(counts), data_digest=None, time_utc=times.now(),
            lists=place.lists.attested(keys),
        )  # fmt: skip
        keep(place.state / "attestations", text, key)
    return asdict(counts)


def _kept_out(place: Workplace) -> KeptOut:
    """What a person took out of the store, if there is one."""
    if not place.has_store():
        return KeptOut()
    with place.open_store() as store:
        return store.kept_out()


def receive_objects(place: Workplace, port: int, talk: Talk) -> None:
    """`site receive`: until SIGTERM or Ctrl-C, then an orderly end."""
    from client.imaging.receiver import receive  # pynetdicom is for this command only
    from client.imaging.spool import Spool
    from client.imaging.storage_scp import Door

    profile, keys, key, lists = place.profile(), place.keys(), place.signing_key(), place.lists
    wanted = place.settings.receive
    door = Door(port, wanted.callers, wanted.ae_title, wanted.host, wanted.associations)
    stop, gone = Event(), withdrawn(place, keys, talk)
    with (
        _guarded(),
        place.store_for(profile, keys) as store,
        closing(Spool(place.spool, profile.limits, keys)) as spool,
        _stopped_by_signals(stop),
    ):
        prepare(store.folder / "attestations")

        def told(counts: IngestCounts) -> None:
            _attest_batch("receive", store, profile, keys, lists, counts, key)
            talk.line(f"stored {counts.accepted} examples{_reasons(counts.quarantined)}")
            if counts.erased:
                talk.line(f"erased {counts.erased} of patients who were withdrawn")

        receive(
            door, spool, store, place.reports, profile, keys,
            quiet_s=wanted.quiet_s, keep_days=wanted.keep_days, stop=stop, workers=cores(), told=told,
            listed=lists.listed,
            started=lambda actual: talk.line(f"{door.ae_title} listens on {door.host} port {actual}"),
            expired=lambda count: talk.line(f"{count} images waited too long for a report and were removed"),
            busy=lambda code: talk.line(_WAITS[code]),
            withdrawn=gone,
        )  # fmt: skip
    talk.line("stopped; what was acknowledged and has not come to rest is ingested at the next start")


def withdrawn(place: Workplace, keys: SiteKeys, talk: Talk) -> Callable[[], Withdrawn]:
    """Says who is withdrawn, whenever it is asked. Raises: StoreError withdrawal-damaged, before any work."""
    record = place.withdrawals()
    if others := record.unknowable(keys.key_id):
        talk.line(
            f"wardround: {others} withdrawn under another secret cannot be recognised: erase them again by their ids"
        )
    return lambda: record.patients(keys.key_id)


def quarantine(place: Workplace, *, minimum: int) -> Json:
    """`site quarantine`: counts by reason, the largest first, with what each means; none below `minimum`."""
    with _guarded(), place.open_store() as store:
        counts = countable(store.held(), minimum)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {"reasons": [{"reason": code, "count": count, **explained(code)._asdict()} for code, count in ordered]}


def hold_examples(
    place: Workplace, examples: Sequence[str], person: str, *, because: str = "leak", group: bool = False
) -> tuple[Reach, bool]:
    """`site hold`: take out what a person found wanting, and whether a release is void by it.

    Args:
        examples: keys, as the page shows them; cut to at least 8 letters where that is unique.
        because: `leak` or `unclear`.
        group: everything of the same device groups, too, and what will come of them.

    Raises: StoreError example-unknown; FormatError for a name that no record can hold.
    """
    require_person(person)
    profile, key = place.profile(), place.signing_key()
    with _guarded(), place.open_store() as store:
        prepare(store.folder / "attestations")
        keys = [_whole_key(store, one) for one in examples]
        releases = place.releases()
        released = bool(releases.all()) and releases.of(store.digest()) is not None
        taken = store.withhold(keys, REASONS[because], group=group)
        if taken.examples or group:
            counts = {
                "held": {REASONS[because]: taken.examples},
                "pictures": taken.pictures,
                "patients": taken.patients,
            }
            _attest_decision("hold", store, profile, counts, person, key)
    return taken, released and taken.examples > 0


def undo_hold(place: Workplace, examples: Sequence[str], person: str, *, group: bool = False) -> int:
    """`site hold --undo`: how many examples the next ingest may bring back.

    Raises: StoreError example-unknown, also when none of them is held; group-held without `group` if a group is held.
    """
    require_person(person)
    profile, key = place.profile(), place.signing_key()
    with _guarded(), place.open_store() as store:
        prepare(store.folder / "attestations")
        count = store.forget_withheld([_whole_key(store, one) for one in examples], group=group)
        if not count:
            raise StoreError(
                "example-unknown", "none of these examples is held", hint="wardround site hold lists what is held"
            )
        _attest_decision("unhold", store, profile, {"examples": count}, person, key)
    return count


def held_examples(place: Workplace) -> Iterator[tuple[Withheld, str]]:
    """`site hold` without an example: what is held, one by one, with its device group in words."""
    with _guarded(), place.open_store() as store:
        for one in store.withheld():
            yield one, device_words(one.device)


def held_groups(place: Workplace) -> list[tuple[str, str]]:
    """The device groups of which whatever comes is held, in words, and why."""
    with _guarded(), place.open_store() as store:
        return [(device_words(device), reason) for device, reason in store.withheld_groups()]


def _whole_key(store: Store, beginning: str) -> str:
    like = _KEY_BEGINS.fullmatch(beginning.strip().lower())
    found = store.keys_like(like[0]) if like else []
    if len(found) != 1:
        raise StoreError(
            "example-unknown",
            "more than one example begins with these letters" if found else "no example has this key",
            hint=f"copy the key from the example's page; it may be cut to {_KEY_LETTERS_MIN} letters",
        )
    return found[0]


def _attest_decision(
    kind: str, store: Store, profile: DeidProfile, counts: Json, person: str, key: SigningKey | None
) -> None:
    text = attestation(
        kind, profile, store.key_id, counts, data_digest=store.digest(), time_utc=times.now(), person=person
    )
    keep(store.folder / "attestations", text, key)


@dataclass(frozen=True)
class DataSet:
    """The data set as it is now, and whether a person has released it."""

    data_digest: str
    profile_digest: str
    patients: int
    examples: int
    quarantined: int
    release: Release | None


def data_set(place: Workplace) -> DataSet:
    """What `site release` would release."""
    with _guarded(), place.open_store() as store:
        digest = store.digest()
        return DataSet(
            digest, store.profile_digest, len(store.patients()), store.count(), sum(store.held().values()),
            place.releases().of(digest),
        )  # fmt: skip


def hindrance(place: Workplace) -> str:
    """What keeps the data set from being trained on, whether it is released or not; empty if nothing does."""
    try:
        with _guarded(), place.open_store() as store:
            place.require_trainable(store)
    except (SettingsError, StoreError) as error:
        return f"{error.message}; {error.hint}"
    return ""


def decide_release(place: Workplace, digest: str, person: str, *, revoke: bool) -> Release:
    """Record that a person releases exactly the data set they looked at, or takes the release back.

    `digest` may be cut to its first letters; it must be the store's own, so that nothing that came since is released.

    Raises: StoreError release-digest when the store holds another data set, or when nothing would change;
    SettingsError declared-patients when it holds more patients than the site declares; and what keeps it from being
    trained on (`Workplace.require_trainable`). To take a release back, none of that matters.
    """
    now = data_set(place)
    if len(digest) < _DIGEST_LETTERS_MIN or not now.data_digest.startswith(digest.lower()):
        raise StoreError(
            "release-digest",
            "the store holds another data set than this digest",
            hint="it has changed, or the digest is cut too short: look again with wardround site inspect",
        )
    if revoke and now.release is None:
        raise StoreError("release-digest", "this data set has no release", hint="there is nothing to take back")
    if not revoke:
        with _guarded(), place.open_store() as store:
            place.require_trainable(store)
        ensure_declared(place.settings.data, now.patients)
    action: Any = "revoke" if revoke else "release"
    release = Release(action, now.data_digest, now.profile_digest, person, times.now())
    with _guarded():
        return place.releases().append(release)


def _attest_batch(
    kind: str, store: Store, profile: DeidProfile, keys: SiteKeys, lists: SiteLists, counts: IngestCounts,
    key: SigningKey | None,
) -> str:  # fmt: skip
    digest = store.digest()
    text = attestation(
        kind, profile, keys.key_id, asdict(counts), data_digest=digest, time_utc=times.now(),
        lists=lists.attested(keys),
    )  # fmt: skip
    keep(store.folder / "attestations", text, key)
    return digest


def _reasons(quarantined: Mapping[str, int]) -> str:
    return "".join(f", {count} held back ({reason})" for reason, count in quarantined.items())


@contextmanager
def _stopped_by_signals(stop: Event) -> Iterator[None]:
    def end(*_: object) -> None:
        stop.set()

    before: list[tuple[signal.Signals, Callable[..., Any] | int | None]] = [
        (number, signal.signal(number, end)) for number in (signal.SIGTERM, signal.SIGINT)
    ]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
