"""Pictures of things that read as letters, beside the letters that they must not be taken for."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from client.imaging.lookalikes import is_alone, is_ground, is_one_stroke, is_repeated, is_shade_scale
from client.imaging.ocr import Line
from client.imaging.png import Grey

NOTHING = np.zeros((256, 320), dtype=np.bool_)


def lettered(text: str, at: tuple[int, int], size: int = 24, pitch: int = 0, ground: Grey | None = None) -> Grey:
    """Text on noise; with a pitch, a letter every so many pixels."""
    if ground is None:
        ground = np.random.default_rng(4).normal(60, 2, NOTHING.shape).astype(np.uint8)
    image, font = Image.fromarray(ground), ImageFont.load_default(size)
    for place, part in enumerate(text if pitch else [text]):
        ImageDraw.Draw(image).text((at[1] + place * pitch, at[0]), part, fill=220, font=font, anchor="lt")
    return np.asarray(image)


def glyph(text: str = "G", confidence: float = 0.98) -> Line:
    return Line(96, 96, 124, 120, text, confidence, 0.9)


@pytest.mark.parametrize("text", ["G", "1", "", "。"])
def test_a_glyph_with_nothing_beside_it_is_alone(text: str) -> None:
    assert is_alone(glyph(text), [], NOTHING, lettered("G", (100, 100)))


def test_more_than_one_letter_is_never_alone() -> None:
    assert not is_alone(glyph("Gi"), [], NOTHING, lettered("G", (100, 100)))
    assert not is_alone(glyph("?"), [], NOTHING, lettered("Li", (100, 98)))
    assert not is_alone(Line(96, 96, 124, 160, "", 0.0, 0.9), [], NOTHING, lettered("G", (100, 100)))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("pitch", [24, 40, 60])
def test_letters_wide_apart_are_not_alone(pitch: int, turned: bool) -> None:
    picture = lettered("JOHN", (100, 100), pitch=pitch)
    line = glyph("J")
    if turned:
        picture, line = np.ascontiguousarray(picture.T), Line(96, 96, 120, 124, "J", 0.98, 0.9)

    assert not is_alone(line, [], np.zeros(picture.shape, dtype=np.bool_), picture)


def test_a_glyph_beside_another_line_or_beside_what_was_blanked_is_not_alone() -> None:
    picture, mask = lettered("G", (100, 100)), NOTHING.copy()
    beside, far = Line(98, 150, 124, 220, "", 0.0, 0.5), Line(200, 150, 224, 220, "Meyer", 0.9, 0.9)
    again = Line(95, 94, 126, 122, "O", 0.6, 0.8)
    mask[90:130, 180:260] = True

    assert not is_alone(glyph(), [glyph(), beside], NOTHING, picture)
    assert is_alone(glyph(), [glyph(), again, far], NOTHING, picture)
    assert not is_alone(glyph(), [], mask, picture)


def test_a_disc_in_a_ring_is_one_mark() -> None:
    image = Image.fromarray(np.full(NOTHING.shape, 60, dtype=np.uint8))
    ImageDraw.Draw(image).ellipse((98, 98, 120, 120), outline=220, width=2)
    ImageDraw.Draw(image).ellipse((104, 104, 114, 114), fill=220)

    assert is_alone(Line(95, 95, 124, 124, "。", 0.7, 0.9), [], NOTHING, np.asarray(image))


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        (Line(60, 60, 90, 150, "C", 0.63, 0.89), True),
        (Line(60, 60, 90, 150, "/m", 0.52, 0.83), True),
        (Line(60, 60, 90, 150, "T", 0.97, 0.71), True),
        (Line(60, 60, 90, 150, "", 0.0, 0.89), False),
        (Line(60, 60, 90, 150, "Cox", 0.63, 0.89), False),
        (Line(60, 60, 74, 150, "C", 0.63, 0.89), False),
        (Line(60, 60, 90, 120, "C", 0.63, 0.89), False),
    ],
)
def test_a_long_box_of_legible_size_that_reads_as_one_letter_is_a_wire(line: Line, is_one: bool) -> None:
    assert is_one_stroke(line) is is_one


def ticks(pitch: int, thick: int) -> Grey:
    picture = np.random.default_rng(4).normal(60, 2, NOTHING.shape)
    for column in range(40, 240, pitch):
        picture[100:118, column : column + thick] = 210
    return np.asarray(picture.astype(np.uint8))


@pytest.mark.parametrize(("pitch", "thick"), [(8, 2), (12, 3), (20, 8)])
def test_a_mark_over_and_over_is_repeated(pitch: int, thick: int) -> None:
    picture = ticks(pitch, thick)
    level = Line(96, 60, 122, 200, "111", 0.9, 0.9)
    upright = Line(60, 96, 200, 122, "", 0.0, 0.9)

    assert is_repeated(level, picture) and is_repeated(upright, np.ascontiguousarray(picture.T))
    assert is_repeated(replace(level, text="711111"), picture)
    assert not is_repeated(replace(level, text="11119911"), picture)


@pytest.mark.parametrize("text", ["Hollenstein", "06.11.1950", "11119911", "1000001", "MMW Hill", "illiterate"])
def test_text_is_not_repeated_however_badly_it_reads(text: str) -> None:
    for ground in (None, np.full(NOTHING.shape, 60, dtype=np.uint8)):
        picture = lettered(text, (100, 40), ground=ground)
        right = 44 + int(np.nonzero((picture > 150).any(axis=0))[0].max()) - 40

        assert not is_repeated(Line(96, 36, 126, right, "", 0.0, 0.9), picture)


def gridded(ground: Grey) -> Grey:
    picture = ground.copy()
    picture[20::60, :] = picture[:, 30::60] = 250
    return picture


@pytest.mark.parametrize("line", [Line(90, 40, 130, 80, "R", 0.5, 0.8), Line(82, 8, 112, 280, "RA", 0.56, 0.79)])
def test_a_cell_of_a_grid_is_ground_unless_it_reads_well_or_is_written_in(line: Line) -> None:
    empty = gridded(np.random.default_rng(4).normal(60, 2, NOTHING.shape).astype(np.uint8))

    assert is_ground(line, NOTHING, empty)
    assert not is_ground(replace(line, confidence=0.7), NOTHING, empty)
    assert not is_ground(replace(line, score=0.9), NOTHING, empty)
    assert not is_ground(line, NOTHING, lettered("Hill", (90, 42), 16, ground=empty))


@pytest.mark.parametrize("text", ["Hollenstein", "06.11.1950", "Li"])
def test_text_on_a_grid_is_no_ground_however_badly_it_reads(text: str) -> None:
    for top in (60, 70, 76, 90):
        empty = gridded(np.random.default_rng(4).normal(160, 4, NOTHING.shape).astype(np.uint8))
        picture = lettered(text, (top, 40), 14, ground=empty)
        right = 44 + int(np.nonzero((picture != empty).any(axis=0))[0].max()) - 40

        assert not is_ground(Line(top - 3, 36, top + 15, right, "", 0.0, 0.8), NOTHING, picture)


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("both_ways", [False, True])
def test_a_bar_that_goes_through_the_shades_is_a_scale(both_ways: bool, upright: bool) -> None:
    picture = np.random.default_rng(2).integers(0, 12, (256, 320)).astype(np.uint8)
    shades = np.abs(np.linspace(-250, 250, 120)) if both_ways else np.linspace(250, 10, 120)
    picture[60:70, 40:160] = shades
    line = Line(55, 36, 76, 166, "", 0.0, 0.9)
    if upright:
        picture, line = picture.T, Line(36, 55, 166, 76, "", 0.0, 0.9)

    assert is_shade_scale(line, picture) and is_shade_scale(replace(line, text="一", confidence=0.6), picture)
    assert not is_shade_scale(replace(line, text="Meyer", confidence=0.9), picture)


@pytest.mark.parametrize("text", ["MEYER, HANS", "12.04.1950", "IIIIIIIIIII", "lilllijl", "__________", "- - - - -"])
@pytest.mark.parametrize("size", [10, 16, 24, 40])
def test_a_line_that_could_not_be_read_is_no_scale(text: str, size: int) -> None:
    picture = lettered(text, (100, 20), size)
    rows, columns = np.nonzero(picture > 120)
    line = Line(rows.min() - 4, columns.min() - 4, rows.max() + 5, columns.max() + 5, "", 0.0, 0.9)

    assert not is_shade_scale(line, picture)
