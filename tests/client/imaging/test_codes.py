"""Codes that the library writes itself, drawn into pictures of all kinds, and whether anything of them can be read."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zxingcpp
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset
from zxingcpp import BarcodeFormat

from client.imaging.burned_in import SHARE_MAX, blanked, crossing, searched
from client.imaging.codes import found, without_codes
from client.imaging.export import export
from client.imaging.ocr import Reader, shipped
from client.imaging.pixels import render
from client.imaging.png import Grey
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from federation.errors import DeidError

WHO = "HOLLENSTEIN 12.03.1950"
CODES = {
    "QRCode": WHO, "MicroQRCode": "MRN482913", "RMQRCode": WHO, "DataMatrix": WHO, "Aztec": WHO, "PDF417": WHO,
    "Code128": "MRN482913", "Code39": "MRN48291", "Code93": "MRN482913", "EAN13": "748291300123", "EAN8": "7482913",
    "ITF": "7482913001", "Codabar": "A7482913B", "UPCA": "74829130012",
}  # fmt: skip
BARS = ("Code128", "Code39", "Code93", "ITF", "Codabar")


def slope(rows: int = 420, columns: int = 640, noise: float = 4.0) -> Grey:
    """Shades as in a radiograph: bright in the middle, dark at the sides, and noise."""
    y, x = np.mgrid[:rows, :columns]
    shade = 40 + 130 * np.sin(np.pi * x / columns) * (0.6 + 0.4 * y / rows)
    return np.asarray((shade + np.random.default_rng(3).normal(0, noise, shade.shape)).clip(0, 255).astype(np.uint8))


def label(kind: str, scale: float = 3, turn: float = 0, *, inverted: bool = False, text: bool = False) -> Image.Image:
    """A code with its quiet zone; the second channel is where it covers what is below."""
    code = zxingcpp.create_barcode(CODES[kind], getattr(BarcodeFormat, kind))
    drawn = Image.fromarray(np.asarray(code.to_image(scale=2 if text else 1, add_hrt=text)))
    if inverted:
        drawn = Image.eval(drawn, lambda shade: 255 - shade)
    size = round(drawn.width * scale / (1 + text)), round(drawn.height * scale / (1 + text))
    both = Image.merge("LA", (drawn.resize(size, Image.Resampling.NEAREST), Image.new("L", size, 255)))
    return both.rotate(turn, resample=Image.Resampling.BILINEAR, expand=True)


def labelled(picture: Grey, code: Image.Image, at: tuple[int, int] = (40, 30)) -> Grey:
    """The picture with a label whose upper left corner is at (row, column)."""
    image = Image.fromarray(picture)
    image.paste(code.getchannel("L"), at[::-1], code.getchannel("A"))
    return np.asarray(image)


def read(picture: Grey) -> list[str]:
    """What somebody who tries hard reads: larger, smaller, inverted, and turned."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    views = [image.resize((image.width * by, image.height * by), Image.Resampling.BILINEAR) for by in (1, 2)]
    views += [image.rotate(turn, expand=True, resample=Image.Resampling.BILINEAR) for turn in (10, 30, 45, -10)]
    both = [view for one in views for view in (one, Image.eval(one, lambda shade: 255 - shade))]
    return [code.text for view in both for code in zxingcpp.read_barcodes(np.asarray(view))]


def rest(picture: Grey) -> Grey:
    return blanked(picture, without_codes(picture, np.zeros(picture.shape, dtype=np.bool_)))


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize(("scale", "inverted"), [(2, False), (3, True), (4.5, False)])
def test_a_code_of_each_kind_is_blanked_dark_or_bright_small_or_large(kind: str, scale: float, inverted: bool) -> None:
    picture = labelled(slope(columns=800), label(kind, scale, inverted=inverted))

    assert read(picture) and not read(rest(picture))


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("turn", [90, 180])
def test_a_code_is_blanked_whichever_edge_is_up(kind: str, turn: int) -> None:
    picture = labelled(slope(640, 640), label(kind, 2, turn))

    assert not read(rest(picture))


@pytest.mark.parametrize("kind", ["QRCode", "DataMatrix", "Aztec", *BARS, "EAN13"])
@pytest.mark.parametrize("turn", [10, 35])
def test_a_label_that_was_stuck_on_askew_goes_too(kind: str, turn: int) -> None:
    picture = labelled(slope(640, 640), label(kind, 2, turn))

    assert not read(rest(picture))


@pytest.mark.parametrize("turn", [0, 10, 35, 90])
def test_all_of_the_bars_go_and_not_only_the_row_that_was_read(turn: int) -> None:
    plain = slope(800, 800, 0)
    picture = labelled(plain, label("Code128", 3, turn))
    ink = (plain.astype(int) - picture > 25) & (picture < 80)

    assert ink.sum() > 3000 and found(picture)[ink].mean() > 0.98


def test_a_code_in_noise_or_faint_on_its_ground_is_blanked() -> None:
    noisy = labelled(slope(), label("QRCode")).astype(float) + np.random.default_rng(1).normal(0, 30, (420, 640))
    faint = 90 + labelled(slope(), label("DataMatrix")).astype(float) * 0.1

    for picture in (noisy.clip(0, 255).astype(np.uint8), faint.astype(np.uint8)):
        assert found(picture)[70:90, 60:80].any() and not read(rest(picture))


def test_each_of_several_codes_goes_and_the_rest_of_the_picture_stays() -> None:
    picture = labelled(labelled(slope(700, 700), label("QRCode"), (10, 10)), label("Code128"), (560, 200))
    clean = rest(picture)

    assert len(set(read(picture))) == 2 and not read(clean)
    assert np.array_equal(clean[200:540], picture[200:540])


@pytest.mark.parametrize("noise", [0.0, 4.0, 40.0])
def test_a_clean_picture_is_untouched(noise: float) -> None:
    assert not found(slope(noise=noise)).any()


@pytest.mark.parametrize("pitch", [3, 5, 8, 13])
def test_rulers_grids_and_test_patterns_are_no_codes(pitch: int) -> None:
    across = np.arange(640)
    ruler = slope()
    ruler[:20, ::pitch] = ruler[:40, :: 10 * pitch] = 230
    stripes = np.tile((across // pitch % 2 * 200).astype(np.uint8), (420, 1))
    checks = ((across[:420, None] // pitch + across // pitch) % 2 * 220).astype(np.uint8)

    assert not any(found(picture).any() for picture in (ruler, stripes, checks))


def test_the_ticks_of_a_ruler_in_noise_are_no_code() -> None:
    picture = np.random.default_rng(3).integers(0, 30, (512, 512)).astype(np.uint8)
    picture[100:420:12, -8:] = 250

    assert not found(picture).any() and not found(np.ascontiguousarray(picture.T)).any()


def test_line_pairs_of_several_widths_are_no_code() -> None:
    pairs = np.repeat(np.tile([20, 230], 60), np.repeat([1, 2, 3, 5], 30))

    assert not found(np.tile(pairs.astype(np.uint8), (120, 1))).any()


@pytest.mark.parametrize("turn", [0, 90, 180])
def test_bars_that_are_cut_so_that_nothing_reads_them_go_all_the_same(turn: int) -> None:
    image = labelled(slope(), label("Code128", 2))
    picture = np.rot90(np.concatenate([image[:, :60], image[:, 110:]], axis=1), turn // 90)
    ink = (picture < 30) & np.rot90(np.arange(590)[None, :] < 300, turn // 90)

    assert not read(picture) and ink.sum() > 2000 and found(picture)[ink].mean() > 0.95


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (3, 900), (24, 24), (73, 71)])
def test_a_small_or_narrow_picture_is_looked_at_as_well(size: tuple[int, int]) -> None:
    assert not found(np.zeros(size, dtype=np.uint8)).any()


def test_the_line_of_text_under_the_bars_goes_with_them(reader: Reader) -> None:
    code = label("Code128", text=True)
    picture = labelled(slope(600, 800), code)
    mask = searched(picture, reader, most=SHARE_MAX).mask
    inside = (slice(44, 36 + code.height), slice(34, 26 + code.width))

    assert not read(blanked(picture, mask)) and mask[inside][picture[inside] < 60].mean() > 0.97


def test_a_page_of_codes_is_refused(reader: Reader) -> None:
    with pytest.raises(DeidError) as refused:
        searched(labelled(slope(200, 200), label("QRCode", 4), (10, 10)), reader)

    assert refused.value.code == "burned-in"


def test_a_code_that_reaches_into_a_region_goes_from_both_of_its_sides(reader: Reader) -> None:
    picture = labelled(slope(), label("QRCode", 4), (40, 40))
    outside = np.zeros(picture.shape, dtype=np.bool_)
    outside[:100] = True

    assert crossing(picture, outside, reader)[100:120, 80:100].all()


def radiograph(make_chest: Callable[..., FileDataset]) -> FileDataset:
    picture = labelled(labelled(slope(600, 700), label("QRCode"), (20, 20)), label("Code128", 2), (500, 100))
    return make_chest(Rows=600, Columns=700, PixelData=(picture.astype("<u2") * 16).tobytes())


def test_what_training_sees_has_no_codes(
    profile: DeidProfile, reader: Reader, make_chest: Callable[..., FileDataset]
) -> None:
    (picture,) = render(radiograph(make_chest), profile, reader)

    assert not read(picture.pixels) and 0.02 < picture.blanked_share < 0.2


def test_what_an_export_writes_has_no_codes(
    tmp_path: Path,
    profile: DeidProfile,
    keys: SiteKeys,
    make_chest: Callable[..., FileDataset],
    save: Callable[[FileDataset, Path], Path],
) -> None:
    source = save(radiograph(make_chest), tmp_path / "in" / "IM0001")
    counts = export(tmp_path / "in", tmp_path / "out", profile, keys, tmp_path / "spool")
    (written,) = (tmp_path / "out").rglob("*.dcm")

    assert counts.written == 1
    assert read((dcmread(source).pixel_array >> 4).astype(np.uint8))
    assert not read((dcmread(written).pixel_array >> 4).astype(np.uint8))


def test_without_the_reader_of_codes_no_picture_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zxingcpp", None)
    shipped.cache_clear()

    for search in (shipped, lambda: found(slope())):
        with pytest.raises(DeidError) as refused:
            search()
        assert refused.value.code == "ocr-missing"
