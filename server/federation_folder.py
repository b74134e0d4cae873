"""The coordinator's folder of a federation: keys, rosters, tokens, certificates. Substance of the commands.

federation.json          name and address
coordinator.key log.key  made here, 0600
ca.key ca.crt            the private CA; server.key server.crt below it, renewed monthly
rosters/000001.json …    every version in force, signed
draft.json               the next version, while officers sign it
tokens/SITE.json         what checks a token; never the token
officer.key              only for a trial on one machine: a federation of hospitals has officers elsewhere
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from federation import canonical, durable
from federation.errors import FormatError, TrustError
from federation.messages import SITE_ID
from federation.trust import certificates, enrolment, fingerprint, times
from federation.trust import roster as rosters
from federation.trust.enrolment import Invitation, Submission
from federation.trust.keys import SigningKey, VerifyKey, whole_or_nothing
from federation.trust.roster import Member, Officer, Roster, SignedRoster

FILE, DRAFT, TRIAL_OFFICER = "federation.json", "draft.json", "officer.key"
MADE = (
    "coordinator.key", "log.key", TRIAL_OFFICER, FILE, DRAFT, certificates.CA_KEY, certificates.CA_CERTIFICATE,
    certificates.SERVER_KEY, certificates.SERVER_CERTIFICATE,
)  # fmt: skip
ADDRESS = re.compile(r"[A-Za-z0-9.-]{1,253}:[0-9]{1,5}|\[[0-9a-fA-F:]{2,45}\]:[0-9]{1,5}")


@dataclass(frozen=True)
class FederationFolder:
    """An opened folder. Times are arguments; randomness is the operating system's, but for the token's source."""

    path: Path
    consortium: str
    address: str

    @classmethod
    def init(
        cls,
        path: Path,
        *,
        consortium: str,
        address: str,
        officers: Sequence[Officer],
        threshold: int,
        now_s: float,
    ) -> Self:
        """Keys, CA, server certificate and the draft of roster 1. Without officers: one is made here, for a trial.

        Raises: TrustError `key-exists` if there is a federation in the folder.
        """
        if SITE_ID.fullmatch(consortium) is None or ADDRESS.fullmatch(address) is None:
            raise _damaged("the name or the address cannot be one", "a name of a-z, 0-9, -; an address as host:port")
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in ("rosters", "tokens"):
            (path / name).mkdir(exist_ok=True, mode=0o700)
        with whole_or_nothing() as new:
            for name in MADE:
                new(path / name)
            coordinator, log = SigningKey.create(path / "coordinator.key"), SigningKey.create(path / "log.key")
            certificates.make_ca(path, consortium, now_s=now_s)
            made = cls(path, consortium, address)
            certificates.make_server(path, made.hosts(), now_s=now_s)
            if not officers:
                officers, threshold = (Officer("officer", SigningKey.create(path / TRIAL_OFFICER).public),), 1
            first = Roster(
                consortium, 1, times.text(now_s), times.text(now_s + rosters.DAYS_MAX * times.DAY_S), None,
                tuple(officers), threshold, coordinator.public, log.public,
            )  # fmt: skip
            durable.write(path / FILE, [canonical.dump({"consortium": consortium, "address": address})])
            made._propose(first)
        return made

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises: TrustError `roster-absent`."""
        try:
            match canonical.load((path / FILE).read_bytes()):
                case {"consortium": str(consortium), "address": str(address)}:
                    return cls(path, consortium, address)
        except (OSError, FormatError):
            pass
        raise TrustError(
            "roster-absent", "there is no federation in this folder", hint="`wardround coordinator init DIR`, or --dir"
        )

    def hosts(self) -> list[str]:
        return [self.address.rpartition(":")[0].strip("[]")]

    def key(self, name: str) -> SigningKey:
        """`coordinator` or `log`."""
        return SigningKey.load(self.path / f"{name}.key")

    def rosters(self) -> tuple[SignedRoster, ...]:
        """Every version in force so far, oldest first, each checked against the one before. Raises: TrustError."""
        found: list[SignedRoster] = []
        for file in sorted((self.path / "rosters").glob("*.json")):
            read = rosters.load(file.read_bytes())
            if found:
                rosters.accept_next(found[-1], read)
            else:
                rosters.require_signed(read, read.roster.officers, read.roster.threshold)
            found.append(read)
        return tuple(found)

    def current(self) -> SignedRoster:
        """The version in force. Raises: TrustError `roster-absent` before the officers have signed the first."""
        found = self.rosters()
        if not found:
            raise TrustError(
                "roster-absent",
                "no roster is signed yet",
                hint="officers sign draft.json: `wardround coordinator sign`",
            )
        return found[-1]

    def draft(self) -> SignedRoster | None:
        """The next version, if one waits for signatures."""
        path = self.path / DRAFT
        return rosters.load(path.read_bytes()) if path.exists() else None

    def invite(self, site_id: str, *, token: bytes, now_s: float, hours: int = enrolment.TOKEN_HOURS) -> Invitation:
        """An invitation for this site; an earlier one that was not used no longer counts."""
        if SITE_ID.fullmatch(site_id) is None:
            raise _damaged("no site can have this name", "use a-z, 0-9 and -, such as north-1")
        found = self.draft() or self.current()
        roster = found.roster
        record = enrolment.token_record(token, site_id, now_s=now_s, hours=hours)
        durable.write(self._token(site_id), [canonical.dump(record.value())])
        ca = (self.path / certificates.CA_CERTIFICATE).read_text(encoding="ascii")
        return Invitation(
            self.consortium, site_id, self.address, ca, roster.officers, roster.threshold, token.hex(), record.expires
        )

    def admit(self, submission: Submission, *, heard: str, now_s: float) -> SignedRoster:
        """Put a submitted key on the next roster, after a person has heard its words from the hospital.

        Raises: TrustError `fingerprint-differs`, `token-…`, `signature`; the roster stays as it is.
        """
        if submission.endorsement:
            before = self.current().roster.member(submission.site_id)
            enrolment.check_rotation(submission, before, consortium=self.consortium)
            member = replace(submission.member(), retiring=before.identity)
        else:
            member = self._admitted(submission, now_s)
        fingerprint.require_same(heard, submission.words())
        draft = self._change(lambda roster: rosters.with_member(roster, member), now_s)
        if not submission.endorsement:
            record = replace(self._record(submission.site_id), used=True)
            durable.write(self._token(submission.site_id), [canonical.dump(record.value())])
        return draft

    def revoke(self, site_id: str, *, now_s: float) -> SignedRoster:
        """The next roster without this site. Raises: TrustError `roster-site`."""
        return self._change(lambda roster: rosters.without_member(roster, site_id), now_s)

    def renew(self, *, now_s: float) -> SignedRoster:
        """The same roster for another 90 days, and a new server certificate."""
        certificates.make_server(self.path, self.hosts(), now_s=now_s)
        return self._change(lambda roster: tuple(replace(one, retiring=None) for one in roster.sites), now_s)

    def publish(self, signed: SignedRoster | None = None) -> SignedRoster:
        """Put the draft in force once enough officers have signed it; `signed` is a copy that came back from one.

        Raises: TrustError `roster-signatures`, `roster-version`.
        """
        draft = self.draft()
        if draft is None:
            raise TrustError("roster-absent", "no draft waits for signatures", hint="nothing is to be done")
        if signed is not None:
            if signed.roster.digest() != draft.roster.digest():
                raise TrustError(
                    "roster-version", "another roster than the draft was signed", hint="have the present draft signed"
                )
            draft = SignedRoster(draft.roster, {**draft.signatures, **signed.signatures})
            durable.write(self.path / DRAFT, [rosters.dump(draft)])
        before = self.rosters()
        if before:
            rosters.accept_next(before[-1], draft)
        else:
            rosters.require_signed(draft, draft.roster.officers, draft.roster.threshold)
        durable.write(self.path / "rosters" / f"{draft.roster.version:06d}.json", [rosters.dump(draft)])
        (self.path / DRAFT).unlink()
        return draft

    def _change(self, sites: Callable[[Roster], Sequence[Member]], now_s: float) -> SignedRoster:
        """The next version with these sites. Several changes go into one draft, until an officer has signed it."""
        current, draft = self.current().roster, self.draft()
        if draft is not None and draft.signatures:
            raise TrustError(
                "roster-version",
                "officers are signing the next roster",
                hint="publish it first: `wardround coordinator publish`; or remove draft.json to start over",
            )
        base = current if draft is None else draft.roster
        return self._propose(rosters.successor(current, issued_s=now_s, sites=sites(base)))

    def _propose(self, roster: Roster) -> SignedRoster:
        draft = SignedRoster(roster)
        durable.write(self.path / DRAFT, [rosters.dump(draft)])
        if (self.path / TRIAL_OFFICER).exists():
            return self.publish(draft.signed_by(SigningKey.load(self.path / TRIAL_OFFICER)))
        return draft

    def _admitted(self, submission: Submission, now_s: float) -> Member:
        enrolment.check_submission(
            submission, self._record(submission.site_id), consortium=self.consortium, now_s=now_s
        )
        return submission.member()

    def _record(self, site_id: str) -> enrolment.TokenRecord:
        try:
            return enrolment.record_from(canonical.load(self._token(site_id).read_bytes()))
        except OSError:
            raise TrustError(
                "token-wrong", "this site was not invited", hint="`wardround coordinator invite SITE`"
            ) from None

    def _token(self, site_id: str) -> Path:
        return self.path / "tokens" / f"{site_id}.json"


def make_officer(path: Path, name: str) -> Officer:
    """An officer's key, on the officer's own machine, its public half beside it. Raises: TrustError `key-exists`."""
    if not name or len(name) > 100 or not name.isprintable():
        raise _damaged("an officer's name is one line of text", "such as --name 'Dr Anna Berg'")
    officer = Officer(name, SigningKey.create(path).public)
    public = canonical.dump({"name": officer.name, "key": officer.key.text})
    durable.write(path.with_name(path.name + ".pub"), [public])
    return officer


def read_officer(path: Path) -> Officer:
    """Raises: TrustError `key-absent`, `key-damaged`."""
    try:
        match canonical.load(path.read_bytes()):
            case {"name": str(name), "key": key, **rest} if not rest:
                return Officer(name, VerifyKey.from_text(key))
    except OSError:
        raise TrustError("key-absent", "an officer's public key cannot be read", hint="it is FILE.pub") from None
    except FormatError:
        pass
    raise TrustError("key-damaged", "an officer's public key is not readable", hint="it is FILE.pub, copied whole")


def sign_draft(path: Path, key: SigningKey) -> SignedRoster:
    """Add an officer's signature to a draft, in its file. Raises: TrustError `roster-officer` for another key."""
    draft = read_roster(path)
    if key.public not in [officer.key for officer in draft.roster.officers]:
        raise TrustError(
            "roster-officer", "this key is no officer's of this roster", hint="sign with the key that the roster names"
        )
    signed = draft.signed_by(key)
    durable.write(path, [rosters.dump(signed)])
    return signed


def read_roster(path: Path) -> SignedRoster:
    try:
        return rosters.load(path.read_bytes())
    except OSError:
        raise TrustError("roster-absent", f"{path.name} cannot be read", hint="check the path") from None


def told(roster: Roster, *, line: Callable[[str], None]) -> None:
    """What an officer reads before signing, and anybody else: who is in it, and until when."""
    line(f"roster {roster.version} of {roster.consortium}, {roster.issued} to {roster.expires}")
    line(f"words of the federation: {roster.officers_words()}")
    line(f"officers ({roster.threshold} of {len(roster.officers)} sign): {', '.join(o.name for o in roster.officers)}")
    for member in roster.sites:
        line(f"{member.site_id}: {member.status}, {member.organisation}, {member.contact}")
        line(f"  {enrolment.key_words(member.identity)}")


def _damaged(reason: str, hint: str) -> TrustError:
    return TrustError("enrolment-damaged", reason, hint=hint)
