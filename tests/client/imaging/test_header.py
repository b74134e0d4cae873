import io
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from client.imaging.header import border, kind_of, read
from client.imaging.profile import DeidProfile
from federation.errors import DeidError

Make = Callable[..., FileDataset]


def code_of(path: Path, profile: DeidProfile) -> str:
    with pytest.raises(DeidError) as refused:
        read(path, profile.limits, pixels=True)
    return refused.value.code


def test_implicit_and_deflated_files_are_read(make_chest: Make, tmp_path: Path, profile: DeidProfile) -> None:
    for syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        dataset = make_chest()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(tmp_path / "x", enforce_file_format=True)

        assert read(tmp_path / "x", profile.limits, pixels=True).PatientID == "MRN-000001"


def test_a_file_without_preamble_and_meta_is_read(make_chest: Make, tmp_path: Path, profile: DeidProfile) -> None:
    plain = Dataset()
    plain.update({element.tag: element for element in make_chest()})
    plain.save_as(tmp_path / "x", implicit_vr=True, little_endian=True)

    assert kind_of(tmp_path / "x") == "dicom"
    assert read(tmp_path / "x", profile.limits, pixels=False).file_meta.TransferSyntaxUID == ImplicitVRLittleEndian


def test_a_deflated_bomb_is_refused_before_it_inflates(make_chest: Make, tmp_path: Path, profile: DeidProfile) -> None:
    dataset = make_chest()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    meta_end = 144 + int.from_bytes(buffer.getvalue()[140:144], "little")
    packer = zlib.compressobj(wbits=-15)
    bomb = packer.compress(b"\0" * 50_000_000) + packer.flush()
    (tmp_path / "bomb").write_bytes(buffer.getvalue()[:meta_end] + bomb)

    assert code_of(tmp_path / "bomb", profile) == "limit-size"

    (tmp_path / "unmeasured").write_bytes(buffer.getvalue()[:132] + buffer.getvalue()[144:meta_end] + bomb)

    tracemalloc.start()
    assert code_of(tmp_path / "unmeasured", profile) == "malformed"
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 10_000_000


@pytest.mark.parametrize("keep", [0, 100, 131, 140, 200, 330])
def test_a_file_that_ends_early_is_refused(make_chest: Make, tmp_path: Path, profile: DeidProfile, keep: int) -> None:
    buffer = io.BytesIO()
    make_chest().save_as(buffer, enforce_file_format=True)
    (tmp_path / "cut").write_bytes(buffer.getvalue()[:keep])

    assert code_of(tmp_path / "cut", profile) in ("not-dicom", "truncated", "malformed", "syntax-unknown")


def test_a_header_that_was_cut_off_is_no_header_without_pixels(
    make_chest: Make, tmp_path: Path, profile: DeidProfile
) -> None:
    dataset, buffer = make_chest(), io.BytesIO()
    del dataset.PixelData
    dataset.save_as(buffer, enforce_file_format=True)
    whole = buffer.getvalue()
    (tmp_path / "whole").write_bytes(whole)

    (tmp_path / "padded").write_bytes(whole + bytes(4))

    assert "PixelData" not in read(tmp_path / "whole", profile.limits, pixels=True)
    assert "PixelData" not in read(tmp_path / "padded", profile.limits, pixels=True)
    for missing in range(1, 12):  # the last element has 12 bytes
        (tmp_path / "cut").write_bytes(whole[:-missing])
        assert code_of(tmp_path / "cut", profile) == "truncated"


def test_a_header_that_was_cut_off_behind_an_empty_element_is_none(
    make_chest: Make, tmp_path: Path, profile: DeidProfile
) -> None:
    """pydicom gives it back parsed, without a word of what follows."""
    dataset, buffer = make_chest(AccessionNumber=""), io.BytesIO()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.set_original_encoding(True, True)
    dataset.save_as(buffer, enforce_file_format=True)
    end = buffer.getvalue().index(b"\x08\0\x50\0\0\0\0\0") + 8
    (tmp_path / "cut").write_bytes(buffer.getvalue()[: end + 1])

    assert code_of(tmp_path / "cut", profile) == "truncated"


def test_a_black_frame_that_shrinks_a_thousandfold_is_no_bomb(
    make_chest: Make, tmp_path: Path, profile: DeidProfile
) -> None:
    dataset = make_chest(size=2000)
    dataset.PixelData = bytes(2 * 2000 * 2000)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "black", enforce_file_format=True)

    assert (tmp_path / "black").stat().st_size < 20_000
    assert len(read(tmp_path / "black", profile.limits, pixels=True).PixelData) == 8_000_000


def test_a_class_and_an_instance_that_only_the_meta_states_are_the_objects(
    make_chest: Make, tmp_path: Path, profile: DeidProfile
) -> None:
    dataset = make_chest()
    del dataset.SOPClassUID, dataset.SOPInstanceUID
    dcmwrite(tmp_path / "x", dataset)
    whole = (tmp_path / "x").read_bytes()
    found = read(tmp_path / "x", profile.limits, pixels=False)
    (tmp_path / "meta-only").write_bytes(whole[: whole.index(b"\x08\0\x20\0DA")])

    assert (found.SOPClassUID, found.SOPInstanceUID) == (make_chest().SOPClassUID, "1.2.3.4.1.1")
    assert code_of(tmp_path / "meta-only", profile) == "truncated"
    with pytest.raises(DeidError):
        read(tmp_path / "meta-only", profile.limits, pixels=False, tags=("SOPClassUID", "SOPInstanceUID"))


@pytest.mark.parametrize(
    ("declared", "name"),
    [("iso_ir 100", "M\xfcller"), ("ISO-IR 100", "M\xfcller"), ("iso_ir 192", None)],
)
def test_a_misspelt_character_set_is_read_as_meant_or_refused(
    declared: str, name: str | None, make_chest: Make, tmp_path: Path, profile: DeidProfile
) -> None:
    make_chest(SpecificCharacterSet="ISO_IR 100", PatientName="M\xfcller^A").save_as(
        tmp_path / "x", enforce_file_format=True
    )
    data = (tmp_path / "x").read_bytes().replace(b"ISO_IR 100", declared.encode())
    (tmp_path / "x").write_bytes(data)

    if name is None:
        assert code_of(tmp_path / "x", profile) == "charset"
    else:
        with border("malformed", "x"):
            assert read(tmp_path / "x", profile.limits, pixels=True).PatientName.family_name == name


def test_a_file_over_the_size_limit_is_refused(make_chest: Make, tmp_path: Path, profile: DeidProfile) -> None:
    make_chest().save_as(tmp_path / "x", enforce_file_format=True)
    tight = replace(profile, limits=replace(profile.limits, file_bytes=1000))

    assert code_of(tmp_path / "x", tight) == "limit-size"


def test_two_hundred_open_levels_are_refused(make_chest: Make, tmp_path: Path, profile: DeidProfile) -> None:
    inner = Dataset()
    for _ in range(200):
        outer = Dataset()
        outer.ReferencedImageSequence = Sequence([inner])
        outer["ReferencedImageSequence"].is_undefined_length = True
        inner = outer
    with border("malformed", "x"):
        make_chest(ReferencedImageSequence=Sequence([inner])).save_as(tmp_path / "deep", enforce_file_format=True)

    with pytest.raises(DeidError) as refused:
        dataset = read(tmp_path / "deep", profile.limits, pixels=True)
        from client.imaging.identifiers import collect

        collect(dataset, profile.limits)
    assert refused.value.code == "limit-nesting"


def test_an_unknown_character_set_and_syntax_are_refused(
    make_chest: Make, tmp_path: Path, profile: DeidProfile
) -> None:
    odd = make_chest()
    odd.file_meta.TransferSyntaxUID = "1.2.3.4"
    odd.save_as(tmp_path / "syntax", implicit_vr=False, little_endian=True)
    with border("malformed", "x"):
        text = make_chest(SpecificCharacterSet="ISO_IR 100")
        text.save_as(tmp_path / "charset", enforce_file_format=True)
    data = (tmp_path / "charset").read_bytes()
    (tmp_path / "charset").write_bytes(data.replace(b"ISO_IR 100", b"ISO_IR 999"))

    assert code_of(tmp_path / "syntax", profile) == "syntax-unknown"
    assert code_of(tmp_path / "charset", profile) == "charset"


def test_no_exception_of_a_library_passes_the_border_with_its_text() -> None:
    with pytest.raises(DeidError) as refused, border("malformed", "does not parse"):
        raise ValueError("Alonso Quixano")

    assert "Quixano" not in str(refused.value) and refused.value.__suppress_context__
