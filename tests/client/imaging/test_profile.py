import json
from pathlib import Path

import pytest

from client.imaging import profile as profiles
from client.imaging.profile import DeidProfile, generate, load
from federation.errors import SettingsError

SHIPPED = Path(profiles.__file__).with_name("profile.toml").read_text(encoding="utf-8")


def test_the_shipped_profile_has_every_row_of_the_table_but_the_four_patterns(profile: DeidProfile) -> None:
    assert len(profile.actions) == 652
    assert profile.actions["00100010"] == "Z" and profile.actions["00080018"] == "U"
    assert not profile.allow & {"PatientName", "PatientComments", "StudyDescription", "ImageComments"}


def test_an_option_changes_the_digest_and_equal_profiles_have_equal_digests(profile: DeidProfile) -> None:
    assert DeidProfile.shipped().digest == profile.digest
    assert DeidProfile.shipped(longest_side=448).digest != profile.digest


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('format = "wardround-profile/1"', 'format = "wardround-profile/2"'),
        ("[limits]", "colour = 1\n[limits]"),
        ("frames = 4000", "frame = 4000"),
        ('"00100010" = "Z"', '"00100010" = "KEEP"'),
        ("default_issuer =", "default_isuer ="),
    ],
)
def test_a_typing_mistake_in_the_profile_is_an_error(before: str, after: str) -> None:
    assert before in SHIPPED

    with pytest.raises(SettingsError):
        load(SHIPPED.replace(before, after, 1))


def test_generating_again_from_a_table_keeps_what_people_wrote(profile: DeidProfile) -> None:
    rows = [{"id": tag, "basicProfile": action, "keyword": None} for tag, action in sorted(profile.actions.items())] + [
        {"id": "50XXXXXX", "basicProfile": "X", "keyword": None}
    ]
    for row in rows:
        if str(row["id"]) in profile.shifted:
            row["rtnLongModifDatesOpt"] = "C"
    text = generate({"edition": profile.edition, "rows": rows}, profile.table_sha256, SHIPPED)

    assert load(text).digest == profile.digest
    assert json.dumps(profile.edition) in text
