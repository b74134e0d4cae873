import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from client.imaging import pixels
from client.imaging.ocr import shipped
from client.imaging.pixels import Rendered, _share, spread, window
from client.imaging.png import decode_png, encode_png
from client.imaging.profile import DeidProfile
from federation.errors import DeidError

Make = Callable[..., FileDataset]


def render(dataset: FileDataset, profile: DeidProfile) -> list[Rendered]:
    return pixels.render(dataset, profile, shipped())


def render_picture(data: bytes, profile: DeidProfile) -> Rendered:
    return pixels.render_picture(data, profile, shipped())


def with_pixels(dataset: FileDataset, values: Any, **changes: Any) -> FileDataset:
    array = np.asarray(values)
    dataset.Rows, dataset.Columns = array.shape[-2:]
    dataset.PixelData = array.tobytes()
    dataset.BitsAllocated = array.dtype.itemsize * 8
    dataset.BitsStored = changes.pop("BitsStored", dataset.BitsAllocated)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


def only(dataset: FileDataset, profile: DeidProfile) -> Any:
    pictures = render(dataset, profile)
    assert len(pictures) == 1
    return pictures[0].pixels


RAMP = np.arange(256, dtype="<u2").reshape(16, 16) * 16


def test_a_window_over_all_values_keeps_their_order(make_chest: Make, profile: DeidProfile) -> None:
    picture = only(with_pixels(make_chest(), RAMP), profile)

    assert picture.dtype == np.uint8 and picture.shape == (16, 16)
    assert (
        np.all(np.diff(picture.ravel().astype(int)) >= 0) and picture.min() == 0 and picture.max() == 254
    )  # 4080 of 4095


@pytest.mark.parametrize("shape", [None, "INVERSE"])
def test_monochrome1_is_turned_exactly_once(make_chest: Make, profile: DeidProfile, shape: str | None) -> None:
    plain = only(with_pixels(make_chest(), RAMP), profile)
    changes = {"PresentationLUTShape": shape} if shape else {}
    turned = only(with_pixels(make_chest(PhotometricInterpretation="MONOCHROME1", **changes), RAMP), profile)

    assert np.abs(turned.astype(int) - (255 - plain.astype(int))).max() <= 1


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_lossless_transfer_syntaxes_give_the_same_picture(make_chest: Make, profile: DeidProfile, syntax: Any) -> None:
    plain = only(make_chest(), profile)
    packed = make_chest()
    packed.compress(syntax, generate_instance_uid=False)

    assert np.array_equal(only(packed, profile), plain)


def test_ct_is_drawn_in_hounsfield_units(make_chest: Make, profile: DeidProfile) -> None:
    hu = np.array([[-1350, -600], [150, 3000]], dtype="<i2")
    changes = {"Modality": "CT", "RescaleSlope": "1", "RescaleIntercept": "-1024"}
    dataset = with_pixels(make_chest(**changes), hu + 1024)
    picture = only(dataset, profile)

    assert picture[0, 0] == 0 and picture[1, 0] == picture[1, 1] == 255 and 126 <= picture[0, 1] <= 129
    both = render(dataset, DeidProfile.shipped(ct_windows=["lung", "bone"]))
    assert [one.window for one in both] == ["lung", "bone"]


def test_padding_is_black_and_not_asked_for_a_window(make_chest: Make, profile: DeidProfile) -> None:
    values = np.full((20, 20), -2000, dtype="<i2")
    values[5:15, 5:15] = np.arange(100).reshape(10, 10)
    dataset = with_pixels(
        make_chest(WindowCenter=None, WindowWidth=None, PhotometricInterpretation="MONOCHROME1"), values
    )
    dataset.PixelPaddingValue = -2000
    picture = only(dataset, profile)

    assert np.all(picture[:5] == 0)
    assert picture[5, 5] == 255 and picture[14, 14] == 0


def test_old_overlays_in_high_bits_are_cleared(make_chest: Make, profile: DeidProfile) -> None:
    plain = only(with_pixels(make_chest(), RAMP, BitsStored=12), profile)
    dirty = only(with_pixels(make_chest(), RAMP | 0x8000, BitsStored=12), profile)

    assert np.array_equal(plain, dirty)


@pytest.mark.parametrize("form", ["numbers", "words", "bytes"])
def test_a_voi_table_wins_over_the_window(make_chest: Make, profile: DeidProfile, form: str) -> None:
    falling = np.arange(255, -1, -1, dtype="<u2")
    table = Dataset()
    table.LUTDescriptor = [256, 0, 8 if form == "bytes" else 16]
    table.LUTData = (
        falling.tolist() if form == "numbers" else falling.astype("u1" if form == "bytes" else "<u2").tobytes()
    )
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US" if form == "numbers" else "OW"
    values = np.arange(256, dtype="u1").reshape(16, 16)
    picture = only(with_pixels(make_chest(VOILUTSequence=Sequence([table])), values), profile)

    assert picture[0, 0] == 255 and picture[-1, -1] == 0


def test_a_modality_table_comes_before_the_window(make_chest: Make, profile: DeidProfile) -> None:
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [3, 1, 16], "US", [1000, 0, 500]
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    dataset = make_chest(ModalityLUTSequence=Sequence([table]), WindowCenter="500.5", WindowWidth="1001")
    picture = only(with_pixels(dataset, np.array([[0, 1], [2, 3], [9, 9]], dtype="<u2")), profile)

    assert picture.tolist() == [[255, 255], [0, 128], [128, 128]]


def test_a_window_that_draws_nothing_is_replaced_by_quantiles(make_chest: Make, profile: DeidProfile) -> None:
    picture = render(with_pixels(make_chest(WindowCenter="60000", WindowWidth="10"), RAMP), profile)[0]

    assert picture.window == "percentile" and np.ptp(picture.pixels) == 255


def test_a_window_that_is_none_is_replaced_by_quantiles(make_chest: Make, profile: DeidProfile) -> None:
    plain = only(with_pixels(make_chest(WindowCenter=None, WindowWidth=None), RAMP), profile)
    dataset = with_pixels(make_chest(WindowWidth="400"), RAMP)
    dataset["WindowCenter"] = RawDataElement(Tag("WindowCenter"), "DS", 4, b"40,5", 0, False, True)
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 16, 0], bytes(8)
    dataset.VOILUTSequence = Sequence([table])

    assert (only(dataset, profile) == plain).all()


def test_colour_becomes_grey(make_chest: Make, profile: DeidProfile) -> None:
    dataset = make_chest(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 2, 2, 8, 8, 7
    dataset.PixelData = bytes([255, 255, 255, 0, 0, 0, 255, 0, 0, 0, 255, 0])

    assert only(dataset, profile).tolist() == [[255, 0], [76, 150]]


def test_of_many_frames_first_middle_and_last_are_taken(make_chest: Make, profile: DeidProfile) -> None:
    frames = np.arange(5, dtype="<u2")[:, None, None] * 500 + np.arange(4, dtype="<u2").reshape(1, 2, 2) * 100
    pictures = render(with_pixels(make_chest(NumberOfFrames=5), frames), profile)

    assert [one.frame for one in pictures] == [1, 3, 5]
    assert pictures[0].pixels.mean() < pictures[1].pixels.mean() < pictures[2].pixels.mean()


def test_each_frame_has_its_own_window(make_chest: Make, profile: DeidProfile) -> None:
    groups = []
    for centre in (100, 1000):
        voi, group = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = str(centre), "200"
        group.FrameVOILUTSequence = Sequence([voi])
        groups.append(group)
    frame = np.array([[100, 1000]], dtype="<u2")
    dataset = with_pixels(make_chest(NumberOfFrames=2), np.stack([frame, frame]))
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    first, second = render(dataset, profile)

    assert first.pixels.tolist() == [[128, 255]] and second.pixels.tolist() == [[0, 128]]


def test_a_radiograph_that_lies_on_its_side_is_turned(make_chest: Make, profile: DeidProfile) -> None:
    values = np.arange(4, dtype="<u2").reshape(2, 2) * 1000
    upright = only(with_pixels(make_chest(PatientOrientation=["L", "F"]), values), profile)

    assert np.array_equal(only(with_pixels(make_chest(PatientOrientation=["F", "L"]), values.T), profile), upright)
    assert np.array_equal(
        only(with_pixels(make_chest(PatientOrientation=["R", "F"]), values[:, ::-1]), profile), upright
    )
    assert np.array_equal(only(with_pixels(make_chest(PatientOrientation=["L", "H"]), values[::-1]), profile), upright)


def test_the_longest_side_is_limited_and_nothing_is_enlarged(make_chest: Make) -> None:
    small = DeidProfile.shipped(longest_side=32)
    wide = with_pixels(make_chest(), np.tile(RAMP, (2, 4)))

    assert only(wide, small).shape == (16, 32)
    assert only(with_pixels(make_chest(), RAMP), small).shape == (16, 16)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"PixelData": b"\0" * 100}, "truncated"),
        ({"PixelData": None}, "class-refused"),
        ({"Rows": 0}, "class-refused"),
        ({"NumberOfFrames": 5000}, "limit-frames"),
        ({"Rows": 65000, "Columns": 65000}, "limit-size"),
        ({"BitsStored": 40}, "malformed"),
    ],
)
def test_pixels_that_cannot_be_trusted_are_refused(
    make_chest: Make, profile: DeidProfile, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(DeidError) as refused:
        render(make_chest(**changes), profile)

    assert refused.value.code == code


def test_a_broken_compressed_frame_is_refused(make_chest: Make, profile: DeidProfile) -> None:
    packed = make_chest()
    packed.compress(JPEGLSLossless, generate_instance_uid=False)
    packed.PixelData = packed.PixelData[:40] + b"\xff" * 200

    with pytest.raises(DeidError) as refused:
        render(packed, profile)
    assert refused.value.code == "decode-failed"


def test_a_picture_loses_its_metadata_and_a_png_with_text_is_not_read_back(profile: DeidProfile) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Patient", "PLANTED")
    buffer = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(buffer, "PNG", pnginfo=info)
    picture = render_picture(buffer.getvalue(), profile)

    assert b"PLANTED" not in encode_png(picture.pixels)
    assert np.array_equal(decode_png(encode_png(picture.pixels)), picture.pixels)
    with pytest.raises(ValueError, match="chunk"):
        decode_png(buffer.getvalue())


def test_the_three_window_functions_follow_the_standard() -> None:
    values = np.array([0.0, 100.0, 200.0])

    assert window(values, 100, 200, "LINEAR_EXACT").tolist() == [0.0, 0.5, 1.0]
    assert window(values, 100.5, 201, "LINEAR").tolist() == [0.0, 0.5, 1.0]
    assert window(values, 100, 200, "SIGMOID")[1] == 0.5
    assert window(values, 100, 1).tolist() == [0.0, 1.0, 1.0]


def test_frames_are_spread_evenly() -> None:
    assert spread(10, 3) == [0, 4, 9] and spread(2, 3) == [0, 1] and spread(9, 1) == [4]


INK = 4000


def lettered(size: int = 256, ink: int = INK, text: str = "HOLLENSTEIN 482913") -> Any:
    """A ramp with a name in its corner, 12 bits."""
    canvas = Image.new("L", (size, size), 0)
    ImageDraw.Draw(canvas).text((6, 6), text, fill=255, font=ImageFont.load_default(18))
    ramp = np.tile(np.linspace(1500, 2500, size), (size, 1))
    return np.where(np.asarray(canvas) > 127, ink, ramp).astype("<u2")


def test_a_name_in_the_pixels_is_black_in_the_picture(make_chest: Make, profile: DeidProfile) -> None:
    (picture,) = render(with_pixels(make_chest(), lettered(), BitsStored=12), profile)

    assert 0 < picture.blanked_share < 0.1
    assert picture.pixels[10:22, 8:150].max() == 0 and picture.pixels[40:].min() > 0


@pytest.mark.parametrize(
    ("changes", "is_page"),
    [
        ({}, False),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, True),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"}, True),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.4"}, False),
        ({"Modality": "OT"}, True),
        ({"Modality": "CT", "ImageType": ["DERIVED", "PRIMARY", "MPR"]}, True),
        ({"Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY"]}, False),
        ({"Modality": "DX", "ImageType": ["DERIVED", "PRIMARY"]}, False),
    ],
)
def test_a_capture_may_carry_less_text_than_a_radiograph(
    make_chest: Make, profile: DeidProfile, changes: dict[str, Any], is_page: bool
) -> None:
    """A sixth of it is text: a page, or a film with two name plates."""
    pixels = np.full((240, 240), 1500, dtype="<u2")
    for row in (60, 150):
        line = lettered(text="Hollenstein Mathilda 1950", size=240)[:40]
        pixels[row : row + 40] = np.where(line == INK, INK, 1500)
    dataset = with_pixels(make_chest(), pixels, BitsStored=12)
    for name, value in changes.items():
        setattr(dataset, name, value)

    if is_page:
        with pytest.raises(DeidError):
            render(dataset, profile)
    else:
        assert 0.1 < render(dataset, profile)[0].blanked_share < 0.3


@pytest.mark.parametrize(("name", "stays"), [("SCHMIDT^WEI", True), ("LAT^HO", False), ("Schmidt^Lat=李^丽", False)])
def test_a_marker_stays_unless_it_is_the_name_of_the_patient(
    make_chest: Make, profile: DeidProfile, name: str, stays: bool
) -> None:
    dataset = make_chest()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = name
    (picture,) = render(with_pixels(dataset, lettered(text="LAT"), BitsStored=12), profile)

    assert (picture.blanked_share == 0) is stays


def hidden_by_the_window(dataset: FileDataset) -> FileDataset:
    values = lettered()
    values[200:] = 0  # something for the window to draw
    values[220, 7] = 60000  # against which all others look alike
    return with_pixels(dataset, values, WindowCenter="200", WindowWidth="100")


def hidden_in_a_small_part_of_the_range(dataset: FileDataset) -> FileDataset:
    """The upper half is plain white by the window, the letters there a two-hundredth of the range brighter."""
    values = np.tile(np.linspace(0, 3000, 256), (256, 1)).astype("u2")
    values[:60] = 4000
    values[:60][lettered()[:60] == INK] = 4020
    return with_pixels(dataset, values, WindowCenter="1500", WindowWidth="3000")


def hidden_in_colours(dataset: FileDataset) -> FileDataset:
    there = lettered()[..., None] == INK
    colours = np.where(there, (0, 0, 255), (29, 29, 29)).astype("u1")  # both are drawn in the same grey
    with_pixels(dataset, colours[..., 0], PhotometricInterpretation="RGB", SamplesPerPixel=3, PlanarConfiguration=0)
    dataset.PixelData = colours.tobytes()
    return dataset


def hidden_in_the_palette(dataset: FileDataset) -> FileDataset:
    there = lettered() == INK
    values = np.where(there, 2, 0).astype("u1")
    values[60:, 128:] = 1
    with_pixels(dataset, values, PhotometricInterpretation="PALETTE COLOR")
    table = np.array([9000, 20000, 9000], dtype="<u2")
    for colour in ("Red", "Green", "Blue"):
        dataset[f"{colour}PaletteColorLookupTableDescriptor"] = DataElement(
            f"{colour}PaletteColorLookupTableDescriptor", "US", [3, 0, 16]
        )
        setattr(dataset, f"{colour}PaletteColorLookupTableData", table.tobytes())
    return dataset


def hidden_in_padding(dataset: FileDataset) -> FileDataset:
    values = lettered()
    there = values == INK
    values[:60] = 63536
    values[there] = 63530
    return with_pixels(dataset, values, PixelPaddingValue=63536, PixelPaddingRangeLimit=63500)


@pytest.mark.parametrize("hidden", [
    hidden_by_the_window, hidden_in_a_small_part_of_the_range, hidden_in_colours, hidden_in_the_palette,
    hidden_in_padding,
])  # fmt: skip
def test_a_name_that_is_not_drawn_leaves_with_no_file(
    make_chest: Make, profile: DeidProfile, hidden: Callable[[FileDataset], FileDataset]
) -> None:
    dataset = hidden(make_chest())
    assert np.ptp(only(dataset, profile)[4:26, 4:200]) <= 1
    there = lettered() == INK
    try:
        found = pixels.cover(dataset, profile, shipped())
    except DeidError as refused:
        assert refused.code == "burned-in"
    else:
        assert found is not None and found[0][there].mean() > 0.95


@pytest.mark.parametrize("border", [0, 90])
def test_of_ultrasound_what_lies_outside_the_regions_is_gone(
    make_chest: Make, profile: DeidProfile, border: int
) -> None:
    values = np.full((16, 16), 40, dtype=np.uint8)
    values[:4] = 0
    values[1, 2:9] = border
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, 4
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 15, 15
    dataset = with_pixels(make_chest(SequenceOfUltrasoundRegions=Sequence([region])), values)
    dataset.WindowCenter, dataset.WindowWidth = "128", "256"
    (picture,) = render(dataset, profile)

    assert picture.pixels[:4].max() == 0 and picture.pixels[4:].min() > 0
    assert picture.blanked_share == (0.25 if border else 0.0)


def test_a_line_that_reaches_into_a_region_is_gone_there_too(make_chest: Make, profile: DeidProfile) -> None:
    """The last letter of a name in the banner stands in the region; of one beside it nothing reaches in."""
    canvas = Image.new("L", (320, 240), 30)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(20)
    pen.text((20, 100), "Hollenstein", fill=230, font=font)
    pen.text((20, 180), "1950", fill=230, font=font)
    edge = int(20 + font.getlength("Hollenstei"))
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = edge, 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 319, 239
    dataset = with_pixels(make_chest(SequenceOfUltrasoundRegions=Sequence([region])), np.asarray(canvas))
    dataset.WindowCenter, dataset.WindowWidth = "128", "256"
    (picture,) = render(dataset, profile)

    assert picture.pixels[104:118, edge : edge + 12].max() == 0
    assert picture.pixels[150:, edge:].min() > 0


def test_what_is_blanked_is_never_rounded_to_nothing() -> None:
    mask = np.zeros((4000, 4000), dtype=np.bool_)
    assert _share(mask) == 0.0
    mask[:10, :40] = True
    assert _share(mask) == 0.0001
