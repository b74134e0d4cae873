"""TLS: the pinned CA and nothing else, 1.3, by name, and never past its end."""

import ssl
import time

import pytest

from federation.errors import TrustError
from federation.trust import certificates

NOW = 1767225600.0
DAY = 86400


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Made now: a real handshake looks at the real clock."""
    folder = tmp_path_factory.mktemp("tls")
    certificates.make_ca(folder, "lung", now_s=time.time())
    certificates.make_server(folder, ["fed.example"], now_s=time.time())
    return folder


def code(call, *arguments, **named) -> str:
    with pytest.raises(TrustError) as caught:
        call(*arguments, **named)
    assert caught.value.hint
    return caught.value.code


def handshake(server_folder, ca_file, *, host="fed.example", newest=ssl.TLSVersion.TLSv1_3) -> str | None:
    """The version that both agree on, over memory instead of a network."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    server.load_cert_chain(server_folder / "server.crt", server_folder / "server.key")
    client = ssl.create_default_context(cafile=str(ca_file))
    client.maximum_version = newest
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(6):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return sides[0].version()


@pytest.mark.parametrize("host", ["fed.example", "localhost", "127.0.0.1"])
def test_the_pinned_ca_opens_the_door(made, host):
    assert handshake(made, made / "ca.crt", host=host) == "TLSv1.3"


def test_another_ca_another_host_and_an_older_version_are_refused(made, tmp_path):
    certificates.make_ca(tmp_path, "lung", now_s=time.time())
    for options in ({"ca_file": tmp_path / "ca.crt"}, {"host": "other.example"}):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(made, **{"ca_file": made / "ca.crt", **options})
    with pytest.raises(ssl.SSLError):
        handshake(made, made / "ca.crt", newest=ssl.TLSVersion.TLSv1_2)


def test_a_certificate_of_another_ca_is_named(made, tmp_path):
    certificates.make_ca(tmp_path, "lung", now_s=NOW)
    server, ca, other = (
        certificates.read(path) for path in (made / "server.crt", made / "ca.crt", tmp_path / "ca.crt")
    )
    certificates.require_issued(server, ca)

    assert code(certificates.require_issued, server, other) == "certificate-damaged"


def test_a_server_certificate_ends_after_thirty_days_and_says_so(tmp_path):
    certificates.make_ca(tmp_path, "lung", now_s=NOW)
    certificates.make_server(tmp_path, ["fed.example"], now_s=NOW)
    server = certificates.read(tmp_path / "server.crt")
    certificates.require_valid(server, "server", NOW + 30 * DAY)

    assert code(certificates.require_valid, server, "server", NOW + 30 * DAY + 1) == "certificate-expired"
    assert code(certificates.require_valid, server, "server", NOW - 2 * 3600) == "clock"


@pytest.mark.parametrize(("days", "left"), [(15, None), (17, 13), (28, 2), (31, 0)])
def test_people_are_warned_in_time(tmp_path, days, left):
    certificates.make_ca(tmp_path, "lung", now_s=NOW)
    certificates.make_server(tmp_path, [], now_s=NOW)
    told = certificates.validity(certificates.read(tmp_path / "server.crt")).warning(NOW + days * DAY)

    assert told == (None if left is None else f"the certificate ends in {left} days")


def test_a_certificate_is_renewed_when_it_is_due_and_not_before(tmp_path):
    certificates.make_ca(tmp_path, "lung", now_s=NOW)

    assert certificates.renew_if_due(tmp_path, [], now_s=NOW)  # there was none
    assert not certificates.renew_if_due(tmp_path, [], now_s=NOW + 15 * DAY)
    assert certificates.renew_if_due(tmp_path, [], now_s=NOW + 17 * DAY)
    assert certificates.validity(certificates.read(tmp_path / "server.crt")).days_left(NOW) > 46


def test_an_ended_ca_signs_nothing(tmp_path):
    certificates.make_ca(tmp_path, "lung", now_s=NOW)

    assert code(certificates.make_server, tmp_path, [], now_s=NOW + 6 * 365 * DAY) == "certificate-expired"


def test_keys_are_secret_and_a_ca_is_never_overwritten(tmp_path):
    certificates.make_ca(tmp_path, "lung", now_s=NOW)
    certificates.make_server(tmp_path, [], now_s=NOW)

    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("ca.key", "server.key")} == {0o600}
    assert code(certificates.make_ca, tmp_path, "lung", now_s=NOW) == "key-exists"
    assert code(certificates.read, tmp_path / "none.crt") == "certificate-absent"
    assert code(certificates.read, tmp_path / "ca.key") == "certificate-damaged"
