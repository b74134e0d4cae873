"""The record of releases: one line per decision, chained, and nothing released when it does not verify."""

import stat
from pathlib import Path

import pytest

from client import signed_record
from client.releases import Release, Releases
from federation import canonical
from federation.errors import FormatError, StoreError
from federation.trust.keys import SigningKey

DIGEST, OTHER = "ab" * 32, "cd" * 32


def decision(action="release", digest=DIGEST, person="Dr. Panza") -> Release:
    return Release(action, digest, "ef" * 32, person, "2026-01-01T00:00:00Z")


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path / "state" / "releases.jsonl")


def test_a_release_is_of_one_data_set_and_can_be_taken_back(releases, tmp_path):
    assert releases.of(DIGEST) is None
    releases.append(decision())
    assert releases.of(DIGEST) == decision() and releases.of(OTHER) is None
    releases.append(decision("revoke", person="Teresa Cascajo"))
    assert releases.of(DIGEST) is None
    releases.append(decision())

    assert [one.action for one in releases.all()] == ["release", "revoke", "release"]
    assert stat.S_IMODE((tmp_path / "state/releases.jsonl").stat().st_mode) == 0o600


def test_every_change_of_a_byte_is_found(releases, tmp_path):
    path = tmp_path / "state/releases.jsonl"
    for one in (decision(), decision("revoke"), decision(digest=OTHER)):
        releases.append(one)
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        if at < whole.rindex(b"\n", 0, len(whole) - 1):  # the newest line has no line after it to vouch for it
            with pytest.raises(StoreError) as refused:
                releases.of(DIGEST)
            assert refused.value.code == "release-damaged"
    for cut in (len(whole) - 1, len(whole) // 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(StoreError):
            releases.all()


@pytest.mark.parametrize("person", ["", "a\nb", "x" * 101, "M\udcfcller", "a\x85b", "a\u202eb"])
def test_a_name_that_no_record_can_hold_is_refused(releases, person):
    with pytest.raises(FormatError):
        releases.append(decision(person=person))
    assert releases.all() == []


def test_a_name_in_an_old_record_that_cannot_be_printed_is_shown_without_it(releases, tmp_path):
    releases.append(decision())
    path = tmp_path / "state/releases.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Dr. Panza", b"M\\udcfcller\\u202e"))

    assert releases.of(DIGEST) == decision(person="M?ller?")


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.from_seed(bytes(31) + b"\x01")


def test_a_site_with_a_key_signs_and_counts_what_it_signed(tmp_path, key):
    path = tmp_path / "releases.jsonl"
    signed = Releases(path, lambda: key)
    signed.append(decision())
    signed.append(decision(digest=OTHER))

    assert signed.of(DIGEST) == decision() and signed.of(OTHER).signer == key.public.text
    assert Releases(path).of(DIGEST) == decision(), "a copy is read without the key"
    line = path.read_bytes().splitlines()[1]
    record = canonical.load(line)
    said = {name: one for name, one in record.items() if name != "signature"}
    key.public.verify("release", canonical.dump(said), bytes.fromhex(record["signature"]))


def test_every_change_of_a_byte_of_a_signed_line_is_found_the_last_one_too(tmp_path, key):
    path = tmp_path / "releases.jsonl"
    signed = Releases(path, lambda: key)
    signed.append(decision())
    whole = path.read_bytes()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises(StoreError) as refused:
            signed.of(DIGEST)
        assert refused.value.code == "release-damaged"


def test_a_line_that_nobody_or_another_key_signed_releases_nothing_at_a_site_with_a_key(tmp_path, key):
    other = SigningKey.from_seed(bytes(31) + b"\x02")
    for number, forger in enumerate((lambda: None, lambda: other)):
        path = tmp_path / f"{number}.jsonl"
        Releases(path, forger).append(decision())

        assert Releases(path, lambda: key).of(DIGEST) is None and Releases(path, forger).of(DIGEST) == decision()
        Releases(path, lambda: key).append(decision())
        assert Releases(path, lambda: key).of(DIGEST) == decision()


def test_a_signature_of_another_purpose_or_without_its_signer_is_none(key):
    said = {"a": 1}
    record = canonical.load(signed_record.dump("release", said, key))

    assert signed_record.verifies("release", record) and not signed_record.verifies("attestation", record)
    for change in ({"signer": ""}, {"signature": ""}, {"signature": record["signature"].upper()}, {"signer": None}):
        assert not signed_record.verifies("release", {**record, **change})
    assert not signed_record.verifies("release", said)


@pytest.mark.parametrize("there", ["state", "state/releases.jsonl"])
def test_a_record_that_is_no_file_releases_nothing(releases, tmp_path, there):
    if there == "state":
        (tmp_path / there).touch()
    else:
        (tmp_path / there).mkdir(parents=True)
    with pytest.raises(StoreError) as refused:
        releases.of(DIGEST)
    assert refused.value.code == "release-damaged"
