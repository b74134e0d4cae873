"""A site's folder: its settings, its keys, its secrets. Made by `wardround site init`, read by everything a site runs.

site.toml                what the hospital allows; people edit this
rules.toml               its own rules of de-identification, if site.toml names them
keys/identity.key        Ed25519, signs answers; made here, 0600, never sent
keys/log.key             Ed25519, signs the heads of the door's log
keys/transport.key       P-384 in OpenSSH form, for Flower's node authentication only; .pub beside it
secret                   of the pseudonyms; 0600, in the backup, never sent; without it the same people become others
store/ state/ log/       clean examples; releases, ledger and answers; the log of the door
spool/                   raw data on its way; empty when nothing is under way
federation/              what was accepted: federation.json (officers, address), ca.crt, roster.json
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.settings import Settings, load_settings
from client.signed_site import Answering, RosterFile, SignedSite
from federation import canonical, durable
from federation.canonical import Value
from federation.errors import FormatError, SettingsError, TrustError
from federation.messages import SITE_ID
from federation.privacy.keystream import KeySource
from federation.secagg.bodies import Identity
from federation.trust import enrolment, fingerprint
from federation.trust import roster as rosters
from federation.trust.enrolment import Invitation, Submission
from federation.trust.keys import SigningKey, VerifyKey, whole_or_nothing, write_secret
from federation.trust.roster import Officer, SignedRoster
from federation.trust.translog import TransLog

SETTINGS, SECRET = "site.toml", "secret"
IDENTITY, NEXT_IDENTITY = "keys/identity.key", "keys/identity.next.key"
TRANSPORT, LOG_KEY = "keys/transport.key", "keys/log.key"
ACCEPTED, CA, ROSTER = "federation/federation.json", "federation/ca.crt", "federation/roster.json"
FOLDERS = ("keys", "store", "state", "log", "federation")

TEMPLATE = """\
# What this hospital allows. Nothing that arrives over the network changes this file.

[site]
id = "{site_id}"                   # the name on the roster
coordinator = "{coordinator}"      # whose spending is added up together in the ledger

[data]
store = "store"                    # clean examples, from this folder
secret = "secret"                  # of the pseudonyms: keep a copy in a safe, apart from the store
declared_patients = {declared:<10}     # public and round, near the store's patients; delta and weights follow from it
# rules = "rules.toml"             # your own rules of de-identification, docs/site_operator.md; without: the shipped
# staff = "staff.txt"              # names that go from every report, one a line
# places = "places.txt"            # hospitals, wards, towns, streets, likewise
# patients = "patients.csv"        # old_id,current_id: records that were joined

[policy]
epsilon_max = 3.0                  # over everything that this site ever answers; spent privacy does not come back
noise_multiplier_min = 0.5         # less noise than this is refused, whatever a plan says
# delta_max = 0.01                 # and never above 1/(10 x declared_patients)
# models = ["…64 hex digits…"]     # allowed bases; without, only the one that this site has loaded itself
quorum_min = 3                     # fewest hospitals in a mean
# honest_sites_max = 4             # hospitals that may be counted on for a part of the noise; without: none
# secure_required = true           # only masked rounds: nobody sees this site's update by itself
approve = "each-plan"              # a person here approves every plan; or "matching": the rules above are enough

[device]
name = "cpu"                       # or cuda, cuda:0

# [model]                          # the base that the plan names; copied here, nothing is downloaded
# path = "base"                    # a folder, from this one
# sha256 = "…64 hex digits…"

# [carrier]
# proxy = "http://proxy:3128"      # only if the coordinator is reached through one
# metrics_port = 9464              # for Prometheus, on loopback
"""


@dataclass(frozen=True)
class SiteFolder:
    path: Path

    @classmethod
    def init(cls, path: Path, *, site_id: str, declared_patients: int, coordinator: str, keys: KeySource) -> Self:
        """Make it. Raises: TrustError `key-exists` if there is a site here: nothing of it is touched."""
        if SITE_ID.fullmatch(site_id) is None or SITE_ID.fullmatch(coordinator) is None or declared_patients < 1:
            raise SettingsError(
                "settings-value", "a name or the number of patients cannot be one", hint="names have a-z, 0-9 and -"
            )
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in FOLDERS:
            (path / name).mkdir(exist_ok=True, mode=0o700)
        text = TEMPLATE.format(site_id=site_id, coordinator=coordinator, declared=declared_patients)
        with whole_or_nothing() as made:
            SigningKey.create(made(path / IDENTITY))  # first: it refuses a folder that is in use
            SigningKey.create(made(path / LOG_KEY))
            make_transport(made(path / TRANSPORT))
            write_secret(made(path / SECRET), keys.key("site secret"))
            durable.write(made(path / SETTINGS), [text.encode("utf-8")])
            (path / SETTINGS).chmod(0o600)
        return cls(path)

    def settings(self) -> Settings:
        """Raises: SettingsError."""
        return load_settings(self.path / SETTINGS)

    def words(self) -> str:
        """The fingerprint of this site's key, to be read to an officer."""
        return enrolment.key_words(SigningKey.load(self.path / IDENTITY).public)

    def transport(self) -> str:
        try:
            return (self.path / f"{TRANSPORT}.pub").read_text(encoding="ascii").strip()
        except OSError:
            raise TrustError("key-absent", "the transport key is not here", hint="make the folder again") from None

    def enrol(
        self, invitation: Invitation, *, organisation: str, contact: str, heard: str | None, now_s: float
    ) -> Submission:
        """Remember whom the invitation names, and answer it. `heard` are the federation's words, from an officer.

        Raises: TrustError `fingerprint-differs`, `token-expired`; SettingsError if it is for another site.
        """
        if invitation.site_id != self.settings().site.id:
            raise SettingsError(
                "settings-value", "the invitation is for another site than site.toml names", hint="correct site.id"
            )
        if heard is not None:
            fingerprint.require_same(heard, invitation.words())
        key = SigningKey.load(self.path / IDENTITY)
        submission = enrolment.submit(
            invitation, key, organisation=organisation, contact=contact, transport=self.transport(), now_s=now_s
        )
        officers: list[Value] = [{"name": one.name, "key": one.key.text} for one in invitation.officers]
        accepted: dict[str, Value] = {
            "consortium": invitation.consortium,
            "address": invitation.address,
            "officers": officers,
            "threshold": invitation.threshold,
            "compared": heard is not None,
        }
        durable.write(self.path / CA, [invitation.ca.encode("ascii")])
        durable.write(self.path / ACCEPTED, [canonical.dump(accepted)])
        return submission

    def address(self) -> str:
        """host:port of the coordinator."""
        return self._accepted()[0]

    def accept_roster(
        self, signed: SignedRoster, *, heard: str | None, now_s: float, earlier: Sequence[SignedRoster] = ()
    ) -> RosterFile:
        """The first roster, or the next one, with `earlier` ones that this site may have missed.

        The first needs the federation's words, if they were not compared before. Raises: TrustError.
        """
        signed.roster.require_current(now_s)
        path = self.path / ROSTER
        if path.exists():
            file = RosterFile.open(path)
            file.advance([*earlier, signed])
            return file
        _, consortium, officers, threshold, compared = self._accepted()
        if heard is not None:
            fingerprint.require_same(heard, rosters.officers_words(consortium, officers, threshold))
        elif not compared:
            raise TrustError(
                "fingerprint-differs",
                "nobody has compared the words of the federation yet",
                hint="telephone an officer, then give the words: --words '…'",
            )
        first = rosters.accept_first(signed, consortium, officers, threshold)
        return RosterFile.create(path, first)

    def roster(self) -> RosterFile:
        return RosterFile.open(self.path / ROSTER)

    def identity(self, site_id: str) -> Identity:
        """What this site signs masked sums with now: its key, and the keys of the roster on disk."""
        return Identity(site_id, self.signing_key(), self.roster().current.roster.identities())

    def signing_key(self) -> SigningKey:
        """The key that the accepted roster names for this site. After a rotation the new one takes the old one's place.

        Raises: TrustError `roster-key`, `roster-site`.
        """
        member = self.roster().current.roster.member(self.settings().site.id)
        for name in (NEXT_IDENTITY, IDENTITY):
            if (self.path / name).exists():
                key = SigningKey.load(self.path / name)
                if key.public == member.identity:
                    if name == NEXT_IDENTITY:
                        (self.path / NEXT_IDENTITY).replace(self.path / IDENTITY)
                        durable.sync_folder(self.path / "keys")
                    return key
        raise TrustError(
            "roster-key", "the roster has another key for this site", hint="enrol again with the key of this folder"
        )

    def door(self, site: Answering, *, clock: Callable[[], float]) -> SignedSite:
        """The site behind its door, with this folder's key, roster and log. Close `door.log` at the end."""
        roster, key, log_key = self.roster(), self.signing_key(), SigningKey.load(self.path / LOG_KEY)
        log = TransLog.open(self.path / "log", f"{roster.current.roster.consortium}/{site.site_id}", log_key)
        return SignedSite(site, key, roster, log, clock=clock, new_key=self.signing_key)

    def rotate(self) -> Submission:
        """A new identity key, endorsed by the present one. It counts when a roster names it. Raises: TrustError."""
        old, roster = self.signing_key(), self.roster().current.roster
        path = self.path / NEXT_IDENTITY
        new = SigningKey.load(path) if path.exists() else SigningKey.create(path)
        member = roster.member(self.settings().site.id)
        return enrolment.rotate(member, roster.consortium, old, new, member.transport)

    def _accepted(self) -> tuple[str, str, tuple[Officer, ...], int, bool]:
        try:
            match canonical.load((self.path / ACCEPTED).read_bytes()):
                case {
                    "consortium": str(consortium), "address": str(address), "officers": list(officers),
                    "threshold": int(threshold), "compared": bool(compared),
                }:  # fmt: skip
                    known = tuple(_officer(one) for one in officers)
                    return address, consortium, known, threshold, compared
        except (OSError, FormatError):
            pass
        raise TrustError(
            "roster-absent", "this site has not accepted an invitation", hint="`wardround site enrol INVITE`"
        )


def make_transport(path: Path) -> None:
    """Key and `.pub` of a node. Flower 1.41 takes elliptic curves in OpenSSH form here, and refuses Ed25519."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    write_secret(path, private)
    durable.write(path.with_name(path.name + ".pub"), [public + b"\n"])


def _officer(value: Value) -> Officer:
    match value:
        case {"name": str(name), "key": key}:
            return Officer(name, VerifyKey.from_text(key))
    raise FormatError("not-canonical", "an officer is not readable", hint="enrol again")
