"""Who belongs to a federation: a document that k of n officers sign, each version naming the one before it.

A site is in it because people compared its fingerprint, not because a server says so. Versions only go up, every one
expires, and a change of the officers needs k signatures of the officers before. Spec: docs/spec/trust-1.md, section 5.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from federation import canonical
from federation.canonical import Value
from federation.errors import FormatError, TrustError
from federation.messages import DIGEST, SITE_ID
from federation.trust import times
from federation.trust.fingerprint import fingerprint
from federation.trust.keys import SigningKey, VerifyKey

VERSION = "wardround-roster/1"
ROSTER_BYTES_MAX = 2**20
DAYS_MAX = 90
TEXT_MAX = 300  # letters of an organisation, a contact or a transport key

Status = Literal["active", "revoked"]


@dataclass(frozen=True)
class Officer:
    """A person who may sign rosters, and the key that they keep away from the coordinator."""

    name: str
    key: VerifyKey


@dataclass(frozen=True)
class Member:
    """One site. A revoked one stays in the list, so that its name and key never come back by mistake."""

    site_id: str
    organisation: str
    contact: str
    identity: VerifyKey
    transport: str  # OpenSSH public key of Flower's node authentication
    status: Status = "active"
    retiring: VerifyKey | None = None  # the key before this one, good until the next roster

    def keys(self) -> tuple[VerifyKey, ...]:
        return (self.identity,) if self.retiring is None else (self.identity, self.retiring)


@dataclass(frozen=True)
class Roster:
    consortium: str
    version: int
    issued: str
    expires: str
    previous: str | None  # digest of the version before; None in version 1
    officers: tuple[Officer, ...]
    threshold: int
    coordinator: VerifyKey
    log: VerifyKey
    sites: tuple[Member, ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    def value(self) -> dict[str, Value]:
        return {
            "format": VERSION,
            "consortium": self.consortium,
            "version": self.version,
            "issued": self.issued,
            "expires": self.expires,
            "previous": self.previous,
            "officers": [{"name": officer.name, "key": officer.key.text} for officer in self.officers],
            "threshold": self.threshold,
            "coordinator": self.coordinator.text,
            "log": self.log.text,
            "sites": [_member_value(member) for member in self.sites],
        }

    def canonical(self) -> bytes:
        return canonical.dump(self.value())

    def digest(self) -> str:
        return hashlib.sha256(self.canonical()).hexdigest()

    def active(self) -> tuple[str, ...]:
        return tuple(member.site_id for member in self.sites if member.status == "active")

    def identities(self) -> dict[str, bytes]:
        """The newest key of every active member: who may sign in a masked sum (secagg-1)."""
        return {member.site_id: member.identity.raw for member in self.sites if member.status == "active"}

    def member(self, site_id: str) -> Member:
        """The active member of this name. Raises: TrustError `roster-site`."""
        for member in self.sites:
            if member.site_id == site_id and member.status == "active":
                return member
        raise TrustError(
            "roster-site",
            f"{site_id} is not an active member of roster {self.version}",
            hint="the coordinator admits a site with `wardround coordinator admit`; a revoked one enrols again",
        )

    def officers_words(self) -> str:
        """The fingerprint of the federation: its name, its officers and how many must sign. Sites compare it once."""
        return officers_words(self.consortium, self.officers, self.threshold)

    def require_current(self, now_s: float) -> None:
        """Raises: TrustError `roster-expired`, or `clock` if the roster was signed in the future."""
        if now_s > times.seconds(self.expires):
            raise TrustError(
                "roster-expired",
                f"roster {self.version} expired on {self.expires}",
                hint="the officers sign a new version: `wardround coordinator renew`; check this machine's clock too",
            )
        if now_s < times.seconds(self.issued) - times.DAY_S:
            raise TrustError(
                "clock",
                f"roster {self.version} was issued on {self.issued}, which is in this machine's future",
                hint="correct the clock of this machine (NTP), then try again",
            )


@dataclass(frozen=True)
class SignedRoster:
    """A roster and the officers' signatures over it, by the text of their keys."""

    roster: Roster
    signatures: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "signatures", MappingProxyType(dict(self.signatures)))

    def signed_by(self, key: SigningKey) -> "SignedRoster":
        """With one more signature. Whether the key is an officer's is judged where the roster is accepted."""
        signature = key.sign("roster", self.roster.canonical()).hex()
        return SignedRoster(self.roster, {**self.signatures, key.public.text: signature})

    def signers(self, officers: Sequence[Officer]) -> tuple[str, ...]:
        """The names of the officers in this list whose signature is here and valid."""
        return tuple(officer.name for officer in officers if self.has_signed(officer.key))

    def has_signed(self, key: VerifyKey) -> bool:
        try:
            key.verify("roster", self.roster.canonical(), bytes.fromhex(self.signatures.get(key.text, "")))
        except (TrustError, ValueError):
            return False
        return True

    def value(self) -> dict[str, Value]:
        return {"roster": self.roster.value(), "signatures": dict(self.signatures)}


def officers_words(consortium: str, officers: Sequence[Officer], threshold: int) -> str:
    keys: list[Value] = [*sorted(officer.key.text for officer in officers)]
    return fingerprint("federation", canonical.dump([consortium, threshold, keys]))


def dump(signed: SignedRoster) -> bytes:
    return canonical.dump(signed.value())


def load(data: bytes) -> SignedRoster:
    """A roster whose bytes are exactly `data`. Says nothing yet of its signatures: `require_signed` does.

    Raises: TrustError `roster-damaged`, `roster-key`.
    """
    try:
        if len(data) > ROSTER_BYTES_MAX:
            raise _damaged("a roster is too long")
        return from_value(canonical.load(data))
    except FormatError:
        raise _damaged("a roster is not in its canonical form") from None


def from_value(value: Value) -> SignedRoster:
    match value:
        case {"roster": dict(roster), "signatures": dict(signatures), **rest} if not rest:
            texts = {key: signature for key, signature in signatures.items() if isinstance(signature, str)}
            if len(texts) == len(signatures):
                return SignedRoster(_roster_from(roster), texts)
    raise _damaged("a roster without its signatures, or with more")


def require_signed(signed: SignedRoster, officers: Sequence[Officer], threshold: int) -> None:
    """Refuse a roster with fewer than `threshold` valid signatures of these officers, or with any that is invalid.

    Raises: TrustError `roster-signatures`.
    """
    valid = len(signed.signers(officers))
    if valid < threshold or not all(signed.has_signed(VerifyKey.from_text(key)) for key in signed.signatures):
        raise TrustError(
            "roster-signatures",
            f"roster {signed.roster.version} has {valid} valid signatures of officers, {threshold} are needed",
            hint="another officer signs it with `wardround coordinator sign`; an unexpected roster is to be reported",
        )


def accept_first(signed: SignedRoster, consortium: str, officers: Sequence[Officer], threshold: int) -> SignedRoster:
    """The roster a site begins with, against the officers that its people compared. Any version may be the first."""
    roster = signed.roster
    if officers_words(consortium, officers, threshold) != roster.officers_words():
        raise TrustError(
            "roster-officer",
            "the roster names other officers than those that were compared",
            hint="ask the officers: a new set must be signed by the one before it",
        )
    require_signed(signed, officers, threshold)
    return signed


def accept_next(current: SignedRoster, signed: SignedRoster) -> SignedRoster:
    """The roster after `current`; the same one again is `current`.

    Guarantees: version one higher, linked to `current` by digest, signed by the threshold of its own officers and, if
    officers or threshold changed, by that of the officers before (as TUF does for its root role).
    Raises: TrustError `roster-version`, `roster-damaged`, `roster-signatures`.
    """
    before, after = current.roster, signed.roster
    if after.digest() == before.digest():
        return current
    if (
        after.version != before.version + 1
        or after.previous != before.digest()
        or after.consortium != before.consortium
    ):
        raise TrustError(
            "roster-version",
            f"roster {after.version} does not follow the accepted roster {before.version}",
            hint="apply the versions one after the other; an older or a second one with the same number is refused",
        )
    require_signed(signed, before.officers, before.threshold)
    require_signed(signed, after.officers, after.threshold)
    return signed


def accept_chain(current: SignedRoster, later: Sequence[SignedRoster]) -> SignedRoster:
    """`accept_next`, over all versions that a site has missed; those that it has already are passed over."""
    for signed in later:
        if signed.roster.version > current.roster.version:
            current = accept_next(current, signed)
    return current


def successor(
    current: Roster, *, issued_s: float, days: int = DAYS_MAX, sites: Sequence[Member] | None = None
) -> Roster:
    """The next version, unsigned: the same federation with these sites, or with its own without retiring keys."""
    kept = tuple(replace(member, retiring=None) for member in current.sites) if sites is None else tuple(sites)
    return replace(
        current,
        version=current.version + 1,
        previous=current.digest(),
        issued=times.text(issued_s),
        expires=times.text(issued_s + days * times.DAY_S),
        sites=tuple(sorted(kept, key=lambda member: member.site_id)),
    )


def with_member(roster: Roster, member: Member) -> tuple[Member, ...]:
    """The sites with this one added, or rotated to its new key (the old one then retires)."""
    others = [replace(one, retiring=None) for one in roster.sites if one.site_id != member.site_id]
    return (*others, member)


def without_member(roster: Roster, site_id: str) -> tuple[Member, ...]:
    """The sites with this one revoked. Raises: TrustError `roster-site`."""
    roster.member(site_id)
    return tuple(
        replace(one, retiring=None, status="revoked" if one.site_id == site_id else one.status) for one in roster.sites
    )


def _member_value(member: Member) -> dict[str, Value]:
    return {
        "site_id": member.site_id,
        "organisation": member.organisation,
        "contact": member.contact,
        "identity": member.identity.text,
        "transport": member.transport,
        "status": member.status,
        "retiring": None if member.retiring is None else member.retiring.text,
    }


def _roster_from(value: Mapping[str, Value]) -> Roster:
    match value:
        case {
            "format": version, "consortium": str(consortium), "version": int(number), "issued": str(issued),
            "expires": str(expires), "previous": None | str() as previous, "officers": list(officers),
            "threshold": int(threshold), "coordinator": coordinator, "log": log, "sites": list(sites), **rest,
        } if version == VERSION and not rest and type(number) is int and type(threshold) is int:  # fmt: skip
            return Roster(
                consortium, number, issued, expires, previous,
                tuple(_officer_from(one) for one in officers), threshold,
                VerifyKey.from_text(coordinator), VerifyKey.from_text(log), tuple(_member_from(one) for one in sites),
            )  # fmt: skip
    raise _damaged("a roster with missing or unknown fields, or of another version")


def _officer_from(value: Value) -> Officer:
    match value:
        case {"name": str(name), "key": key, **rest} if not rest:
            return Officer(name, VerifyKey.from_text(key))
    raise _damaged("an officer with missing or unknown fields")


def _member_from(value: Value) -> Member:
    match value:
        case {
            "site_id": str(site_id), "organisation": str(organisation), "contact": str(contact), "identity": identity,
            "transport": str(transport), "status": ("active" | "revoked") as status, "retiring": retiring, **rest,
        } if not rest:  # fmt: skip
            before = None if retiring is None else VerifyKey.from_text(retiring)
            return Member(site_id, organisation, contact, VerifyKey.from_text(identity), transport, status, before)
    raise _damaged("a site with missing or unknown fields")


def _check(roster: Roster) -> None:
    """What every roster satisfies, signed or not. Raises: TrustError `roster-damaged`, `roster-key`."""
    try:
        lasts = times.seconds(roster.expires) - times.seconds(roster.issued)
    except FormatError:
        raise _damaged("a roster's time is not readable") from None
    names = [member.site_id for member in roster.sites]
    linked = roster.previous is None if roster.version == 1 else DIGEST.fullmatch(roster.previous or "") is not None
    texts = [text for one in roster.sites for text in (one.organisation, one.contact, one.transport)]
    texts += [officer.name for officer in roster.officers]
    if (
        SITE_ID.fullmatch(roster.consortium) is None
        or roster.version < 1
        or not linked
        or not 0 < lasts <= DAYS_MAX * times.DAY_S
        or not 1 <= roster.threshold <= len(roster.officers)
        or names != sorted(set(names))
        or any(SITE_ID.fullmatch(name) is None for name in names)
        or any(len(text) > TEXT_MAX or not text.isprintable() for text in texts)
    ):
        raise _damaged("a roster with an impossible value")
    keys = [officer.key for officer in roster.officers] + [roster.coordinator, roster.log]
    keys += [key for member in roster.sites for key in member.keys()]
    if len(set(keys)) != len(keys):
        raise TrustError(
            "roster-key", "one key stands twice in the roster", hint="every officer and every site has a key of its own"
        )


def _damaged(reason: str) -> TrustError:
    return TrustError("roster-damaged", reason, hint="take the roster from the coordinator again")
