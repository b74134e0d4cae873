import re
from dataclasses import replace

import pytest
from pydicom.uid import UID

from client.imaging.pseudonyms import SiteKeys
from federation.errors import SettingsError


def test_padding_and_case_do_not_make_two_patients_of_one(keys: SiteKeys) -> None:
    forms = ["MRN-1", " mrn-1", "MRN-1\0", "Mrn-1 "]

    assert len({keys.patient_key("", form) for form in forms}) == 1
    assert re.fullmatch(r"[0-9a-f]{32}", keys.patient_key("", "MRN-1"))


def test_the_forms_that_unicode_has_for_one_letter_do_not_make_two_patients(keys: SiteKeys) -> None:
    composed, taken_apart, wide = "Mü-12", "Mu\u0308-12", "ｍü-１２"

    assert len({keys.patient_key("", each) for each in (composed, taken_apart, wide)}) == 1


def test_issuer_and_id_cannot_be_shifted_into_each_other(keys: SiteKeys) -> None:
    assert keys.patient_key("AB", "C") != keys.patient_key("A", "BC")


def test_another_secret_makes_unlinkable_patients(keys: SiteKeys) -> None:
    other = SiteKeys.from_secret(b"x" * 32)

    assert keys.patient_key("", "1") != other.patient_key("", "1")
    assert keys.key_id != other.key_id


def test_a_new_uid_is_valid_stable_and_a_version_8_uuid(keys: SiteKeys) -> None:
    uid = keys.new_uid("1.2.3")

    assert UID(uid).is_valid and len(uid) <= 44 and uid == keys.new_uid("1.2.3")
    assert int(uid[5:]) >> 76 & 0xF == 8
    assert keys.new_uid("1.2.3", within="1.9") != uid


def test_dates_move_by_one_to_ten_years_and_each_patient_by_its_own(keys: SiteKeys) -> None:
    days = [keys.days_back(f"{number:032x}") for number in range(200)]

    assert min(days) >= 365 and max(days) <= 3650 and len(set(days)) > 150


def test_a_short_secret_is_refused_and_keys_print_as_hidden(keys: SiteKeys) -> None:
    with pytest.raises(SettingsError):
        SiteKeys.from_secret(b"short")

    assert repr(replace(keys)) == "<SiteKeys: hidden>"
