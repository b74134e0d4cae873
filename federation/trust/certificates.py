"""TLS for one listener: a private CA that sites pin, and a server certificate that lives for a month.

TLS hides what is said and keeps strangers out; nothing else rests on it. Losing it (an inspecting proxy) must not lose
integrity: that is what the seals are for. ECDSA on P-256, because TLS stacks of hospital proxies know it. RFC 5280.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation import durable
from federation.errors import TrustError
from federation.trust.keys import read_secret, write_secret

CA_DAYS = 5 * 365
SERVER_DAYS = 30
WARN_DAYS = (14, 3)

CA_KEY, CA_CERTIFICATE = "ca.key", "ca.crt"
SERVER_KEY, SERVER_CERTIFICATE = "server.key", "server.crt"


@dataclass(frozen=True)
class Validity:
    """From when to when a certificate is good, in seconds since 1970."""

    since_s: float
    until_s: float

    def days_left(self, now_s: float) -> float:
        return (self.until_s - now_s) / 86400

    def warning(self, now_s: float) -> str | None:
        """What to tell a person: nothing, that it ends soon, or that it ends in days."""
        left = self.days_left(now_s)
        passed = [days for days in WARN_DAYS if left < days]
        return f"the certificate ends in {max(0, int(left))} days" if passed else None


def make_ca(folder: Path, name: str, *, now_s: float) -> None:
    """A new CA in this folder. Raises: TrustError `key-exists`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} CA")])
    certificate = (
        _builder(subject, subject, key.public_key(), now_s, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_secret(folder / CA_KEY, _pem(key))
    durable.write(folder / CA_CERTIFICATE, [certificate.public_bytes(serialization.Encoding.PEM)])


def make_server(folder: Path, hosts: Sequence[str], *, now_s: float) -> None:
    """A server certificate for these hosts with a new key, in place of the one before. Loopback is always a host.

    Raises: TrustError `key-absent`, `certificate-absent`, `certificate-expired` (of the CA).
    """
    ca = read(folder / CA_CERTIFICATE)
    require_valid(ca, "CA", now_s)
    ca_key = serialization.load_pem_private_key(read_secret(folder / CA_KEY), password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise _damaged("the CA's key")
    key = ec.generate_private_key(ec.SECP256R1())
    named = list(dict.fromkeys([*hosts, "localhost", "127.0.0.1"]))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, named[0][:64])])
    certificate = (
        _builder(subject, ca.subject, key.public_key(), now_s, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative(host) for host in named]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )
    (folder / SERVER_KEY).unlink(
        missing_ok=True
    )  # a server key is no identity: it is as short-lived as its certificate
    write_secret(folder / SERVER_KEY, _pem(key))
    durable.write(folder / SERVER_CERTIFICATE, [certificate.public_bytes(serialization.Encoding.PEM)])


def renew_if_due(folder: Path, hosts: Sequence[str], *, now_s: float) -> bool:
    """Make a new server certificate when the old one has fewer than 14 days left, or is gone. True if it was made."""
    try:
        due = validity(read(folder / SERVER_CERTIFICATE)).days_left(now_s) < WARN_DAYS[0]
    except TrustError:
        due = True
    if due:
        make_server(folder, hosts, now_s=now_s)
    return due


def read(path: Path) -> x509.Certificate:
    """Raises: TrustError `certificate-absent`, `certificate-damaged`."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError:
        raise TrustError(
            "certificate-absent", f"{path.name} cannot be read", hint="`wardround coordinator renew` makes a new one"
        ) from None
    except ValueError:
        raise _damaged(path.name) from None


def validity(certificate: x509.Certificate) -> Validity:
    return Validity(certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())


def require_valid(certificate: x509.Certificate, what: str, now_s: float) -> None:
    """Raises: TrustError `certificate-expired`, or `clock` if it is not valid yet."""
    found = validity(certificate)
    if now_s > found.until_s:
        raise TrustError(
            "certificate-expired",
            f"the {what} certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}",
            hint="`wardround coordinator renew` on the coordinator; check this machine's clock as well",
        )
    if now_s < found.since_s:
        raise TrustError("clock", f"the {what} certificate is not valid yet", hint="correct this machine's clock (NTP)")


def require_issued(certificate: x509.Certificate, ca: x509.Certificate) -> None:
    """Raises: TrustError `certificate-damaged` unless this CA issued it."""
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        raise TrustError(
            "certificate-damaged",
            "the server's certificate is not from the CA of the invitation",
            hint="a proxy that opens TLS is in between: ask for an exception, or configure its CA",
        ) from None


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now_s: float, days: int
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(now_s, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks differ
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _damaged(what: str) -> TrustError:
    return TrustError("certificate-damaged", f"{what} is not readable", hint="take it from a copy, or make a new one")
