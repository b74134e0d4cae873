"""Joining a federation, as people type it: two folders, two officers, and files that travel between them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client.folder import SiteFolder
from client.settings import load_settings
from federation.errors import TrustError
from federation.messages import Question, answer_to
from federation.trust.enrolment import load_submission
from federation.trust.keys import SigningKey
from server.federation_folder import FederationFolder
from sim.wardround import call

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Typed:
    """What a command printed."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def wardround(place, capfd):
    def run(*words: object) -> Typed:
        status = call([str(word) for word in words])
        told = capfd.readouterr()
        return Typed(status, told.out, told.err)

    return run


@pytest.fixture
def federation(wardround):
    """A federation with two officers, its first roster in force, and one site that made its folder."""
    assert wardround("coordinator", "officer", "anna.key", "--name", "Anna").status == 0
    assert wardround("coordinator", "officer", "ben.key", "--name", "Ben").status == 0
    made = wardround(
        "coordinator", "init", "fed", "--name", "lung", "--address", "fed.example:443", "--officer", "anna.key.pub",
        "--officer", "ben.key.pub",
    )  # fmt: skip
    assert made.status == 0, made.err
    sign_and_publish(wardround)
    wardround("site", "init", "north", "--id", "north", "--patients", 5000)
    return made.out.strip()  # the words of the federation


def sign_and_publish(wardround) -> None:
    for key in ("anna.key", "ben.key"):
        signed = wardround("coordinator", "sign", "fed/draft.json", "--key", key)
        assert signed.status == 0, signed.err
    done = wardround("coordinator", "publish", "--dir", "fed")
    assert done.status == 0, done.err


def enrolled(wardround) -> str:
    """Invite and enrol; returns the words of the site, as its people would read them."""
    Path("north.invite").write_text(wardround("coordinator", "invite", "north", "--dir", "fed").out)
    told = wardround(
        "site", "enrol", "north.invite", "--dir", "north", "--organisation", "North Hospital", "--contact",
        "it@north.example",
    )  # fmt: skip
    assert told.status == 0, told.err
    return told.out.splitlines()[0].partition(":")[2].strip()


def test_a_hospital_joins_and_answers_a_signed_question(wardround, federation):
    words = enrolled(wardround)
    assert wardround("coordinator", "admit", "north.submission", "--words", words, "--dir", "fed").status == 0
    sign_and_publish(wardround)
    assert wardround("coordinator", "roster", "--dir", "fed", "--out", "roster.json").status == 0
    joined = wardround("site", "roster", "roster.json", "--dir", "north", "--words", federation)

    assert joined.status == 0 and "north is an active member" in joined.out
    shown = json.loads(wardround("coordinator", "roster", "--dir", "fed", "--json").out)
    assert shown["words"] == federation and shown["roster"]["sites"][0]["organisation"] == "North Hospital"

    class Plain:
        site_id = "north"

        def answer(self, question):
            return answer_to(question, "refusal", {"reasons": []})

    from federation.trust.translog import TransLog
    from server.signed_link import SignedLink

    door = SiteFolder(Path("north")).door(Plain(), clock=time.time)
    opened = FederationFolder.open(Path("fed"))

    class Wire:
        def site_ids(self):
            return ("north",)

        def ask(self, questions, *, deadline_s):
            yield from map(door.answer, questions)

    with TransLog.open(Path("fed/run"), "lung/run", opened.key("log")) as log, door.log:
        link = SignedLink(Wire(), opened.key("coordinator"), opened.rosters(), log, clock=time.time)
        [answer] = link.ask([Question("consent", "run", 1, "north", "cc" * 32)], deadline_s=60)
    assert answer.kind == "refusal" and answer.seal


def test_what_a_site_starts_with_is_secret_and_complete(place, federation):
    modes = {path.name: path.stat().st_mode & 0o777 for path in Path("north").rglob("*")}

    assert load_settings(Path("north/site.toml")).policy.approve == "each-plan"
    assert {modes[name] for name in ("identity.key", "transport.key", "log.key", "secret", "site.toml")} == {0o600}
    assert {modes[name] for name in ("keys", "store", "state", "log", "federation")} == {0o700}
    assert Path("north/keys/transport.key.pub").read_text().startswith("ecdsa-sha2-nistp384 ")


def test_nothing_secret_leaves_in_an_invitation_or_a_submission(wardround, federation):
    enrolled(wardround)
    sent = Path("north.submission").read_bytes() + Path("north.invite").read_bytes()
    secrets = [path.read_bytes() for folder in ("north", "fed") for path in Path(folder).rglob("*.key")]

    assert secrets and not any(secret in sent for secret in secrets)
    assert oct(os.stat("fed/tokens/north.json").st_mode)


def mistake(told: Typed, status: int, words: str) -> None:
    lines = [line for line in told.err.splitlines() if line.startswith("wardround: ")]
    assert told.status == status
    assert [line.split(": ")[1] for line in lines] == ["error", "hint"] and words in lines[0], told.err
    assert "Traceback" not in told.err


def test_a_wrong_fingerprint_admits_nobody(wardround, federation):
    words = enrolled(wardround).split()
    before = Path("fed/rosters").iterdir()
    wrong = " ".join([*words[:-1], "abandon" if words[-1] != "abandon" else "zoo"])

    mistake(wardround("coordinator", "admit", "north.submission", "--words", wrong, "--dir", "fed"), 20, "the words")
    assert not Path("fed/draft.json").exists() and len(list(before)) == 1


def test_a_wrong_federation_is_not_joined(wardround, federation):
    words = enrolled(wardround)
    wardround("coordinator", "admit", "north.submission", "--words", words, "--dir", "fed")
    sign_and_publish(wardround)
    wardround("coordinator", "roster", "--dir", "fed", "--out", "roster.json")

    mistake(wardround("site", "roster", "roster.json", "--dir", "north", "--words", words), 20, "the words")
    mistake(wardround("site", "roster", "roster.json", "--dir", "north"), 20, "nobody has compared")
    mistake(wardround("site", "roster", "--dir", "north"), 20, "no roster yet")


def test_a_token_serves_once(wardround, federation):
    words = enrolled(wardround)
    admit = ("coordinator", "admit", "north.submission", "--words", words, "--dir", "fed")
    assert wardround(*admit).status == 0

    mistake(wardround(*admit), 20, "already submitted")


def test_a_submission_without_or_with_another_invitation_is_refused(wardround, federation):
    words = enrolled(wardround)
    wardround("coordinator", "invite", "north", "--dir", "fed")  # a second one: the first no longer counts
    admit = ("coordinator", "admit", "north.submission", "--words", words, "--dir", "fed")
    mistake(wardround(*admit), 20, "not submitted with the token")

    Path("fed/tokens/north.json").unlink()
    mistake(wardround(*admit), 20, "was not invited")


def test_half_an_invitation_is_refused(wardround, federation):
    enrol = ("--dir", "north", "--organisation", "N", "--contact", "c")

    mistake(wardround("site", "enrol", "wardround-invitation-1:abc", *enrol), 20, "not whole")
    mistake(wardround("site", "enrol", "no-such-file", *enrol), 20, "not whole")


def test_a_folder_in_use_is_left_as_it_is(wardround, federation):
    before = Path("north/keys/identity.key").read_bytes()

    mistake(wardround("site", "init", "north", "--id", "north", "--patients", 10), 20, "there is a key here already")
    mistake(
        wardround("coordinator", "init", "fed", "--name", "lung", "--address", "a.example:1"), 20, "there is a key here"
    )
    assert Path("north/keys/identity.key").read_bytes() == before


def test_one_officer_alone_puts_nothing_in_force(wardround, federation):
    words = enrolled(wardround)
    wardround("coordinator", "admit", "north.submission", "--words", words, "--dir", "fed")
    wardround("coordinator", "sign", "fed/draft.json", "--key", "anna.key")
    mistake(wardround("coordinator", "publish", "--dir", "fed"), 20, "1 valid signatures of officers, 2 are needed")
    mistake(wardround("coordinator", "revoke", "north", "--dir", "fed"), 20, "officers are signing")
    SigningKey.create(Path("eve.key"))
    mistake(wardround("coordinator", "sign", "fed/draft.json", "--key", "eve.key"), 20, "no officer's")


def test_an_officer_may_sign_a_copy_on_another_machine(wardround, federation):
    assert wardround("coordinator", "renew", "--dir", "fed").status == 0
    draft = Path("fed/draft.json").read_bytes()
    Path("for-ben.json").write_bytes(draft)
    wardround("coordinator", "sign", "fed/draft.json", "--key", "anna.key")
    wardround("coordinator", "sign", "for-ben.json", "--key", "ben.key")

    assert wardround("coordinator", "publish", "for-ben.json", "--dir", "fed").status == 0
    assert FederationFolder.open(Path("fed")).current().roster.version == 2


def test_wrong_clocks_and_ended_papers_are_one_clear_line(wardround, federation):
    words = enrolled(wardround)
    opened, later = FederationFolder.open(Path("fed")), time.time() + 100 * 86400
    submission = load_submission(Path("north.submission").read_bytes())
    site, roster = SiteFolder(Path("north")), opened.current()

    for code, said, refused in (
        ("token-expired", "expired", lambda: opened.admit(submission, heard=words, now_s=later)),
        ("roster-expired", "expired on", lambda: site.accept_roster(roster, heard=federation, now_s=later)),
        ("clock", "future", lambda: site.accept_roster(roster, heard=federation, now_s=time.time() - 3 * 86400)),
    ):
        with pytest.raises(TrustError, match=said) as caught:
            refused()
        assert caught.value.code == code and "clock" in caught.value.hint


def test_a_trial_has_its_officer_in_the_folder_and_says_so(wardround):
    made = wardround("coordinator", "init", "trial", "--name", "trial", "--address", "localhost:8443")

    assert made.status == 0 and "for a trial" in made.err
    assert FederationFolder.open(Path("trial")).current().roster.version == 1


def test_a_site_rotates_its_key_and_is_revoked(wardround):
    wardround("coordinator", "init", "fed", "--name", "trial", "--address", "localhost:8443")
    wardround("site", "init", "north", "--id", "north", "--patients", 100)
    wardround("coordinator", "admit", "north.submission", "--words", enrolled(wardround), "--dir", "fed")
    federation = json.loads(wardround("coordinator", "roster", "--dir", "fed", "--json").out)["words"]
    take = ("coordinator", "roster", "--dir", "fed", "--out", "roster.json")
    wardround(*take)
    assert wardround("site", "roster", "roster.json", "--dir", "north", "--words", federation).status == 0
    before = SiteFolder(Path("north")).signing_key().public

    new = wardround("site", "rotate", "--dir", "north").out.strip()
    assert wardround("coordinator", "admit", "north.submission", "--words", new, "--dir", "fed").status == 0
    assert SiteFolder(Path("north")).signing_key().public == before  # until a roster names the new one
    wardround(*take)
    assert wardround("site", "roster", "roster.json", "--dir", "north").status == 0
    assert SiteFolder(Path("north")).signing_key().public != before

    for _ in range(2):
        assert wardround("coordinator", "renew", "--dir", "fed").status == 0
    wardround(*take)
    away = wardround("site", "roster", "roster.json", "--dir", "north")  # two versions behind
    assert away.status == 0 and away.out.startswith("roster 5 of trial")

    assert wardround("coordinator", "revoke", "north", "--dir", "fed").status == 0
    wardround(*take)
    mistake(wardround("site", "roster", "roster.json", "--dir", "north"), 20, "not an active member")


def test_a_full_disk_is_one_line_and_leaves_no_half_folder_that_would_refuse_the_next_try(wardround, tmp_path):
    """RLIMIT_FSIZE stands for the full disk: a write past it fails likewise (EFBIG)."""
    import resource
    import signal

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    site = ["site", "init", "full", "--id", "north", "--patients", "10"]
    federation = ["coordinator", "init", "full-fed", "--name", "lung", "--address", "localhost:1"]
    for arguments in (site, federation):
        done = subprocess.run(
            [sys.executable, "-m", "sim.wardround", *arguments], preexec_fn=limited, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        assert done.returncode == 17 and "error: the disk is full" in done.stderr, done.stderr
        left = [path for path in Path(arguments[2]).rglob("*") if path.is_file() and path.suffix != ".part"]
        assert left == []

    assert wardround(*site).status == 0 and wardround(*federation).status == 0
