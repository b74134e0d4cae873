"""Pictures with text drawn in them, in pillow's own typeface, so that the test needs no fonts of the machine."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from client.imaging.burned_in import (
    Mask,
    _told_apart,
    blanked,
    doubtful,
    identifies,
    is_marker,
    is_scale,
    longer,
    searched,
    ultrasound_mask,
)
from client.imaging.networks import Networks
from client.imaging.ocr import Line, Look, Reader
from client.imaging.png import Grey
from federation.errors import DeidError


def body(size: int = 384, noise: float = 6.0) -> Grey:
    """A bright oval with two dark ones in it, and noise."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    shade = 30 + 130 * (np.hypot(x, y) < 0.45) - 90 * (np.hypot(np.abs(x) - 0.17, y) < 0.14)
    noisy = shade + np.random.default_rng(5).normal(0, noise, (size, size))
    return np.asarray(noisy.clip(0, 255).astype(np.uint8))


def lettered(picture: Grey, text: str, at: tuple[int, int], size: int, shade: int, turn: int = 0) -> Grey:
    """The picture with `text` whose upper left corner is at (row, column)."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(text)
    ink = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4), 0)
    ImageDraw.Draw(ink).text((2 - left, 2 - top), text, fill=255, font=font)
    alpha = np.asarray(ink.rotate(turn, expand=True)) / 255
    out = picture.astype(float)
    place = out[at[0] : at[0] + alpha.shape[0], at[1] : at[1] + alpha.shape[1]]
    place[:] = place * (1 - alpha) + shade * alpha
    return np.asarray(out.astype(np.uint8))


def inked(picture: Grey, changed: Grey) -> Grey:
    return np.asarray(np.abs(picture.astype(int) - changed.astype(int)) > 40)


@pytest.mark.parametrize(
    ("text", "at", "size", "shade", "turn"),
    [
        ("HOLLENSTEIN Mathilda", (4, 4), 16, 255, 0),
        ("MRN 482913", (180, 120), 22, 255, 0),
        ("DOB 12.03.1950", (355, 200), 14, 0, 0),
        ("Vandermolen 77213", (60, 350), 18, 255, 90),
        ("Vandermolen 77213", (40, 30), 16, 255, 35),
        ("MRN 063088", (60, 40), 12, 255, 40),
    ],
)
def test_text_is_blanked_whatever_its_place_size_shade_and_turn(
    reader: Reader, text: str, at: tuple[int, int], size: int, shade: int, turn: int
) -> None:
    plain = body()
    if shade == 0:
        plain[340:] = 200
    dirty = lettered(plain, text, at, size, shade, turn)
    ink = inked(plain, dirty)
    found = searched(dirty, reader)

    assert ink.any() and found.mask[ink].mean() > 0.97
    assert found.share < 0.1


@pytest.mark.parametrize("ground", [0, 255])
def test_text_that_only_a_stretched_contrast_shows_is_blanked(reader: Reader, ground: int) -> None:
    plain = body()
    plain[330:] = ground
    dirty = lettered(plain, "DOB 12.03.1950", (345, 20), 20, abs(ground - 4))
    ink = np.abs(plain.astype(int) - dirty.astype(int)) >= 2

    assert ink.sum() > 500 and searched(dirty, reader).mask[ink].mean() > 0.97


def test_a_line_that_an_edge_has_cut_in_half_is_blanked_on_both_of_its_sides(reader: Reader) -> None:
    plain = body()
    whole = lettered(plain, "StudyID: 472661", (30, 8), 14, 255)
    ink = inked(plain, whole)
    first, *_, last = np.nonzero(ink.any(axis=1))[0]
    halves, ink = (np.roll(one, -(first + last) // 2, axis=0) for one in (whole, ink))
    found = searched(halves, reader).mask[ink.astype(bool)]

    assert ink[:8].any() and ink[-8:].any() and found.mean() > 0.97


def test_markers_of_side_and_view_stay_and_so_does_everything_else(reader: Reader) -> None:
    marked = lettered(lettered(body(), "R", (20, 20), 30, 255), "ERECT", (20, 290), 18, 255)
    found = searched(marked, reader)

    assert not found.mask.any()
    assert blanked(marked, found.mask) is marked


def test_a_marker_stays_beside_a_name_that_goes(reader: Reader) -> None:
    plain = lettered(body(), "L", (20, 340), 30, 255)
    found = searched(lettered(plain, "Prendergast", (350, 6), 18, 255), reader)

    assert found.mask[350:, 6:60].any()
    assert not found.mask[:70, 320:].any()


@pytest.mark.parametrize("noise", [0.0, 6.0, 25.0])
def test_a_clean_picture_is_untouched(reader: Reader, noise: float) -> None:
    assert not searched(body(noise=noise), reader).mask.any()


@pytest.mark.parametrize("side", [32, 48, 64])
def test_a_very_small_picture_is_searched_as_it_is(reader: Reader, side: int) -> None:
    """Slopes and steps fill it from edge to edge: levelled, they would look like strokes."""
    down, across = np.mgrid[:side, :side]
    slope = (255 * (down + across) / (2 * side - 2)).astype(np.uint8)
    steps = ((down * side + across) % 256).astype(np.uint8)

    assert not searched(slope, reader).anything and not searched(steps, reader).anything
    with pytest.raises(DeidError):  # any line is more than a tenth of it
        searched(lettered(slope // 3, "DOE", (2, 1), 10, 255), reader)


def test_a_page_full_of_text_is_refused(reader: Reader) -> None:
    page = np.zeros((384, 384), dtype=np.uint8)
    for row in range(10, 360, 34):
        page = lettered(page, "Hollenstein Mathilda 1950", (row, 8), 26, 255)

    with pytest.raises(DeidError) as refused:
        searched(page, reader)
    assert refused.value.code == "burned-in"


@pytest.mark.parametrize(
    ("text", "confidence", "score", "goes"),
    [
        ("R", 0.9, 0.9, False), ("PA ERECT", 0.9, 0.9, False), ("Rt.", 0.9, 0.9, False), ("R. Hollen", 0.9, 0.9, True),
        ("1950", 0.9, 0.9, True), ("Müller", 0.6, 0.6, True), ("E", 0.95, 0.8, True), ("E", 0.4, 0.8, False),
        ("E", 0.4, 0.9, True),
        ("~", 0.1, 0.5, False), ("", 0.0, 0.9, True), ("", 0.0, 0.5, False), ("R", 0.2, 0.5, False),
        ("Li", 0.9, 0.9, True), ("LI", 0.9, 0.9, False), ("li", 0.9, 0.9, False), ("R 王明", 0.9, 0.9, True),
        ("A.P.", 0.9, 0.9, False), ("I.F.", 0.9, 0.9, True), ("S. I", 0.9, 0.9, True), ("A P", 0.9, 0.9, False),
        ("APERECT", 0.9, 0.9, False), ("LIRE", 0.9, 0.9, True), ("PALI", 0.9, 0.9, True),
    ],
)  # fmt: skip
def test_what_a_line_says_decides(text: str, confidence: float, score: float, goes: bool) -> None:
    assert identifies(Line(0, 0, 10, 30, text, confidence, score), (400, 400)) is goes


def test_a_marker_that_is_the_name_of_the_patient_goes_and_the_others_stay(reader: Reader) -> None:
    plain = body(384)
    dirty = lettered(lettered(plain, "LAT", (60, 40), 24, 255), "AP", (60, 300), 24, 255)
    name = inked(plain, lettered(plain, "LAT", (60, 40), 24, 255))
    view = inked(plain, lettered(plain, "AP", (60, 300), 24, 255))

    assert not searched(dirty, reader).anything
    mask = searched(dirty, reader, names=frozenset({"lat", "ho"})).mask
    assert mask[name].all() and not mask[view].any()


@pytest.mark.parametrize(
    ("line", "goes"),
    [
        (Line(0, 0, 52, 350, "Dr.Yamanote", 0.66, 0.94), True),
        (Line(0, 0, 52, 350, "Dr.Yamanote", 0.66, 0.88), False),
        (Line(0, 0, 52, 70, "dad", 0.6, 0.94), False),
        (Line(0, 0, 52, 350, "新餐", 0.08, 0.98), False),
        (Line(0, 0, 52, 150, "Meyer", 0.9, 0.6), True),
        (Line(0, 0, 67, 220, "ih", 0.34, 0.93), True),
        (Line(0, 0, 50, 121, "寇", 0.53, 0.95), True),
        (Line(0, 0, 52, 130, "Yo", 0.9, 0.8), True),
        (Line(0, 0, 52, 180, "NY", 0.9, 0.8), False),
    ],
)
def test_large_letters_read_well_or_are_a_line_beyond_doubt(line: Line, goes: bool) -> None:
    """Letters of dots and of other scripts are found and read badly; a bone is not as long."""
    assert identifies(line, (380, 510)) is goes


@pytest.mark.parametrize(
    ("line", "stays"),
    [
        (Line(0, 0, 30, 36, "R", 0.6, 0.9), True), (Line(0, 0, 30, 60, "R", 0.9, 0.9), True),
        (Line(0, 0, 30, 70, "A", 0.63, 0.96), False), (Line(0, 0, 30, 106, "a a", 0.52, 0.94), False),
        (Line(0, 0, 30, 80, "A P", 0.6, 0.9), True), (Line(0, 0, 40, 240, "ERECT", 0.6, 0.9), False),
        (Line(0, 0, 30, 150, "UPINE", 0.9, 0.9), True), (Line(0, 0, 30, 150, "RAP UPINE", 0.9, 0.9), True),
        (Line(0, 0, 30, 150, "WRIGHT", 0.9, 0.9), False), (Line(0, 0, 30, 150, "RECT", 0.9, 0.9), False),
    ],
)  # fmt: skip
def test_a_marker_fills_its_box_unless_it_reads_well(line: Line, stays: bool) -> None:
    """A word of another script reads as a letter now and then."""
    assert is_marker(line) is stays


def test_a_large_word_of_letters_that_the_reader_does_not_know_goes(reader: Reader) -> None:
    """Each letter on its head: found beyond doubt, and not read well enough for letters as large."""
    picture = np.zeros((320, 330), dtype=np.uint8)
    dirty, at = picture.copy(), 12
    for letter in "abegk":
        one = lettered(np.zeros((42, 30), dtype=np.uint8), letter, (0, 0), 34, 255)[::-1]
        wide = int(one.any(axis=0).nonzero()[0].max()) + 2
        dirty[12:54, at : at + wide] = one[:, :wide]
        at += wide

    mask = searched(dirty, reader, most=0.5).mask
    assert mask[inked(picture, dirty)].mean() > 0.98


@pytest.mark.parametrize(
    ("line", "holds_back"),
    [
        (Line(0, 0, 10, 30, "", 0.0, 0.82), True),
        (Line(0, 0, 10, 30, "kn", 0.45, 0.62), True),
        (Line(0, 0, 10, 30, "?", 0.1, 0.55), False),
        (Line(0, 0, 9, 30, "3890", 0.29, 0.55), False),
        (Line(0, 0, 9, 25, "GL", 0.62, 0.46), False),
        (Line(0, 0, 9, 30, "3890", 0.5, 0.65), True),
        (Line(0, 0, 7, 11, "99", 0.68, 0.53), False),
        (Line(0, 0, 10, 12, "?", 0.2, 0.7), False),
        (Line(0, 0, 10, 12, "?", 0.2, 0.9), True),
        (Line(0, 0, 36, 50, "?", 0.3, 0.91), False),
        (Line(0, 0, 60, 140, "OD", 0.38, 0.7), False),
        (Line(0, 0, 10, 30, "AP", 0.9, 0.9), False),
    ],
)
def test_what_may_be_text_holds_the_study_back(line: Line, holds_back: bool) -> None:
    assert doubtful(line, (400, 400)) is holds_back


def smudged() -> Grey:
    """A body with rows of strokes that nobody can read, where the readers below see lines."""
    picture, random = body(), np.random.default_rng(7)
    smudge = np.kron(random.random((4, 24)) < 0.5, np.ones((3, 2))) * 250
    picture[39:51, 0:48] = smudge
    for row in range(101, 370, 40):
        picture[row : row + 12, 42:90] = smudge
    return picture


class Told(Look):
    """A look that sees what it is told."""

    def __init__(self, lines: list[Line]) -> None:
        self._told = lines

    def lines(self) -> list[Line]:
        return self._told

    def closer_lines(self) -> list[Line]:
        return self._told


class DoubtingReader(Reader):
    """Sees one and the same line, of which nobody can be sure, until it is hidden."""

    def __init__(self) -> None:
        pass

    def look(self, picture: Grey, hidden: Mask | None = None) -> Look:
        return Told([Line(40, 0, 50, 30, "", 0.0, 0.82)])


def test_where_doubts_do_not_count_only_what_is_sure_holds_back() -> None:
    with pytest.raises(DeidError):
        searched(smudged(), DoubtingReader())
    assert not searched(smudged(), DoubtingReader(), doubts_count=False).anything
    assert not searched(body(), DoubtingReader()).anything


class OneLineReader(DoubtingReader):
    """Sees some lines until they are hidden; and others, only then."""

    def __init__(self, *seen: Line, later: tuple[Line, ...] = ()) -> None:
        self.seen, self.later = seen, later

    def look(self, picture: Grey, hidden: Mask | None = None) -> Look:
        lines = (*self.seen, *(self.later if hidden is not None and hidden.any() else ()))
        return Told([a for a in lines if hidden is None or not hidden[a.top : a.bottom, a.left : a.right].all()])


def test_a_doubt_no_longer_than_a_letter_is_blanked_where_doubts_count() -> None:
    letter, long = Line(38, 4, 52, 24, "?", 0.3, 0.9), Line(101, 42, 113, 90, "", 0.0, 0.82)

    mask = searched(smudged(), OneLineReader(letter)).mask
    assert mask[38:52, 4:24].all() and mask.mean() < 0.05
    assert not searched(smudged(), OneLineReader(letter), doubts_count=False).anything
    with pytest.raises(DeidError):
        searched(smudged(), OneLineReader(letter, long))


def test_a_marker_of_one_drawing_stays_in_the_others_unless_it_reads_as_a_word_there() -> None:
    side, other = Line(200, 40, 240, 80, "R", 0.9, 0.9), Line(202, 42, 239, 78, "7", 0.99, 0.89)
    picture = body()

    seen = searched(picture, OneLineReader(side))
    assert not seen.anything and seen.markers == (side,)
    beside = Line(200, 100, 240, 200, "Meyer", 0.95, 0.9)
    assert searched(picture, OneLineReader(other, beside)).mask[210:230, 50:70].all()
    kept = searched(picture, OneLineReader(other, beside), marked=seen.markers).mask
    assert not kept[210:230, 42:60].any() and kept[200:240, 100:200].all()
    name = Line(200, 38, 240, 84, "Roe", 0.95, 0.9)
    assert searched(picture, OneLineReader(name), marked=seen.markers).mask[200:240, 40:80].all()


def test_what_shows_beside_text_when_that_is_blanked_goes_too() -> None:
    name, rest = Line(101, 100, 113, 180, "Meyer", 0.95, 0.9), Line(101, 42, 113, 90, "1", 0.2, 0.5)
    far = Line(181, 42, 193, 90, "", 0.0, 0.82)

    mask = searched(smudged(), OneLineReader(name, later=(rest,))).mask
    assert mask[101:113, 42:180].all() and mask.mean() < 0.1
    with pytest.raises(DeidError):
        searched(smudged(), OneLineReader(name, later=(rest, far)))


def test_what_stands_between_two_parts_of_a_line_goes_unless_a_marker_does() -> None:
    first, second = Line(101, 40, 121, 110, "Kenji", 0.95, 0.9), Line(99, 180, 121, 260, "guyen", 0.95, 0.9)
    far, large = replace(second, left=300, right=370), replace(second, top=80, bottom=130, left=200)
    marker = Line(101, 130, 121, 150, "R", 0.99, 0.9)

    assert searched(body(), OneLineReader(first, second)).mask[101:121, 40:260].all()
    for other in (far, large, replace(second, top=140, bottom=160)):
        assert not searched(body(), OneLineReader(first, other)).mask[101:121, 138:142].any()
    assert not searched(body(), OneLineReader(first, second, marker)).mask[101:121, 132:148].any()
    turned = [Line(a.left, a.top, a.right, a.bottom, a.text, a.confidence, a.score) for a in (first, second)]
    assert searched(body(), OneLineReader(*turned)).mask[40:260, 101:121].all()


class RulerReader(DoubtingReader):
    """Sees the numbers of a ruler along an edge, or the same number of years."""

    def __init__(self, text: str) -> None:
        self.text = text

    def look(self, picture: Grey, hidden: Mask | None = None) -> Look:
        seen = [Line(row, 320, row + 20, 370, self.text, 0.97, 0.9) for row in range(10, 370, 28)]
        return Told([line for line in seen if hidden is None or not hidden[line.top : line.bottom, 320:370].all()])


def test_the_numbers_of_a_ruler_are_no_page_of_text() -> None:
    assert searched(body(), RulerReader("120-")).mask[10:30, 320:370].all()
    assert searched(body(), RulerReader("40 cm")).share > 0.1
    for text in ("1950", "12 A", "Li"):
        with pytest.raises(DeidError):
            searched(body(), RulerReader(text))


def test_the_numbers_of_a_ruler_that_are_read_as_one_are_no_page_either() -> None:
    for text in ("0 10 20 30 40 50 60 70", "23456789101", "102030405060708090100110"):
        seen = Line(20, 300, 370, 330, text, 0.9, 0.9)
        assert is_scale(seen) and searched(body(), OneLineReader(seen)).share > 0.1
    around = Line(14, 296, 376, 336, "CL114567499528", 0.4, 0.9)
    assert searched(body(), OneLineReader(around, seen)).share > 0.1
    for text in ("06 11 1950 12 30", "33660564", "1020304 Li", "70 60 50 40 30", "50505050"):
        with pytest.raises(DeidError):
            searched(body(), OneLineReader(replace(seen, text=text)))


class TwoLineReader(DoubtingReader):
    """Sees a name and, as long as it is not hidden, a doubtful line below it; or ever new ones."""

    def __init__(self, *, endless: bool = False) -> None:
        self.endless, self.asked = endless, 0

    def look(self, picture: Grey, hidden: Mask | None = None) -> Look:
        self.asked += 1
        row = 100 + 40 * self.asked * self.endless
        seen = [Line(40, 40, 60, 140, "Meyer", 0.95, 0.9), Line(row, 40, row + 14, 90, "", 0.0, 0.82)]
        return Told([line for line in seen if hidden is None or not hidden[line.top : line.bottom, 40:90].all()])


def test_a_doubt_beside_sure_text_goes_with_it_where_doubts_go() -> None:
    with pytest.raises(DeidError):
        searched(smudged(), TwoLineReader())
    mask = searched(smudged(), TwoLineReader(), doubts_go=True).mask

    assert mask[40:60, 40:140].all() and mask[100:114, 40:90].all() and mask.mean() < 0.1
    with pytest.raises(DeidError):
        searched(smudged(), TwoLineReader(endless=True), doubts_go=True, most=0.5)
    with pytest.raises(DeidError):
        searched(smudged(), DoubtingReader(), doubts_go=True)


@pytest.mark.parametrize("letter", ["G", "J", "7"])
def test_a_letter_all_alone_is_nobody_and_stays(reader: Reader, letter: str) -> None:
    assert not searched(lettered(body(), letter, (170, 250), 26, 255), reader).anything


@pytest.mark.parametrize(("text", "pitch"), [("XU", 34), ("JOHN", 44)])
def test_two_letters_and_more_wide_apart_are_not_alone(reader: Reader, text: str, pitch: int) -> None:
    plain = lined = body()
    for place, letter in enumerate(text):
        lined = lettered(lined, letter, (340, 40 + pitch * place), 22, 255)
    try:
        assert searched(lined, reader).mask[inked(plain, lined)].mean() > 0.9
    except DeidError as held:
        assert held.code == "burned-in"


@pytest.mark.parametrize(("text", "at"), [("ID: 33660564", (300, 190)), ("Dr. Li", (300, 190)), ("Dr. Li", (180, 120))])
def test_a_line_of_small_letters_that_stands_alone_is_found(reader: Reader, text: str, at: tuple[int, int]) -> None:
    plain = body(512)
    dirty = lettered(plain, text, at, 10, 60 if at == (180, 120) else 190)
    ink = inked(plain, dirty)

    assert ink.any() and searched(dirty, reader).mask[ink].mean() > 0.97
    assert not searched(plain, reader).anything


@pytest.mark.parametrize(("text", "shade"), [("WU", 0), ("NG", 255), ("HO", 0), ("HO", 255)])
def test_a_small_name_of_two_letters_is_found_in_capitals_too(reader: Reader, text: str, shade: int) -> None:
    plain = body(448)
    dirty = lettered(plain, text, (180, 120), 9, shade)

    assert searched(dirty, reader).mask[inked(plain, dirty)].mean() > 0.97


@pytest.mark.parametrize(("text", "at", "seed"), [("Petrov, Yuki", (50, 330), 17), ("Hosp. San Jose", (384, 298), 21)])
def test_a_line_of_the_smallest_letters_is_found_askew_and_in_noise(
    reader: Reader, text: str, at: tuple[int, int], seed: int
) -> None:
    noise = np.random.default_rng(seed).normal(0, 4, (448, 448))
    plain = np.asarray((body(448) + noise).clip(0, 255).astype(np.uint8))
    dirty = lettered(plain, text, at, 7, 255, 8)

    assert searched(dirty, reader).mask[inked(plain, dirty)].mean() > 0.97


@pytest.mark.parametrize("turn", [0, 1, 3])
def test_letters_that_stand_wide_apart_are_found_to_both_ends(reader: Reader, turn: int) -> None:
    plain = body(448)
    dirty = plain
    for place, letter in enumerate("646768035"):
        dirty = lettered(dirty, letter, (150, 60 + 36 * place), 14, 60)
    ink = np.rot90(np.abs(plain.astype(int) - dirty.astype(int)) > 25, turn)

    assert ink.any() and searched(np.ascontiguousarray(np.rot90(dirty, turn)), reader).mask[ink].mean() > 0.97


@pytest.mark.parametrize(
    ("line", "goes"),
    [
        (Line(376, 90, 384, 130, "DOLO", 0.7, 0.75), False),
        (Line(376, 90, 384, 130, "Dolores", 0.95, 0.75), True),
        (Line(368, 90, 376, 130, "DOLO", 0.7, 0.75), True),
        (Line(90, 376, 130, 384, "DOLO", 0.7, 0.75), False),
        (Line(369, 90, 384, 160, "DOLO", 0.7, 0.75), True),
        (Line(376, 90, 384, 153, "DOLO", 0.7, 0.84), True),
        (Line(366, 90, 384, 121, "感", 0.4, 0.91), False),
        (Line(366, 90, 384, 127, "感", 0.4, 0.91), True),
        (Line(366, 90, 384, 121, "Li Re", 0.9, 0.91), True),
    ],
)
def test_what_a_mirrored_border_makes_of_noise_is_no_text(line: Line, goes: bool) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (384, 384), dtype=np.uint8)

    found, doubts = _told_apart([line], np.zeros((384, 384), dtype=np.bool_), noise)
    assert bool(found) is goes and not (doubts and not goes)


def test_smooth_shades_are_no_text_however_sure_the_detector_is() -> None:
    slope = np.add.outer(np.arange(256), np.arange(256)).astype(np.uint8) // 2
    strokes = slope.copy()
    for column in (60, 64, 75, 80, 92, 95, 99, 110, 117):
        strokes[100:112, column] += 4
    line, nothing = Line(98, 58, 114, 122, "", 0.0, 0.91), np.zeros((256, 256), dtype=np.bool_)

    assert _told_apart([line], nothing, slope) == ([], [])
    assert _told_apart([line], nothing, strokes)[0] == [line]
    assert _told_apart([replace(line, text="Ana 1950", confidence=0.9)], nothing, slope)[0]


@pytest.mark.parametrize("turn", [0, 90])
def test_a_line_that_was_found_in_part_is_followed_to_its_end(turn: int) -> None:
    bright = np.where(np.arange(384) < 150, 30, 200)[None, :] + np.zeros((384, 1))
    noisy = (bright + np.random.default_rng(5).normal(0, 3, (384, 384))).clip(0, 255).astype(np.uint8)
    written = lettered(noisy, "Hollenstein Mathilda", (100, 60), 20, 255)
    long = int(np.nonzero(inked(noisy, written).any(axis=0))[0].max()) - 60
    picture = np.ascontiguousarray(np.rot90(written, turn // 90))
    found = Line(96, 60, 120, 150, "Hollen", 0.9, 0.9) if not turn else Line(234, 96, 324, 120, "Hollen", 0.9, 0.9)
    whole = longer(found, picture)

    assert whole.height == found.height and long - 24 <= whole.length <= long + 24 and long > 150
    assert longer(found, np.ascontiguousarray(np.rot90(noisy, turn // 90))) == found


def test_an_outline_that_looks_like_a_letter_is_no_text() -> None:
    assert not identifies(Line(94, 37, 294, 318, "8", 0.97, 0.87), (384, 384))
    assert not identifies(Line(213, 312, 258, 320, "1902760", 0.51, 0.44), (384, 384))
    assert not identifies(Line(135, 160, 249, 367, "aa", 0.5, 0.77), (512, 512))
    assert identifies(Line(135, 160, 249, 367, "Hollen", 0.95, 0.9), (512, 512))
    assert identifies(Line(94, 20, 294, 378, "Hollen", 0.97, 0.9), (384, 384))


def test_of_ultrasound_only_the_regions_of_the_header_stay() -> None:
    region, dataset = Dataset(), Dataset()
    dataset.Rows = dataset.Columns = 100
    assert ultrasound_mask(dataset) is None

    region.RegionLocationMinX0, region.RegionLocationMinY0 = 10, 30
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 89, 94
    dataset.SequenceOfUltrasoundRegions = Sequence([region])
    mask = ultrasound_mask(dataset)

    assert mask is not None and mask.sum() == 100 * 100 - 80 * 65 and not mask[30, 10]

    region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
    region.RegionLocationMaxX1 = region.RegionLocationMaxY1 = 99
    assert ultrasound_mask(dataset) is None  # nothing is outside


def test_without_the_weights_nothing_is_read(tmp_path: Path) -> None:
    with pytest.raises(DeidError) as refused:
        Networks.open(tmp_path)

    assert refused.value.code == "ocr-missing"
