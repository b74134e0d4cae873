import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.utils import pixel_array

from client.imaging import jpeg12
from client.imaging.export import export
from client.imaging.ocr import Reader
from client.imaging.pixels import render
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from federation.errors import DeidError


@pytest.fixture
def image() -> FileDataset:
    """A public bone scan, two pictures side by side, 12 bits."""
    path = get_testdata_file("JPEG-lossy.dcm")
    assert isinstance(path, str)
    return dcmread(path)


def test_grey_values_of_twelve_bits_are_those_of_the_reference_decoder(image: FileDataset) -> None:
    """Mean and greatest value of libjpeg (ISO/IEC 18477 reference); no value differs by more than one."""
    jpeg12.unpack(image)
    values = pixel_array(image)

    assert values.shape == (1024, 256) and values.max() == 264
    assert values.mean() == pytest.approx(14.383, abs=0.02)


def test_all_frames_are_unpacked(image: FileDataset) -> None:
    (stream,) = generate_frames(image.PixelData, number_of_frames=1)
    image.PixelData, image.NumberOfFrames = encapsulate([stream, stream]), 2
    jpeg12.unpack(image)
    values = pixel_array(image)

    assert values.shape == (2, 1024, 256) and np.array_equal(values[0], values[1])


@pytest.mark.parametrize("harm", ["cut", "garbage", "fewer", "larger"])
def test_a_stream_that_is_no_whole_frame_is_refused(
    harm: str, image: FileDataset, profile: DeidProfile, reader: Reader
) -> None:
    (stream,) = generate_frames(image.PixelData, number_of_frames=1)
    match harm:
        case "cut":
            image.PixelData = encapsulate([stream[: len(stream) // 2]])
        case "garbage":
            image.PixelData = encapsulate([b"\xff\xd8" + bytes(1000)])
        case "fewer":
            image.NumberOfFrames = 2
        case _:
            image.Rows = 2048
    with pytest.raises(DeidError) as refused:
        render(image, profile, reader)

    assert refused.value.code == "decode-failed"


def test_an_export_writes_it_uncompressed_and_says_that_it_was_lossy(
    image: FileDataset, tmp_path: Path, profile: DeidProfile, keys: SiteKeys,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "in").mkdir()
    buffer = io.BytesIO()
    image.save_as(buffer)
    (tmp_path / "in/x").write_bytes(buffer.getvalue())
    counts = export(tmp_path / "in", tmp_path / "out", profile, keys, tmp_path / "spool", workers=0)
    (made,) = (dcmread(path) for path in (tmp_path / "out").rglob("*.dcm"))
    jpeg12.unpack(image)

    assert counts.written == 1
    assert made.PixelData == image.PixelData and made.LossyImageCompression == "01"
    assert "precision" not in capfd.readouterr().err


def test_eight_bits_and_colours_are_left_to_others(image: FileDataset, make_chest: Callable[..., FileDataset]) -> None:
    image.BitsStored = 8
    assert not jpeg12.is_coded(image)
    image.BitsStored, image.SamplesPerPixel = 12, 3
    assert not jpeg12.is_coded(image)
    assert not jpeg12.is_coded(make_chest())
