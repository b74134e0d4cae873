"""The signed bodies of a masked round: written in one form, opened with one check. docs/spec/secagg-1.md, section 3."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from federation import canonical
from federation.canonical import Value
from federation.errors import FormatError, ProtocolError
from federation.messages import SITE_ID
from federation.messages import MaskedStage as Stage
from federation.plan import colluding
from federation.trust.keys import SigningKey, prefix

DOMAIN = prefix("secagg")
PROTOCOL = "wardround-secagg/1"
HEX = re.compile(r"[0-9a-f]*")  # of an even length

STAGES: tuple[Stage, ...] = ("ready", "shares", "masked", "agree", "unmask")
# The own fields of each body: text of so many hexadecimal characters, a list of sites, or text by site.
FIELDS: Mapping[Stage, Mapping[str, int | str]] = {
    "ready": {"mask_pk": 64, "share_pk": 64, "b_commit": 64, "inputs": 64},
    "shares": {"roster": 64, "boxes": "by site"},
    "masked": {"roster": 64, "peers": "sites", "vector": 64, "unopened": "sites"},
    "agree": {"roster": 64, "survivors": "sites", "vectors": 64},
    "unmask": {"roster": 64, "survivors": "sites", "seeds": "by site", "keys": "by site"},
}


@dataclass(frozen=True)
class RoundId:
    """What every body is bound to."""

    run_id: str
    round_number: int
    plan_digest: str


@dataclass(frozen=True)
class Identity:
    """A site's signing key, and the public keys of all sites as this site has pinned them."""

    site_id: str
    signing_key: SigningKey = field(repr=False)
    roster: Mapping[str, bytes]  # site id -> raw Ed25519 public key


@dataclass(frozen=True)
class Body:
    """One opened body: signed by `site_id`, of this round, with exactly its kind's fields."""

    site_id: str
    value: Mapping[str, Value]  # the whole body, which is what was signed
    signed: Mapping[str, Value]  # with its signature, as it travels

    def text(self, name: str) -> str:
        return cast(str, self.value[name])

    def sites(self, name: str) -> tuple[str, ...]:
        return tuple(cast(Sequence[str], self.value[name]))

    def texts(self, name: str) -> Mapping[str, str]:
        return cast(Mapping[str, str], self.value[name])

    def by_site(self, name: str) -> dict[str, bytes]:
        return {site: bytes.fromhex(text) for site, text in self.texts(name).items()}


def sign(kind: Stage, round_id: RoundId, identity: Identity, own: Mapping[str, Value]) -> Body:
    value: dict[str, Value] = {
        "kind": kind,
        "run": round_id.run_id,
        "round": round_id.round_number,
        "site": identity.site_id,
        "plan": round_id.plan_digest,
        **own,
    }
    signature = identity.signing_key.sign("secagg", canonical.dump(value))
    return Body(identity.site_id, value, {"body": value, "signature": signature.hex()})


def open_body(kind: Stage, round_id: RoundId, roster: Mapping[str, bytes], signed: Value) -> Body:
    """The body, if a site of the roster signed it for this round; form first, then signature, context and fields.

    Raises: FormatError `secagg-not-canonical`; ProtocolError `secagg-unknown-site`, `secagg-bad-signature`,
    `secagg-wrong-context`.
    """
    match signed:
        case {"body": dict(body), "signature": str(signature), **more} if (
            not more and len(signature) == 128 and HEX.fullmatch(signature)
        ):
            site = body.get("site")
        case _:
            raise not_canonical()
    if not isinstance(site, str):
        raise not_canonical()
    if site not in roster:
        raise ProtocolError("secagg-unknown-site", "a message of a site that is not in the roster", hint="keep it")
    text = canonical.dump(cast(Value, body))
    try:
        _public(roster[site]).verify(bytes.fromhex(signature), DOMAIN + text)
    except (InvalidSignature, ValueError):
        raise ProtocolError(
            "secagg-bad-signature", f"{site} did not sign this message", hint="somebody altered it, or the key is old"
        ) from None
    context = (body.get("kind"), body.get("run"), body.get("round"), body.get("plan"))
    if context != (kind, round_id.run_id, round_id.round_number, round_id.plan_digest):
        raise ProtocolError("secagg-wrong-context", f"a message of {site} belongs elsewhere", hint="it was replayed")
    _check_fields(kind, body, roster)
    return Body(site, body, {"body": body, "signature": signature})


def roster_hash(ready: Sequence[Body]) -> str:
    """R: the digest of the `ready` bodies in the order of site ids; what the round's keys and messages are bound to."""
    return canonical.digest([body.value for body in sorted(ready, key=lambda body: body.site_id)])


def vectors_digest(masked: Sequence[Body]) -> str:
    """What all survivors agree on: who is in the sum, with which masked vector."""
    return canonical.digest([[body.site_id, body.text("vector")] for body in sorted(masked, key=lambda b: b.site_id)])


def inputs_digest(
    *, base_digest: str, adapter_digest: str, encoding: Value, shapes: Mapping[str, tuple[int, ...]],
    roster: Mapping[str, bytes],
) -> str:  # fmt: skip
    """Everything that must be the same at all sites, or a coordinator could single one out."""
    return canonical.digest(
        {
            "protocol": PROTOCOL,
            "base": base_digest,
            "adapter": adapter_digest,
            "encoding": encoding,
            "shapes": {name: list(shape) for name, shape in shapes.items()},
            "roster": {site: key.hex() for site, key in roster.items()},
        }
    )


def threshold(sites: int) -> int:
    """t = ⌊(n + c)/2⌋ + 1 with c = ⌊n/4⌋: computed by everybody, told by nobody."""
    return (sites + colluding(sites)) // 2 + 1


def not_canonical() -> FormatError:
    return FormatError(
        "secagg-not-canonical", "a signed message is not in its agreed form", hint="compare the versions"
    )


@lru_cache(maxsize=256)
def _public(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)


def _check_fields(kind: Stage, body: Mapping[str, Value], roster: Mapping[str, bytes]) -> None:
    own = FIELDS[kind]
    if set(body) != {"kind", "run", "round", "site", "plan", *own}:
        raise not_canonical()
    for name, form in own.items():
        value = body[name]
        if isinstance(form, int):
            good = _is_hex(value) and len(cast(str, value)) == form
        elif form == "sites":
            good = (
                isinstance(value, (list, tuple))
                and all(_is_site(site, roster) for site in value)
                and sorted(set(value)) == list(value)
            )
        else:
            good = (
                isinstance(value, (dict, Mapping))
                and all(_is_site(site, roster) for site in value)
                and all(map(_is_hex, value.values()))
            )
        if not good:
            raise not_canonical()


def _is_site(value: Value, roster: Mapping[str, bytes]) -> bool:
    return isinstance(value, str) and (value in roster or SITE_ID.fullmatch(value) is not None)


def _is_hex(value: Value) -> bool:
    return isinstance(value, str) and len(value) % 2 == 0 and HEX.fullmatch(value) is not None
