"""`clean` is the one door from raw to clean: it makes a `CleanStudy` out of a `RawStudy`, or says why it does not.

The training record copies little: 8-bit pictures, a few fields whose words come from closed lists, and scrubbed text.
Every identifier of the study's own headers is then looked for in what was kept; a hit holds the study back.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date
from functools import cache

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from client.imaging.burned_in import flagged
from client.imaging.dataset import age_years, clean_dataset
from client.imaging.header import border, class_code, modality_code, open_file, read, refusal
from client.imaging.identifiers import Identifiers, collect, fold_id, name_words, parse_day
from client.imaging.ocr import Reader, shipped
from client.imaging.pixels import Rendered, render, render_picture, spread
from client.imaging.png import decode_png, encode_png
from client.imaging.profile import DeidProfile, Limits
from client.imaging.pseudonyms import SiteKeys, normal_id, pseudonym
from client.imaging.receive import RawImage, RawStudy
from client.imaging.record import CleanExample, CleanPicture, CleanStudy, PictureFields, Turn
from client.imaging.report_known import residue
from client.imaging.report_listed import NOBODY, Listed
from client.imaging.report_sections import sections
from client.imaging.report_text import scrub
from client.imaging.residual import residue_in_numbers
from client.imaging.tagger import Tagger, tagger_at

__all__ = ["CleanStudy", "DeidProfile", "SiteKeys", "clean", "clean_dataset", "example_keys", "joined_ids"]


def clean(
    raw: RawStudy, profile: DeidProfile, keys: SiteKeys, reader: Reader | None = None, listed: Listed = NOBODY
) -> CleanStudy:
    """The training record of a study. Without a `reader` of burned-in text the shipped one is opened; `listed` are the
    site's own names and places.

    Guarantees: pictures carry no metadata; every picture was searched for burned-in text, and what was found is blank;
    field values are numbers or words of the profile's lists; of the names, ids, UIDs, dates and places of the study's
    headers, and of the site's lists, what `residue` looks for is not left in a question or an answer; no number beside
    a picture has the digits of an id or a date of the study's headers; one patient only.

    Raises: DeidError with the reason for quarantine; its message never holds a value.
    """
    if raw.code is not None:
        raise refusal(raw.code, "the study, its report row or its patient cannot be used")
    images = _sampled(raw, profile)
    codes = [image.code for image in images if image.code is not None]
    if codes:  # asked before whose they are, which is often not known then
        raise refusal(codes[0], "an image of the study cannot be used")
    reader = reader or shipped()
    tagger = tagger_at(profile.text.tagger, profile.text.tagger_sha256)
    found = Identifiers()
    pictures: list[CleanPicture] = []
    study_key, sex, age = "", "", None
    patient_key = _patient_key(images, keys)
    for image in images:
        found = found.plus(joined_ids(image, keys))
        if image.kind == "picture":
            found = found.plus(_of_picture(image))
            with open_file(image.path) as file:
                rendered = [render_picture(file.read(profile.limits.file_bytes), profile, reader)]
            fields = PictureFields()
        else:
            with border("malformed", "a header field does not convert"):
                dataset = read(image.path, profile.limits, pixels=True)
                require_usable(dataset, image, profile, keys)
                found = found.plus(collect(dataset, profile.limits))
                header = clean_dataset(dataset, profile, keys)
                fields = picture_fields(header)
                study_key = study_key or pseudonym(keys.uid, str(dataset.get("StudyInstanceUID", "")))
                sex = sex or str(header.get("PatientSex", "") or "")
                age = _age(dataset, header, profile) if age is None else age
                rendered = render(dataset, profile, reader)
                if flagged(dataset) and not any(one.blanked_share for one in rendered):
                    raise refusal("burned-in", "the header announces text in the pixels, and none was found")
        pictures += [_picture(one, image, patient_key, fields, keys, profile.limits) for one in rendered]
    _require_clean_numbers(pictures, found)

    @cache  # a study's rows often ask the same questions
    def said(text: str) -> str:
        return _scrubbed(text, found, raw.staff, tagger, listed)

    examples = tuple(
        CleanExample(key, tuple(Turn(said(turn.question), said(sections(turn.answer))) for turn in turns))
        for key, turns in zip(example_keys(raw, keys), raw.conversations, strict=True)
    )
    return CleanStudy(
        patient_key=patient_key,
        study_key=study_key or pseudonym(keys.source, patient_key, *(image.instance for image in images)),
        pictures=tuple(pictures),
        examples=examples,
        sex=sex,
        age_years=age,
        profile_digest=profile.digest,
    )


def example_keys(raw: RawStudy, keys: SiteKeys) -> list[str]:
    """One key per conversation, from what came in: the same row of the same folder has the same key, before any pixel
    is read, so that a second ingest can skip it."""
    if not raw.images:
        return []
    instances = [image.instance for image in raw.images]
    said = [json.dumps([(turn.question, turn.answer) for turn in turns]) for turns in raw.conversations]
    patient = _patient_key(raw.images, keys)
    return [pseudonym(keys.source, patient, *instances, each) for each in said]


def _patient_key(images: Sequence[RawImage], keys: SiteKeys) -> str:
    owners = {(normal_id(image.issuer), normal_id(image.patient_id)) for image in images}
    if len(owners) != 1:
        raise refusal("pairing", "the images belong to more than one patient")
    issuer, patient_id = owners.pop()
    if not patient_id:
        raise refusal("no-patient-id", "the images name no patient")
    return keys.patient_key(issuer, patient_id)


def _sampled(raw: RawStudy, profile: DeidProfile) -> tuple[RawImage, ...]:
    if not raw.sampled:
        return raw.images
    return tuple(raw.images[at] for at in spread(len(raw.images), profile.rendering.pictures_per_study))


def require_usable(dataset: Dataset, image: RawImage, profile: DeidProfile, keys: SiteKeys) -> None:
    """Of an accepted class, and still of the patient that the first look at the folder saw.

    Raises: DeidError site-refused, class-refused, class-unknown, patient-conflict.
    """
    class_uid = str(dataset.SOPClassUID)
    if (code := class_code(class_uid, profile) or modality_code(dataset, profile)) is not None:
        raise refusal(code, "objects of this SOP class or modality are not accepted")
    issuer = normal_id(str(dataset.get("IssuerOfPatientID", "") or "") or profile.default_issuer)
    stated = normal_id(str(dataset.get("PatientID", "") or ""))
    if (issuer, keys.joined.current(issuer, stated)) != (normal_id(image.issuer), normal_id(image.patient_id)):
        raise refusal("patient-conflict", "the file changed its patient while the folder was read")


def joined_ids(image: RawImage, keys: SiteKeys) -> Identifiers:
    """All ids of a person whose records were joined: a report may quote any of them."""
    ids = keys.joined.all_ids(normal_id(image.issuer), normal_id(image.patient_id))
    names = (word for word in _names_in(ids) if len(word) > 3)
    spelled = frozenset(("id", each) for each in ids)
    return Identifiers(names=frozenset(names), ids=frozenset(map(fold_id, ids)), spelled=spelled)


def _of_picture(image: RawImage) -> Identifiers:
    return Identifiers(names=frozenset(_names_in({image.patient_id})), ids=frozenset({fold_id(image.patient_id)}))


def _names_in(ids: Iterable[str]) -> set[str]:
    """The words of ids that are no numbers."""
    return {word for each in ids if not any(map(str.isdigit, each)) for word in name_words(each)}


def _picture(
    one: Rendered, image: RawImage, patient_key: str, fields: PictureFields, keys: SiteKeys, limits: Limits
) -> CleanPicture:
    rows, columns = one.pixels.shape
    png = encode_png(one.pixels)
    _require_fit(one, png, limits)
    return CleanPicture(
        picture_key=picture_key(image, patient_key, one.window, one.frame, keys),
        png=png,
        rows=rows,
        columns=columns,
        fields=replace(
            fields,
            window=one.window,
            frame=one.frame,
            source_rows=one.source_rows,
            source_columns=one.source_columns,
            blanked_share=one.blanked_share,
        ),
    )


def picture_key(image: RawImage, patient_key: str, window: str, frame: int | None, keys: SiteKeys) -> str:
    return pseudonym(keys.source, patient_key, image.instance, window, str(frame or 0))


def _require_fit(one: Rendered, png: bytes, limits: Limits) -> None:
    """What training will need, tried here: there, an example that does not encode would be left out without a word."""
    short, long = sorted(one.pixels.shape)
    if short < limits.picture_side_min or long > limits.picture_ratio_max * short:
        raise refusal("picture-unfit", "a picture is too small or too narrow to train on")
    if not np.array_equal(decode_png(png), one.pixels):
        raise refusal("picture-unfit", "a picture does not come back as it was encoded")


def picture_fields(header: Dataset) -> PictureFields:
    """Copied from the cleaned header only: words of the profile's lists, and numbers."""
    spacing = header.get("PixelSpacing") or header.get("ImagerPixelSpacing")
    return PictureFields(
        modality=_word(header, "Modality"),
        body_part=_word(header, "BodyPartExamined"),
        view=_word(header, "ViewPosition"),
        laterality=_word(header, "ImageLaterality") or _word(header, "Laterality"),
        manufacturer=_word(header, "Manufacturer"),
        pixel_spacing_mm=_number(spacing[0] if isinstance(spacing, MultiValue) else spacing),
        slice_thickness_mm=_number(header.get("SliceThickness")),
        kvp=_number(header.get("KVP")),
    )


def _require_clean_numbers(pictures: Iterable[CleanPicture], found: Identifiers) -> None:
    """A device can write a record number or a birth date where a quantity belongs. Asked when all headers are read, for
    the number may stand in one image and the id in another."""
    every = (picture.fields for picture in pictures)
    stated = (number for one in every for number in (one.kvp, one.slice_thickness_mm, one.pixel_spacing_mm))
    if (kind := residue_in_numbers((number for number in stated if number is not None), found)) is not None:
        raise refusal("residual-identifier", f"a number beside a picture has the digits of a {kind} of the header")


def _word(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword, "") or "").strip().upper()


def _number(value: object) -> float | None:
    try:
        return None if value is None else round(float(str(value)), 3)
    except ValueError:
        return None


def _age(raw: Dataset, header: Dataset, profile: DeidProfile) -> int | None:
    """As stated, or worked out from two dates; none of both where the rules keep no age."""
    if "PatientAge" not in profile.keep:
        return None
    stated = age_years(str(header.get("PatientAge", "") or ""))
    if stated is not None:
        return stated
    born: date | None = parse_day(str(raw.get("PatientBirthDate", "") or ""))
    seen: date | None = parse_day(str(raw.get("StudyDate", "") or ""))
    if born is None or seen is None or seen < born:
        return None
    return min(seen.year - born.year - ((seen.month, seen.day) < (born.month, born.day)), 90)


def _scrubbed(text: str, found: Identifiers, staff: frozenset[str], tagger: Tagger | None, listed: Listed) -> str:
    kept = scrub(text, found, staff, tagger, listed)
    if not kept:
        raise refusal("text-sections", "nothing of the text is left")
    if (kind := residue(kept, found)) is not None:
        raise refusal("residual-identifier", f"a {kind} of this patient's header is still in the text")
    if (kind := listed.residue(kept)) is not None:
        raise refusal("residual-identifier", f"a {kind} of the site's lists is still in the text")
    return kept
