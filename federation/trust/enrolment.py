"""How a site joins: an invitation goes out, a public key comes back, and people compare words before it counts.

The token in an invitation permits one thing, to submit one key for one site, once and for a day. It never permits more:
a stolen token can enrol nobody, because an officer still has to hear the words from the hospital. Spec: trust-1, §4.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass, replace

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from federation import canonical
from federation.canonical import Value
from federation.errors import FedError, FormatError, TrustError
from federation.messages import DIGEST, SITE_ID
from federation.trust import times
from federation.trust.fingerprint import fingerprint
from federation.trust.keys import SigningKey, VerifyKey
from federation.trust.roster import TEXT_MAX, Member, Officer, officers_words

INVITATION, SUBMISSION = "wardround-invitation/1", "wardround-submission/1"
TOKEN_BYTES = 32
TOKEN_HOURS = 24
PREFIX = "wardround-invitation-1:"


@dataclass(frozen=True)
class Invitation:
    """What a site needs to begin: where, whom to trust once the words are compared, and the token."""

    consortium: str
    site_id: str
    address: str  # host:port of the coordinator's fleet listener
    ca: str  # PEM: the only root that the site will accept for that address
    officers: tuple[Officer, ...]
    threshold: int
    token: str
    expires: str

    def words(self) -> str:
        return officers_words(self.consortium, self.officers, self.threshold)

    def __repr__(self) -> str:
        return f"<Invitation of {self.site_id}: token hidden>"


@dataclass(frozen=True)
class Submission:
    """What a site sends back: its public keys, who it is, and two proofs: of the token, and of the private key."""

    consortium: str
    site_id: str
    organisation: str
    contact: str
    identity: VerifyKey
    transport: str
    token_proof: str = ""  # HMAC-SHA256 under the token's hash, or empty for the rotation of a known site
    signature: str = ""  # by `identity`
    endorsement: str = ""  # rotation only: by the key before this one

    def words(self) -> str:
        """The fingerprint of the site's key. An officer hears it from the hospital, over a number known before."""
        return key_words(self.identity)

    def member(self) -> Member:
        return Member(self.site_id, self.organisation, self.contact, self.identity, self.transport)

    def said(self) -> bytes:
        """What the proofs are about."""
        fields: dict[str, Value] = {
            "format": SUBMISSION,
            "consortium": self.consortium,
            "site_id": self.site_id,
            "organisation": self.organisation,
            "contact": self.contact,
            "identity": self.identity.text,
            "transport": self.transport,
        }
        return canonical.dump(fields)


@dataclass(frozen=True)
class TokenRecord:
    """What the coordinator keeps of a token: never the token, only what can check it."""

    site_id: str
    check: str  # SHA-256 of the token under its own prefix
    expires: str
    used: bool = False

    def value(self) -> dict[str, Value]:
        return {"site_id": self.site_id, "check": self.check, "expires": self.expires, "used": self.used}


def token_record(token: bytes, site_id: str, *, now_s: float, hours: int = TOKEN_HOURS) -> TokenRecord:
    return TokenRecord(site_id, token_check(token).hex(), times.text(now_s + hours * 3600))


def token_check(token: bytes) -> bytes:
    return hashlib.sha256(b"wardround/token/1\0" + token).digest()


def record_from(value: Value) -> TokenRecord:
    match value:
        case {"site_id": str(site_id), "check": str(check), "expires": str(expires), "used": bool(used), **rest}:
            if not rest and DIGEST.fullmatch(check):
                return TokenRecord(site_id, check, expires, used)
    raise _enrolment_damaged("the record of a token is damaged")


def key_words(key: VerifyKey) -> str:
    return fingerprint("key", key.raw)


def dump_invitation(invitation: Invitation) -> str:
    """One line that fits into a mail: a prefix and base64url."""
    value: dict[str, Value] = {
        "format": INVITATION,
        "consortium": invitation.consortium,
        "site_id": invitation.site_id,
        "address": invitation.address,
        "ca": invitation.ca,
        "officers": [{"name": officer.name, "key": officer.key.text} for officer in invitation.officers],
        "threshold": invitation.threshold,
        "token": invitation.token,
        "expires": invitation.expires,
    }
    text = canonical.dump(value)
    check = hashlib.sha256(text).digest()[:4]  # a mail programme may break the line
    return PREFIX + base64.urlsafe_b64encode(check + text).decode("ascii").rstrip("=")


def load_invitation(line: str) -> Invitation:
    """The opposite of `dump_invitation`; blanks and line ends that a mail put in do not matter.

    Raises: TrustError `invitation-damaged`.
    """
    packed = "".join(line.split())
    try:
        if not packed.startswith(PREFIX):
            raise ValueError
        body = packed.removeprefix(PREFIX)
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        if hashlib.sha256(data[4:]).digest()[:4] != data[:4]:
            raise ValueError
        match canonical.load(data[4:]):
            case {
                "format": version, "consortium": str(consortium), "site_id": str(site_id), "address": str(address),
                "ca": str(ca), "officers": list(officers), "threshold": int(threshold), "token": str(token),
                "expires": str(expires), **rest,
            } if (
                version == INVITATION and not rest and SITE_ID.fullmatch(site_id) and SITE_ID.fullmatch(consortium)
                and DIGEST.fullmatch(token) and type(threshold) is int
            ):  # fmt: skip
                times.seconds(expires)
                known = tuple(_officer(one) for one in officers)
                return Invitation(consortium, site_id, address, ca, known, threshold, token, expires)
    except (ValueError, FedError):
        pass
    raise TrustError(
        "invitation-damaged", "the invitation is not whole", hint="copy it again, from its first letter to its last"
    )


def submit(
    invitation: Invitation, key: SigningKey, *, organisation: str, contact: str, transport: str, now_s: float
) -> Submission:
    """The site's answer to an invitation. Raises: TrustError `token-expired`."""
    if now_s > times.seconds(invitation.expires):
        raise _expired()
    plain = Submission(invitation.consortium, invitation.site_id, organisation, contact, key.public, transport)
    proof = hmac.digest(token_check(bytes.fromhex(invitation.token)), plain.said(), hashlib.sha256)
    return replace(plain, token_proof=proof.hex(), signature=key.sign("enrolment", plain.said()).hex())


def rotate(member: Member, consortium: str, old: SigningKey, new: SigningKey, transport: str) -> Submission:
    """A new key for a known site, endorsed by its present one."""
    plain = Submission(consortium, member.site_id, member.organisation, member.contact, new.public, transport)
    return replace(
        plain,
        signature=new.sign("enrolment", plain.said()).hex(),
        endorsement=old.sign("enrolment", plain.said()).hex(),
    )


def check_submission(submission: Submission, record: TokenRecord, *, consortium: str, now_s: float) -> None:
    """Everything that a machine can check. What is left is for people: the words.

    Raises: TrustError `token-wrong`, `token-used`, `token-expired`, `signature`.
    """
    proof = hmac.digest(bytes.fromhex(record.check), submission.said(), hashlib.sha256)
    if (
        not hmac.compare_digest(proof.hex(), submission.token_proof)
        or submission.site_id != record.site_id
        or submission.consortium != consortium
    ):
        raise TrustError(
            "token-wrong",
            "the key was not submitted with the token of this invitation",
            hint="invite the site again; tokens of other sites, and of earlier invitations, do not count",
        )
    if record.used:
        raise TrustError(
            "token-used", "a key was already submitted with this token", hint="find out who did, then invite again"
        )
    if now_s > times.seconds(record.expires):
        raise _expired()
    submission.identity.verify("enrolment", submission.said(), _hex(submission.signature))


def check_rotation(submission: Submission, member: Member, *, consortium: str) -> None:
    """Raises: TrustError `signature`, `enrolment-damaged`."""
    if submission.site_id != member.site_id or submission.consortium != consortium:
        raise _enrolment_damaged("a rotation of another site's key")
    submission.identity.verify("enrolment", submission.said(), _hex(submission.signature))
    member.identity.verify("enrolment", submission.said(), _hex(submission.endorsement))


def dump_submission(submission: Submission) -> bytes:
    proofs = {"endorsement": submission.endorsement, "signature": submission.signature}
    said = canonical.load(submission.said())
    return canonical.dump({"said": said, "token_proof": submission.token_proof, **proofs})


def load_submission(data: bytes) -> Submission:
    """Raises: TrustError `enrolment-damaged`."""
    try:
        match canonical.load(data.strip()):
            case {
                "said": {
                    "format": version, "consortium": str(consortium), "site_id": str(site_id),
                    "organisation": str(organisation), "contact": str(contact), "identity": identity,
                    "transport": str(transport), **more,
                },
                "token_proof": str(proof), "signature": str(signature), "endorsement": str(endorsement), **rest,
            } if version == SUBMISSION and not rest and not more and SITE_ID.fullmatch(site_id):  # fmt: skip
                for text in (organisation, contact, transport):
                    if len(text) > TEXT_MAX or not text.isprintable():
                        raise _enrolment_damaged("a name or contact is too long, or not printable")
                require_transport(transport)
                return Submission(
                    consortium, site_id, organisation, contact, VerifyKey.from_text(identity), transport,
                    proof, signature, endorsement,
                )  # fmt: skip
    except FormatError:
        pass
    raise _enrolment_damaged("a submission is not in its one form")


def require_transport(text: str) -> None:
    """Flower's node authentication takes elliptic curves in OpenSSH form, and refuses Ed25519."""
    try:
        if isinstance(load_ssh_public_key(text.encode("ascii")), ec.EllipticCurvePublicKey):
            return
    except (ValueError, UnsupportedAlgorithm):
        pass
    raise _enrolment_damaged("the transport key is not an elliptic-curve key in OpenSSH form")


def _officer(value: Value) -> Officer:
    match value:
        case {"name": str(name), "key": key, **rest} if not rest:
            return Officer(name, VerifyKey.from_text(key))
    raise ValueError


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _expired() -> TrustError:
    return TrustError(
        "token-expired", "the invitation has expired", hint="ask for a new one; check the clocks of both machines"
    )


def _enrolment_damaged(reason: str) -> TrustError:
    return TrustError("enrolment-damaged", reason, hint="make the submission again with `wardround site enrol`")
