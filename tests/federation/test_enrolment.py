"""Joining: a token lets one key be submitted, once; people decide whether it counts."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from federation.errors import TrustError
from federation.trust import enrolment, times
from federation.trust.enrolment import Invitation
from federation.trust.keys import SigningKey
from federation.trust.roster import Officer

NOW = 1767225600
TOKEN = bytes(range(32))
OFFICER, SITE, OTHER = (SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
TRANSPORT = (
    ec.derive_private_key(7, ec.SECP384R1()).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
)
RECORD = enrolment.token_record(TOKEN, "north", now_s=NOW)
INVITED = Invitation(
    "lung", "north", "fed.example:8443", "-----BEGIN CERTIFICATE-----\n", (Officer("anna", OFFICER.public),), 1,
    TOKEN.hex(), times.text(NOW + 3600),
)  # fmt: skip


def submitted(invitation=INVITED, key=SITE):
    return enrolment.submit(
        invitation, key, organisation="North Hospital", contact="it@north.example", transport=TRANSPORT, now_s=NOW
    )


def code(call, *arguments, **named) -> str:
    with pytest.raises(TrustError) as caught:
        call(*arguments, **named)
    assert caught.value.hint
    return caught.value.code


def check(submission, record=RECORD, consortium="lung", now_s=NOW):
    enrolment.check_submission(submission, record, consortium=consortium, now_s=now_s)


def test_an_invitation_is_one_line_and_survives_a_mail():
    line = enrolment.dump_invitation(INVITED)
    mailed = "\r\n  ".join(line[at : at + 76] for at in range(0, len(line), 76))

    assert enrolment.load_invitation(mailed) == INVITED
    assert TOKEN.hex() not in repr(INVITED)


@pytest.mark.parametrize("change", [lambda t: t[:-4], lambda t: t[1:], lambda t: t[:60] + t[61:], lambda t: ""])
def test_half_an_invitation_is_refused(change):
    assert code(enrolment.load_invitation, change(enrolment.dump_invitation(INVITED))) == "invitation-damaged"


def test_a_submission_with_the_right_token_is_accepted():
    made = submitted()
    check(made)

    assert enrolment.load_submission(enrolment.dump_submission(made)) == made
    assert TOKEN.hex() not in enrolment.dump_submission(made).decode()


def test_the_coordinator_keeps_no_token():
    assert TOKEN.hex() not in str(RECORD.value())
    assert enrolment.record_from(RECORD.value()) == RECORD


def test_wrong_used_and_expired_tokens_are_told_apart():
    wrong = submitted(replace(INVITED, token=bytes(32).hex()))

    assert code(check, wrong) == "token-wrong"
    assert code(check, submitted(), replace(RECORD, used=True)) == "token-used"
    assert code(check, submitted(), now_s=NOW + 24 * 3600 + 1) == "token-expired"
    assert code(check, submitted(replace(INVITED, site_id="south"))) == "token-wrong"
    assert code(check, submitted(), consortium="heart") == "token-wrong"
    assert code(submitted, replace(INVITED, expires=times.text(NOW - 1))) == "token-expired"


def test_a_token_vouches_for_one_key_only():
    """Whoever reads the submission on its way cannot put in a key of their own."""
    swapped = replace(submitted(), identity=OTHER.public)
    swapped = replace(swapped, signature=OTHER.sign("enrolment", swapped.said()).hex())

    assert code(check, swapped) == "token-wrong"


def test_a_key_without_its_private_half_is_refused():
    assert code(check, replace(submitted(), signature=OTHER.sign("enrolment", submitted().said()).hex())) == "signature"
    assert code(check, replace(submitted(), signature="")) == "signature"


def test_a_rotation_needs_the_key_before():
    member = submitted().member()
    moved = enrolment.rotate(member, "lung", SITE, OTHER, TRANSPORT)
    enrolment.check_rotation(moved, member, consortium="lung")

    stolen = enrolment.rotate(member, "lung", OTHER, OTHER, TRANSPORT)
    assert code(enrolment.check_rotation, stolen, member, consortium="lung") == "signature"
    assert code(enrolment.check_rotation, moved, member, consortium="heart") == "enrolment-damaged"


def test_only_the_one_form_of_a_submission_is_read():
    data = enrolment.dump_submission(submitted())

    assert code(enrolment.load_submission, data[:-1]) == "enrolment-damaged"
    assert code(enrolment.load_submission, data.replace(b"submission/1", b"submission/2")) == "enrolment-damaged"
    for text in (SITE.public.text, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGOeuxIwdDVmoJvJVBpkfQhXAvxGdUGr9XULYbbyLXbu"):
        other = replace(submitted(), transport=text)
        assert code(enrolment.load_submission, enrolment.dump_submission(other)) == "enrolment-damaged"


def test_the_words_are_those_of_the_key():
    assert submitted().words() == enrolment.key_words(SITE.public) != enrolment.key_words(OTHER.public)
