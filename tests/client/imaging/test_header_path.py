import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.utils import pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from client.imaging.dataset import clean_dataset
from client.imaging.export import clean_file
from client.imaging.header_path import clean_native
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.receive import RawImage
from federation.errors import DeidError

Make = Callable[..., FileDataset]


def written(dataset: FileDataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def odd(make_chest: Make) -> FileDataset:
    """An object with private groups, nested and undefined-length sequences, overlays and trailing padding."""
    inner, outer = Dataset(), Dataset()
    inner.PatientName, inner.ReferencedSOPInstanceUID = "Planted^Name", "1.2.3.99"
    inner.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    outer.ReferencedImageSequence = Sequence([inner])
    dataset = make_chest(ReferencedImageSequence=Sequence([inner]), RequestAttributesSequence=Sequence([outer]))
    dataset["ReferencedImageSequence"].is_undefined_length = True
    dataset["RequestAttributesSequence"].is_undefined_length = True
    dataset.private_block(0x0009, "PLANTED", create=True).add_new(1, "UT", "Planted")
    dataset.add_new(0x60003000, "OW", b"Planted ")
    dataset.add_new(0xFFFCFFFC, "OB", b"Planted ")
    dataset.preamble = b"Planted".ljust(128, b"\0")
    return dataset


@pytest.mark.parametrize("implicit", [False, True])
def test_the_fast_way_and_the_ordinary_way_give_one_object(
    make_chest: Make, profile: DeidProfile, keys: SiteKeys, implicit: bool
) -> None:
    dataset = odd(make_chest)
    if implicit:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data = written(dataset)
    slow = clean_dataset(dcmread(io.BytesIO(data)), profile, keys)
    parts = clean_native(data, profile, keys)
    assert parts is not None
    fast = dcmread(io.BytesIO(b"".join(parts)))

    assert b"lanted" not in b"".join(parts) and fast.preamble == b"\0" * 128
    assert fast.to_json_dict() == slow.to_json_dict()


@pytest.mark.parametrize("signed", [0, 1])
def test_unused_bits_go_and_values_stay(make_chest: Make, profile: DeidProfile, keys: SiteKeys, signed: int) -> None:
    dataset = make_chest(PixelRepresentation=signed)
    before = pixel_array(dataset)
    dataset.PixelData = (np.frombuffer(dataset.PixelData, dtype="<u2") | 0x5000).tobytes()
    parts = clean_native(written(dataset), profile, keys)
    assert parts is not None

    assert set(np.unique(np.frombuffer(parts[1], dtype="<u2") >> 12)) <= ({0, 15} if signed else {0})
    assert np.array_equal(pixel_array(dcmread(io.BytesIO(b"".join(parts)))), before)


def test_other_objects_take_the_ordinary_way(make_chest: Make, profile: DeidProfile, keys: SiteKeys) -> None:
    packed = make_chest()
    packed.compress(RLELossless, generate_instance_uid=False)

    assert clean_native(written(packed), profile, keys) is None
    assert clean_native(b"no dicom at all", profile, keys) is None


_SECRET = struct.pack("<HHI", 0x0029, 0x1001, 6) + b"SECRET"
_ITEM_END, _SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


@pytest.mark.parametrize(
    "odd_one",
    [
        b"UN" + struct.pack("<HIHHI", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF) + _SECRET + _ITEM_END + _SEQUENCE_END,
        b"UN" + struct.pack("<HIHHI", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 14) + _SECRET + _SEQUENCE_END,
        struct.pack("<I", 6) + b"SECRET",
    ],
    ids=["items without lengths", "items with lengths", "no VR"],
)
def test_what_only_pydicom_can_read_takes_the_ordinary_way(
    make_chest: Make, profile: DeidProfile, keys: SiteKeys, tmp_path: Path, odd_one: bytes
) -> None:
    """VR UN of undefined length holds implicit VR (PS3.5 section 6.2.2), and some devices write elements without VR."""
    data, before = written(make_chest()), struct.pack("<HH", 0x7FE0, 0x0010)
    at = data.index(before)
    data = data[:at] + struct.pack("<HH", 0x0029, 0x1010) + odd_one + data[at:]
    (tmp_path / "x").write_bytes(data)

    assert clean_native(data, profile, keys) is None
    made = clean_file(RawImage(tmp_path / "x", "dicom", "1.2.3.4.1.1", "", "MRN-000001"), profile, keys)
    assert b"SECRET" not in made.data and dcmread(io.BytesIO(made.data)).Rows


def test_pixels_that_end_early_are_refused(make_chest: Make, profile: DeidProfile, keys: SiteKeys) -> None:
    data = written(make_chest())

    with pytest.raises(DeidError) as refused:
        clean_native(data[:-100], profile, keys)
    assert refused.value.code == "truncated"
