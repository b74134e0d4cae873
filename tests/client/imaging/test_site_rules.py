"""A site's own rules: every key changes what it says, nothing that a person may mistype loosens anything."""

import hashlib
import pickle
import string
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, keyword_dict, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

from client.imaging.dataset import clean_dataset
from client.imaging.deid import clean, require_usable
from client.imaging.header_path import clean_native
from client.imaging.mandatory import MANDATORY
from client.imaging.ocr import Reader
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.receive import RawImage, scan
from client.imaging.site_rules import VOUCHED, SiteRules, parse_rules, under
from client.imaging.sources import Source
from federation.errors import DeidError, SettingsError
from federation.strict_toml import known_keys

HEAD = 'format = "wardround-rules/1"\n'
VOUCH = '\n[[loosen]]\nkeep = "{}"\nby = "Dr. Panza"\non = "2026-11-23"\nbecause = "dose needs the height"\n'
CR = "1.2.840.10008.5.1.4.1.1.1"
Chest = Callable[..., FileDataset]


@cache
def shipped() -> DeidProfile:
    return DeidProfile.shipped()


def ruled(text: str, folder: Path = Path()) -> DeidProfile:
    return under(parse_rules(HEAD + text), shipped(), folder)


def refused(text: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        under(parse_rules(text), shipped(), Path())
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[tighten]\n[limits]\n[rendering]\n",
        '[tighten]\ndates = "shifted"\ndrop = ["PatientName", "StudyDescription"]\n',
        "[limits]\nframes = 4000\n",
        '[rendering]\nlongest_side = 1024\nct_windows = ["lung"]\n',
    ],
)
def test_rules_that_change_nothing_leave_the_shipped_digest(text: str, profile: DeidProfile) -> None:
    assert ruled(text).digest == profile.digest


def test_equal_rules_have_equal_digests_and_every_change_another(profile: DeidProfile) -> None:
    texts = [
        "", 'default_issuer = "NORTH"', '[tighten]\ndrop = ["Manufacturer"]', '[tighten]\nrefuse_modalities = ["US"]',
        f'[tighten]\nrefuse_classes = ["{CR}"]', '[tighten]\ndates = "removed"', "[limits]\nframes = 100",
        "[limits]\npicture_side_min = 32", "[rendering]\nlongest_side = 512", "[rendering]\nframes_per_object = 5",
        "[rendering]\npictures_per_study = 4", '[rendering]\nct_windows = ["bone", "lung"]',
        VOUCH.format("PatientSize"), VOUCH.format("NumberOfStudyRelatedSeries"),
    ]  # fmt: skip
    digests = [ruled(text).digest for text in texts]

    assert len(set(digests)) == len(texts) and digests[0] == profile.digest
    assert digests == [ruled(text).digest for text in texts]
    either, other = '[tighten]\ndrop = ["KVP", "Grid"]', '[tighten]\ndrop = ["Grid", "KVP", "Grid"]'
    assert ruled(either).digest == ruled(other).digest


def test_who_vouches_and_why_is_attested_and_no_part_of_the_digest() -> None:
    one = ruled(VOUCH.format("PatientSize"))
    two = ruled(VOUCH.format("PatientSize").replace("Dr. Panza", "Dr. Carrasco").replace("11-23", "11-24"))

    assert one.digest == two.digest and one.site.exceptions != two.site.exceptions


def test_a_profile_arrives_in_a_worker_as_it_is() -> None:
    made = ruled('[tighten]\nrefuse_modalities = ["US"]\ndrop = ["Manufacturer"]\n' + VOUCH.format("PatientSize"))

    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize("keyword", ["Manufacturer", "PatientSex", "PatientAge", "KVP", "ReferencedImageSequence"])
def test_what_is_dropped_does_not_stay(keyword: str, make_chest: Chest, keys: SiteKeys, profile: DeidProfile) -> None:
    reference = make_chest(ReferencedSOPClassUID=CR, ReferencedSOPInstanceUID="1.2.3")
    raw = make_chest(
        Manufacturer="SIEMENS", PatientAge="071Y", KVP="80", ReferencedImageSequence=[reference], PatientSex="F"
    )

    assert clean_dataset(raw, profile, keys).get(keyword)
    assert not clean_dataset(raw, ruled(f'[tighten]\ndrop = ["{keyword}"]'), keys).get(keyword)


def test_what_a_valid_object_has_to_have_stays_empty_on_both_ways(
    make_chest: Chest, keys: SiteKeys, tmp_path: Path
) -> None:
    tight = ruled('[tighten]\ndrop = ["InstanceNumber", "PatientSex", "StudyDate"]')
    raw = make_chest(InstanceNumber="3")
    raw.save_as(tmp_path / "a", enforce_file_format=True)
    native = clean_native((tmp_path / "a").read_bytes(), tight, keys)
    slow = clean_dataset(raw, tight, keys)

    assert native is not None
    for keyword in ("InstanceNumber", "PatientSex", "StudyDate"):
        assert keyword in slow and not slow.get(keyword)
    assert b"\x20\x00\x13\x00IS\x00\x00" in native[0]


def test_an_object_keeps_what_it_needs() -> None:
    for keyword in sorted(MANDATORY):
        assert keyword in keyword_dict
        assert "an object needs it" in refused(f'{HEAD}[tighten]\ndrop = ["{keyword}"]').message


def test_a_dropped_age_is_not_worked_out_from_dates(
    hospital: Path, keys: SiteKeys, reader: Reader, tmp_path: Path
) -> None:
    ages = {}
    for name, text in (("shipped", ""), ("tight", '[tighten]\ndrop = ["PatientAge"]')):
        rules, place = ruled(text), tmp_path / name
        place.mkdir()
        studies = scan(Source(hospital, rules.limits, place), rules, place).studies()
        ages[name] = {clean(raw, rules, keys, reader).age_years for raw in studies if raw.code is None}

    assert ages["tight"] == {None} and ages["shipped"] != {None}


@pytest.mark.parametrize(
    ("stated", "code"), [("US", "site-refused"), ("us", "site-refused"), (["CR", "US"], "site-refused"),
                         (None, "site-refused"), ("", "site-refused"), ("CR", None)],
)  # fmt: skip
def test_an_object_of_a_refused_modality_or_of_none_is_held_back(
    stated: str | None, code: str | None, make_chest: Chest, save: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small letters are no CS
        save(make_chest(Modality=stated), tmp_path / "in" / "a")
    rules = ruled('[tighten]\nrefuse_modalities = ["US", "MR"]')
    intake = scan(Source(tmp_path / "in", rules.limits, tmp_path), rules, tmp_path, every_row=False)

    assert [image.code for image in intake.images()] == [code]


def test_a_file_that_changed_its_modality_since_the_first_look_is_held_back(make_chest: Chest, keys: SiteKeys) -> None:
    image = RawImage(Path("a"), "dicom", "1.2.3.4.1.1", "", "mrn-000001")
    require_usable(make_chest(Modality="US"), image, shipped(), keys)

    with pytest.raises(DeidError) as caught:
        require_usable(make_chest(Modality="US"), image, ruled('[tighten]\nrefuse_modalities = ["US"]'), keys)
    assert caught.value.code == "site-refused"


def test_a_refused_class_is_refused_by_the_site(
    make_chest: Chest, save: Callable[..., Path], tmp_path: Path, keys: SiteKeys
) -> None:
    (tmp_path / "in").mkdir()
    save(make_chest(), tmp_path / "in" / "a")
    rules = ruled(f'[tighten]\nrefuse_classes = ["{CR}"]').for_exports()
    intake = scan(Source(tmp_path / "in", rules.limits, tmp_path), rules, tmp_path, every_row=False)

    assert [image.code for image in intake.images()] == ["site-refused"]
    assert CR not in rules.image_classes  # what the storage provider offers


def test_removed_dates_are_emptied_and_their_option_is_not_claimed(
    make_chest: Chest, keys: SiteKeys, profile: DeidProfile
) -> None:
    raw = make_chest(ContentDate="20190304", AcquisitionDate="20190304")
    shifted, removed = (clean_dataset(raw, rules, keys) for rules in (profile, ruled('[tighten]\ndates = "removed"')))

    assert shifted.StudyDate and shifted.LongitudinalTemporalInformationModified == "MODIFIED"
    assert [each.value for each in removed if each.VR in ("DA", "DT", "TM") and each.value] == []
    assert "StudyDate" in removed and removed.LongitudinalTemporalInformationModified == "REMOVED"
    assert [code.CodeValue for code in removed.DeidentificationMethodCodeSequence] == ["113100", "113108"]


def test_characteristics_are_claimed_while_one_stays() -> None:
    nothing = '[tighten]\ndrop = ["PatientSex", "PatientAge"]\n'

    assert "113108" not in ruled(nothing).codes
    assert "113108" not in ruled(nothing + VOUCH.format("NumberOfStudyRelatedSeries")).codes
    assert "113108" in ruled(nothing + VOUCH.format("PatientSize")).codes


def test_a_patient_without_an_issuer_counts_under_the_sites_own(make_chest: Chest, keys: SiteKeys) -> None:
    named = clean_dataset(make_chest(IssuerOfPatientID="North "), shipped(), keys).PatientID

    assert clean_dataset(make_chest(), ruled('default_issuer = "NORTH"'), keys).PatientID == named
    assert clean_dataset(make_chest(), shipped(), keys).PatientID != named


def test_a_limit_and_a_picture_are_as_the_rules_say(make_chest: Chest, keys: SiteKeys) -> None:
    rules = ruled('[limits]\nelements = 9\n[rendering]\nlongest_side = 128\nct_windows = ["bone", "mediastinum"]')

    assert rules.rendering.longest_side == 128 and rules.rendering.ct_windows == ("bone", "mediastinum")
    with pytest.raises(DeidError, match="more elements"):
        clean_dataset(make_chest(), rules, keys)


@pytest.mark.parametrize(
    ("keyword", "good", "bad"),
    [
        ("PatientSize", "1.72", "Quixano"), ("PatientWeight", "81", "1234567890"), ("PregnancyStatus", 4, None),
        ("SmokingStatus", "NO", "QUIXANO"), ("PatientSexNeutered", "ALTERED", "QUIXANO"),
        ("NumberOfStudyRelatedSeries", "2", "Quixano"), ("PatientBodyMassIndex", "24.5", "24.5 kg, Quixano"),
    ],
)  # fmt: skip
def test_what_is_loosened_stays_if_it_is_a_number_or_a_listed_word(
    keyword: str, good: object, bad: object, make_chest: Chest, keys: SiteKeys, profile: DeidProfile
) -> None:
    loose = ruled(VOUCH.format(keyword))

    assert str(clean_dataset(make_chest(**{keyword: good}), loose, keys).get(keyword)) == str(good)
    assert keyword not in clean_dataset(make_chest(**{keyword: good}), profile, keys)
    if bad is not None:
        raw = make_chest()
        raw.add_new(tag_for_keyword(keyword), "LO", bad)
        assert not clean_dataset(raw, loose, keys).get(keyword)


LOOSENED = HEAD + VOUCH.format("PatientSize")


@pytest.mark.parametrize(
    "text",
    [
        LOOSENED.replace("PatientSize", "patientsize"), LOOSENED.replace("PatientSize", "PatientName"),
        LOOSENED.replace("PatientSize", "PatientBirthDate"), LOOSENED.replace("PatientSize", "StudyInstanceUID"),
        LOOSENED.replace("PatientSize", "StudyDescription"), LOOSENED.replace("PatientSize", "EthnicGroup"),
        LOOSENED.replace("PatientSize", "ImageComments"), LOOSENED.replace("PatientSize", "OtherStudyNumbers"),
        LOOSENED.replace("PatientSize", "KVP"), LOOSENED.replace("PatientSize", "MessageID"),
        LOOSENED.replace("PatientSize", "(0010,1020)"), LOOSENED.replace("PatientSize", ""),
        LOOSENED.replace('"Dr. Panza"', '""'), LOOSENED.replace('"Dr. Panza"', '"-- "'),
        LOOSENED.replace("Dr. Panza", "Dr.\\nPanza"), LOOSENED.replace("dose needs the height", "ok"),
        LOOSENED.replace("2026-11-23", "2026-11-31"), LOOSENED.replace("2026-11-23", "23.11.2026"),
        LOOSENED.replace("2026-11-23", "20261123"), LOOSENED.replace('"2026-11-23"', "2026-11-23"),
        *(LOOSENED.replace(line, "") for line in LOOSENED.splitlines() if "=" in line),
        LOOSENED.replace("keep", "kep"), LOOSENED.replace("[[loosen]]", "[loosen]"),
        LOOSENED + VOUCH.format("PatientSize"),
        LOOSENED + '[tighten]\ndrop = ["PatientSize"]\n',
        HEAD + 'loosen = ["PatientSize"]', HEAD.replace("/1", "/2"), HEAD + "[limits]\nframes = 4001",
        HEAD + "[limits]\nframes = 0", HEAD + "[limits]\nframes = inf", HEAD + "[limits]\npicture_side_min = 7",
        HEAD + "[rendering]\nlongest_side = 8", HEAD + "[rendering]\nframes_per_object = 0",
        HEAD + "[rendering]\npictures_per_study = 1000", HEAD + '[rendering]\nct_windows = ["lungs"]',
        HEAD + '[rendering]\nct_windows = ["lung", "lung"]', HEAD + "[rendering]\nct_windows = []",
        HEAD + '[tighten]\ndrop = ["Manufactrer"]', HEAD + '[tighten]\ndrop = ["SOPInstanceUID"]',
        HEAD + '[tighten]\ndrop = ["FrameOfReferenceUID"]', HEAD + '[tighten]\ndrop = "KVP"',
        HEAD + '[tighten]\nrefuse_modalities = ["us"]', HEAD + '[tighten]\nrefuse_classes = ["1.2.840"]',
        HEAD + f'[tighten]\nrefuse_classes = ["{CR} "]', HEAD + '[tighten]\ndates = "kept"',
        HEAD + '[tighten]\ndropp = ["KVP"]', HEAD + 'default_issuer = "A\\\\B"', HEAD + '[text]\ntagger = "tagger"',
        HEAD + f'[text]\ntagger = "nowhere"\ntagger_sha256 = "{"0" * 64}"', HEAD + '[keep]\nkeep = ["KVP"]',
    ],
)  # fmt: skip
def test_a_mistake_is_an_error_with_a_hint(text: str) -> None:
    error = refused(text)

    assert error.code in ("settings-value", "settings-unknown-key") and error.hint
    assert "\n" not in error.message + error.hint


def test_a_mistyped_key_is_told_with_the_nearest_one() -> None:
    error = refused(LOOSENED.replace("because", "becuase"))

    assert error.code == "settings-unknown-key" and "loosen 1.becuase" in error.message
    assert error.hint == "the nearest known key is loosen.because"
    assert "PatientSize" in refused(LOOSENED.replace("PatientSize", "patientsize")).hint
    assert "lowered" in refused(HEAD + "[limits]\nframes = 4001").hint
    assert "PatientName" in refused(HEAD + '[tighten]\ndrop = ["(0010,0010)"]').hint
    assert "PS3.6" in refused(HEAD + '[tighten]\ndrop = ["Hersteller"]').hint
    assert "[[loosen]]" in refused(LOOSENED.replace("[[loosen]]", "[loosen]")).hint
    assert "list" in refused(HEAD + '[tighten]\ndrop = "KVP"').hint
    assert "PatientWeight" in refused(LOOSENED.replace("PatientSize", "PatientName")).hint


def test_a_tagger_is_the_pinned_one_and_its_place_does_not_matter(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        place = tmp_path / name / "tagger"
        place.mkdir(parents=True)
        for file in ("model.onnx", "tokenizer.json", "config.json"):
            (place / file).write_bytes(b"model")
        text = f'[text]\ntagger = "tagger"\ntagger_sha256 = "{hashlib.sha256(b"model").hexdigest()}"'
        made = ruled(text, tmp_path / name)
        assert made.text.tagger == str(place)
        digests.add(made.digest)
    (place / "model.onnx").write_bytes(b"another")

    assert len(digests) == 1 and digests != {shipped().digest}
    with pytest.raises(SettingsError, match="another SHA-256"):
        ruled(text, tmp_path / "two")


def kept_by(profile: DeidProfile) -> set[str]:
    """Keywords of which something of the original value may stay."""
    acted = {
        tag: action
        for tag, action in profile.actions.items()
        if action in ("K", "U", "X/Z/U*") or tag in profile.shifted
    }
    return {*profile.allow, *profile.keep, *acted}


def tagged(keyword: str) -> int:
    known = tag_for_keyword(keyword)
    return int(keyword, 16) if known is None else known


NUMBERS = frozenset({"US", "SS", "UL", "SL", "FL", "FD", "DS", "IS"})
KEYWORDS = st.sampled_from(sorted(keyword for keyword in keyword_dict if keyword)) | st.text(string.ascii_letters)
WORDS = st.sampled_from(["Dr. Panza", "", "dose needs the height", "2026-11-23", "2026-02-30", "-"])


@settings(max_examples=150, deadline=None)
@given(
    loosen=st.lists(st.tuples(KEYWORDS, WORDS, WORDS, WORDS), max_size=2) | st.lists(
        KEYWORDS.map(lambda keyword: (keyword, "Dr. Panza", "2026-11-23", "dose needs the height")), max_size=3
    ),
    drop=st.lists(KEYWORDS, max_size=2),
    dates=st.sampled_from(["shifted", "removed"]),
)  # fmt: skip
def test_no_rules_file_makes_a_text_a_date_a_uid_or_a_name_stay(
    loosen: list[tuple[str, str, str, str]], drop: list[str], dates: str
) -> None:
    text = f'[tighten]\ndates = "{dates}"\ndrop = {drop!r}\n'.replace("'", '"')
    for keep, by, on, because in loosen:
        text += f'[[loosen]]\nkeep = "{keep}"\nby = "{by}"\non = "{on}"\nbecause = "{because}"\n'
    try:
        made = ruled(text)
    except SettingsError:
        return
    more = {tagged(each) for each in kept_by(made)} - {tagged(each) for each in kept_by(shipped())}

    assert len(more) == len(loosen) == len(made.site.exceptions)
    for tag in more:
        assert dictionary_VR(tag) in NUMBERS or tag in {tag_for_keyword(keyword) for keyword in VOUCHED}
    assert made.image_classes <= shipped().image_classes
    assert made.shifted <= shipped().shifted


@cache
def all_that_can_be_loosened() -> frozenset[str]:
    found = set()
    for keyword in filter(None, keyword_dict):
        try:
            ruled(VOUCH.format(keyword))
        except SettingsError:
            continue
        found.add(keyword)
    return frozenset(found)


def test_only_a_number_or_a_listed_word_can_be_loosened() -> None:
    found = all_that_can_be_loosened()

    assert found >= VOUCHED.keys() and len(found) > 500
    assert {dictionary_VR(tagged(keyword)) for keyword in found - VOUCHED.keys()} <= NUMBERS


def test_of_the_table_only_what_option_113108_keeps_can_be_loosened() -> None:
    rows = [keyword_for_tag(int(tag, 16)) for tag in shipped().actions]

    assert {"DS", "US"} <= {dictionary_VR(tagged(keyword)) for keyword in rows if keyword and keyword not in VOUCHED}
    assert set(rows) & all_that_can_be_loosened() == VOUCHED.keys()


def test_with_everything_loosened_the_engine_keeps_no_text_no_date_and_no_uid(
    make_chest: Chest, keys: SiteKeys
) -> None:
    loose = ruled("".join(VOUCH.format(keyword) for keyword in sorted(all_that_can_be_loosened())))
    values = {"DA": "20190304", "DT": "20190304101112", "TM": "101112", "UI": "1.2.3.4.5.6", "AS": "071Y"}
    raw = make_chest()
    inner = Dataset()
    for keyword in filter(None, keyword_dict):
        tag = tagged(keyword)
        if tag >> 16 >= 0x0008 and keyword not in MANDATORY and not dictionary_VR(tag).startswith(("SQ", "O")):
            inner.add(
                DataElement(
                    tag,
                    "LO" if keyword in all_that_can_be_loosened() else dictionary_VR(tag).split()[0],
                    values.get(dictionary_VR(tag), "QUIXANO"),
                    already_converted=True,
                )
            )
    for element in inner:
        if element.keyword not in raw:
            raw.add(element)
    raw.add_new("ViewCodeSequence", "SQ", Sequence([inner]))
    out = clean_dataset(raw, loose, keys)
    said = [str(each.value) for each in out.iterall()]

    assert not [text for text in said if "QUIXANO" in text or "20190304" in text or "1.2.3.4.5.6" in text]


def test_the_example_of_the_operators_page_is_read_and_the_spec_has_every_key() -> None:
    docs = Path(__file__).parents[3] / "docs"
    example = (docs / "site_operator.md").read_text().partition("```toml\nformat =")[2].partition("```")[0]
    made = under(parse_rules("format =" + example), shipped(), Path())
    spec = (docs / "spec" / "rules-1.md").read_text()

    assert (len(made.site.tightened), len(made.site.adjusted), len(made.site.exceptions)) == (6, 3, 1)
    for key in known_keys(SiteRules):
        name = key.rpartition(".")[2]
        assert key in ("tighten", "limits", "rendering", "text", "loosen") or f"{name}`" in spec, key
