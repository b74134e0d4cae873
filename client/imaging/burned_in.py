"""Text burned into the pixels: found, read, and blanked unless it is a marker of side or view.

A header that says nothing about burned-in text proves nothing, so every picture that is kept is searched, after
windowing, as a person would see it. `R`, `L`, `AP`, `ERECT` and the like stay, because a reader of the picture needs
them; all other text becomes black. Then the blanked picture is searched again, and text that is still there holds the
study back.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

from client.imaging.codes import found as codes_in
from client.imaging.codes import without_codes
from client.imaging.header import refusal
from client.imaging.identifiers import fold
from client.imaging.lookalikes import (
    SMALL,
    is_alone,
    is_ground,
    is_mirage,
    is_one_stroke,
    is_repeated,
    is_shade_scale,
    is_shading,
)
from client.imaging.ocr import Line, Reader, Slant
from client.imaging.png import Grey
from client.imaging.strokes import stroked

Mask = npt.NDArray[np.bool_]
MARKERS = frozenset(
    "R L RT LT RIGHT LEFT RE LI AP PA LAT LATERAL LL RL OBL OBLIQUE AXIAL ERECT UPRIGHT SUPINE PRONE SEMI SEMIERECT "
    "SITTING STANDING DECUB DECUBITUS PORTABLE MOBILE BEDSIDE INSP EXP INSPIRATION EXPIRATION RAP LAP RPA LPA RLAT "
    "LLAT CC MLO ML LM RCC LCC RMLO LMLO RML LML A P H F S I ANT POST SUP INF".split()
)
_NAMES = frozenset({"Li", "Re"})  # written like this they are a family's name, not German for left and right
_INITIALS = re.compile(r"[A-Za-z](?:\. ?[A-Za-z]){1,2}\.?")
_MARKER_SURE, _MARKER_PLAIN = 0.5, 0.8  # of the reading; of one that may stand for more than its letters fill
_LONG_MARKER = 5  # letters
_READ_SURE, _BOTH_SURE = 0.4, 1.1  # of the reading; of reading and detection together
_LETTER_SURE, _LETTER_SCORE = 0.9, 0.7  # of the reading and of the detection of a single letter
_LETTER_MAX = 0.1  # how tall, as a share of the picture, it may be to be one
_SHORT, _SHORT_READ, _SHORT_BOTH = 1.5, 0.6, 1.2  # length over height below which two letters take more to be sure
_LARGE, _LARGE_SURE = 0.12, 0.85  # letters as tall as this, as a share of the picture, read well,
_LARGE_WIDE = 1.4  # with no letter wider than so many of its heights,
_LARGE_READ, _LARGE_SCORE = 0.2, 0.9  # or at all, where the detector is very sure of a line of them: dotted ones, and
# those of most scripts, which the reader does not know
_LINE_MAX, _HUGE_LETTERS = 0.25, 3  # a line that is thicker, as a share of the picture, is anatomy, if it reads as less
_UNREAD_SURE, _UNREAD_LONG = 0.85, 1.6  # the detector is so sure of a box, as many heights long, that it counts unread
_SMALL_BOTH = 1.3  # of small lines, which noise makes up now and then: they take more to be sure
_DOUBT_SCORE = 0.8  # of a long line that is not blanked, but may be text: it holds the study back
_DOUBT_ANY, _DOUBT_ANY_HEIGHT = 0.88, 0.05  # of a detection, whatever its shape; share of the picture
_DOUBT_READ, _DOUBT_BOTH = 0.3, 1.05  # of one that reads as letters
_DOUBT_LONG = 3  # heights of a small one: grains of noise stand side by side, but not so many in a row
_DOUBT_HEIGHT = 0.1  # and no larger, as a share of the picture
_FOLLOWED = 8  # heights that a line is followed beyond its ends
_PARTED, _PARTED_TALL, _IN_LINE = 4.0, 1.6, 0.6  # of the lower of two parts of a line: between, taller, shared height
_ROUNDS = 3
_WORD_LETTERS, _WORD_READ = 4, 0.8  # of a line that counts where grain has the look of letters
_HIDDEN = 0.5  # of a doubtful line, from which it is gone with a line that was sure
_SMALLEST = 24  # pixels
_MEASURE, _MEASURE_SURE = re.compile(r"[-–_|. ]*\d{1,3}[-–_|. ]*(?:[mc]m)?[-–_|. ]*"), 0.8
_SCALE = 4  # numbers
PAGE_SHARE, SHARE_MAX = 0.1, 0.3  # a capture with more text is a page, as dose reports are; any other picture, useless


@dataclass(frozen=True, repr=False)
class Searched:
    """What a search of one picture came to: the pixels to blank, empty where nothing was found."""

    mask: Mask
    markers: tuple[Line, ...] = ()
    """What stays: in another drawing of the same pixels they may read as something else."""

    @property
    def share(self) -> float:
        return float(self.mask.mean())

    @property
    def anything(self) -> bool:
        return bool(self.mask.any())

    def __repr__(self) -> str:
        return "<Searched: hidden>"


def searched(
    picture: Grey,
    reader: Reader,
    *,
    known: Mask | None = None,
    elsewhere: Mask | None = None,
    marked: Sequence[Line] = (),
    names: frozenset[str] = frozenset(),
    most: float = PAGE_SHARE,
    doubts_count: bool = True,
    doubts_go: bool = False,
    words_only: bool = False,
) -> Searched:
    """Where a picture carries text that has to go; `most` is the share of the picture that may.

    Guarantees: the picture with `mask` blanked was searched again, and nothing was found in it but markers and what
    does not have the look of text. Blanking needs to be sure, for it destroys; holding back needs a doubt only, but
    beside text in a picture full of speckle, ultrasound, the doubt goes, too (`doubts_go`). What is
    `known` from another drawing of the same pixels is in the mask already, and not searched; what of it is `elsewhere`,
    on other frames, does not count towards `most`; what was `marked` as a marker there is one here, too, unless it
    reads as a word. The patient's own `names`, folded, are no markers: a LI may be one. With `words_only` nothing goes
    but what reads as a word beyond doubt.

    | picture | mask |
    |---|---|
    | no text, or markers only | empty: the picture is kept as it is, to the bit |
    | under 24 pixels long, or 8 wide | empty: too small for a name that can be read |
    | text | its lines with a margin |
    | a code that machines read (`codes.py`) | its area with a margin; refused if over `most` of the picture |
    | what may be text, but is too faint or too short to be sure | refused, if `doubts_count` |
    | such a doubt no longer than a letter, or in a row with what was blanked | the doubt, too, if `doubts_count` |
    | such a doubt beside text, if `doubts_go` | the doubt with a margin, too; refused if one is left in the end |
    | text over more than `most` of the picture, the numbers of a ruler aside | refused |

    Raises: DeidError burned-in when text is or may be left after blanking, or too much would have to go.
    """
    known = np.zeros(picture.shape, dtype=np.bool_) if known is None else known
    mask = without_codes(picture, known, most)
    if max(picture.shape) < _SMALLEST or min(picture.shape) < 8:
        return Searched(mask)
    markers = _markers(names)
    picture = blanked(picture, mask)
    look = reader.look(picture, mask)
    seen = _counting(look.lines(), marked, words_only)
    stays = [line for line in seen if is_marker(line, markers)]
    kept = (*marked, *stays)
    if not any(_told_apart(seen, mask, picture, markers)):
        return Searched(mask, kept)
    closer = _counting(look.closer_lines(), marked, words_only)
    found, doubts = _told_apart(seen + closer, mask, picture, markers)
    found += [line for line in doubts if doubts_count and _costs_little(line, mask, markers)]
    if not found and not doubts_count:
        return Searched(mask)
    if not found:
        raise refusal("burned-in", "something in the pixels may be text")
    page = mask.copy() if elsewhere is None else mask & ~elsewhere
    doubts_go = doubts_go and doubts_count
    for _ in range(_ROUNDS):
        if doubts_go:
            found, doubts = found + doubts, []
        for line in (*found, *_between(found, stays)):
            area = _area(longer(line, picture), picture.shape, margins=True)
            mask |= area
            page |= area & (not _on_a_ruler(line, found))
        rest = blanked(picture, mask)
        left = _counting(reader.look(rest, mask).lines(), marked, words_only)
        found, unsure = _told_apart(left, mask, rest, markers)
        found += [line for line in unsure if doubts_count and _costs_little(line, mask, markers)]
        doubts += unsure
        if not found and not (doubts and doubts_go):
            break
    else:
        raise refusal("burned-in", "text is left in the pixels after blanking")
    if doubts_count and any(mask[_area(line, picture.shape)].mean() < _HIDDEN for line in doubts):
        raise refusal("burned-in", "something in the pixels may be text")
    if Searched(page).share > most:
        raise refusal("burned-in", "text covers too much of the picture")
    return Searched(mask, kept)


def crossing(picture: Grey, outside: Mask, reader: Reader, names: frozenset[str] = frozenset()) -> Mask:
    """Where lines of text and codes that begin outside of the regions of a picture go on inside of them: what is left
    of a line there, when all that is outside is blanked, is a letter or a half of one, and nobody finds that."""
    mask = np.zeros_like(outside)
    for line in _told_apart(reader.look(picture).lines(), mask, picture, _markers(names))[0]:
        if outside[_area(line, picture.shape)].any():
            mask |= _area(longer(line, picture), picture.shape, margins=True)
    if (outside & (codes := codes_in(picture))).any():
        mask |= codes
    return mask & ~outside


def _markers(names: frozenset[str]) -> frozenset[str]:
    return frozenset(word for word in MARKERS if fold(word) not in names)


def _told_apart(
    seen: list[Line], mask: Mask, picture: Grey, markers: frozenset[str] = MARKERS
) -> tuple[list[Line], list[Line]]:
    """Of the lines outside of the mask, those that have to go, and those that may be text all the same."""
    seen = [line for line in seen if not is_mirage(line, mask.shape)]
    kept = [line for line in seen if is_marker(line, markers)]
    others = seen
    seen = [line for line in seen if not mask[_area(line, mask.shape)].all() and not _is_any(line, kept)]
    seen = [line for line in seen if not is_one_stroke(line) and not is_repeated(line, picture)]
    seen = [line for line in seen if not is_shade_scale(line, picture)]
    seen = [line for line in seen if not is_ground(line, mask, picture)]
    rests = [line for line in seen if _is_rest(line, mask, markers)]
    seen = [line for line in seen if not is_shading(line, picture) and not is_alone(line, others, mask, picture)]
    found = [line for line in seen if identifies(line, mask.shape, markers)]
    return found, rests + [line for line in seen if doubtful(line, mask.shape, markers)]


def identifies(line: Line, picture: tuple[int, ...], markers: frozenset[str] = MARKERS) -> bool:
    """Whether a line has to go: it reads as text and is no marker, or it has the shape of text beyond doubt.

    `picture` is its size, (rows, columns): an outline of a chest can read as a large 8.
    """
    if is_marker(line, markers):
        return False
    letters = line.letters
    if line.height > _LINE_MAX * min(picture):
        return letters >= _HUGE_LETTERS and line.confidence >= _LETTER_SURE
    unread = line.score >= _UNREAD_SURE and line.length >= _UNREAD_LONG * line.height
    stretched = line.length > _LARGE_WIDE * max(1, letters) * line.height
    if line.height > _LARGE * min(picture) and (line.confidence < _LARGE_SURE or stretched):
        return unread and line.score >= _LARGE_SCORE and line.confidence >= _LARGE_READ
    if unread:
        return True
    if letters == 1:
        sure = line.confidence >= _LETTER_SURE and line.score >= _LETTER_SCORE
        return sure and line.length <= _LETTER_MAX * max(picture)
    if letters and line.length < _SHORT * line.height:
        return line.confidence >= _SHORT_READ and line.confidence + line.score >= _SHORT_BOTH
    both = _SMALL_BOTH if line.height < SMALL else _BOTH_SURE
    return letters > 0 and line.confidence >= _READ_SURE and line.confidence + line.score >= both


def doubtful(line: Line, picture: tuple[int, ...], markers: frozenset[str] = MARKERS) -> bool:
    """Whether a line that need not go may be text all the same. A clean picture has next to nothing of the kind."""
    if is_marker(line, markers):
        return False
    small = line.height < SMALL
    if line.score >= _DOUBT_ANY and SMALL <= line.height <= _DOUBT_ANY_HEIGHT * min(picture):
        return True
    if line.height > _DOUBT_HEIGHT * min(picture):
        return False
    if line.score >= _DOUBT_SCORE and line.length >= 2 * line.height:
        return True
    letters = line.letters
    if letters < 2 or line.confidence < _DOUBT_READ or (small and line.length < _DOUBT_LONG * line.height):
        return False
    return line.confidence + line.score >= (_BOTH_SURE if small else _DOUBT_BOTH)


def is_marker(line: Line, markers: frozenset[str] = MARKERS) -> bool:
    """Whether a line says a side, a view or a position, and nothing else."""
    plain = _plain(line.text)
    if sum(letter.isalnum() and not letter.isascii() for letter in plain) > 1:  # one is a smear beside the marker
        return False
    said = [word for word in re.split(r"[^A-Za-z0-9]+", plain) if word]
    if _INITIALS.fullmatch(plain):
        said = ["".join(said)]  # A.P. is a view, I.F. somebody
    if not 0 < len(said) <= 3 or line.confidence < _MARKER_SURE or any(word in _NAMES for word in said):
        return False
    if line.confidence < _MARKER_PLAIN and line.length > (len(plain) + 0.5) * line.height:
        return False
    return all(word in markers or _joined(word, markers) or _cut(word, markers) for word in map(str.upper, said))


def _joined(word: str, markers: frozenset[str]) -> bool:
    """Whether a word is two markers, read without the gap between them, one of them no part of a name: APERECT."""
    splits = ((word[:at], word[at:]) for at in range(1, len(word)))
    return any(markers.issuperset(pair) and max(map(len, pair)) >= _LONG_MARKER for pair in splits)


def _cut(word: str, markers: frozenset[str]) -> bool:
    """Whether a word is a long marker without its first or last letter, which is not like its ground: UPINE. Without it
    none of them is a name."""
    return len(word) >= _LONG_MARKER and any(word in (marker[1:], marker[:-1]) for marker in markers)


def is_measure(line: Line) -> bool:
    """Whether a line is a number of up to three digits, as rulers and scale bars have them, with a unit or without."""
    return line.confidence >= _MEASURE_SURE and _MEASURE.fullmatch(line.text) is not None


def is_scale(line: Line) -> bool:
    """Whether a line is the numbers of a ruler, read as one: four or more in even steps. The end may be cut off."""
    said = "".join(filter(str.isdigit, line.text))
    if line.confidence < _MEASURE_SURE or not said.isascii() or line.letters > len(said):
        return False
    splits = ((one, one + two) for one in (1, 2, 3) for two in (1, 2, 3) if one + two <= len(said))
    return any(_counts(int(said[:one]), int(said[one:two]), said[:-2]) for one, two in splits)


def _counts(first: int, second: int, said: str) -> bool:
    """Whether what is said goes on as its first two numbers do, for two more at least."""
    if second <= first:
        return False
    numbers = [str(first + step * (second - first)) for step in range(len(said) + _SCALE)]
    return "".join(numbers).startswith(said) and len(said) >= len("".join(numbers[:_SCALE]))


def longer(line: Line, picture: Grey) -> Line:
    """The line with what goes on at its ends: letters that change their ground are found in part only.

    It is followed, one height at a time and over a gap of one, as long as strokes there are stronger by half than
    above it or below it: on one of the sides another line may stand.
    """
    if line.height < 4 or line.length < line.height:
        return line
    lies = line.slant or _level(line)
    reach = int(lies.length / 2 + (_FOLLOWED + 1) * lies.height) + 12
    top, left = max(0, int(lies.row) - reach), max(0, int(lies.column) - reach)
    part = picture[top : int(lies.row) + reach, left : int(lies.column) + reach]
    strokes = np.abs(stroked(part))

    def seen(start: float, stop: float, above: float, below: float) -> float:
        along, beside = np.meshgrid(np.arange(start, stop), np.arange(above, below))
        row = lies.row - top + along * np.sin(lies.angle) + beside * np.cos(lies.angle)
        column = lies.column - left + along * np.cos(lies.angle) - beside * np.sin(lies.angle)
        inside = (row >= 0) & (column >= 0) & (row < strokes.shape[0] - 1) & (column < strokes.shape[1] - 1)
        return float(strokes[row[inside].astype(int), column[inside].astype(int)].mean()) if inside.any() else np.inf

    half, tall = lies.length / 2, lies.height / 2
    own = seen(-half, half, -0.7 * tall, 0.7 * tall)
    ends = []
    for side in (-1, 1):
        steps = 0
        for step in range(_FOLLOWED):
            start, stop = sorted((side * (half + step * lies.height), side * (half + (step + 1) * lies.height)))
            above, below = seen(start, stop, -3 * tall, -1.5 * tall), seen(start, stop, 1.5 * tall, 3 * tall)
            if np.inf in (above, below):  # one is outside of the picture
                above, below = (
                    min(above, seen(start, stop, -6 * tall, -4 * tall)),
                    min(below, seen(start, stop, 4 * tall, 6 * tall)),
                )
            ground = min(above, below)
            strong = seen(start, stop, -0.7 * tall, 0.7 * tall)
            if max(own / 8, 1.6 * ground) <= strong < np.inf:
                steps = step + 1
            elif step > steps:
                break
        ends.append(steps * lies.height)
    return line if not any(ends) else _stretched(line, lies, *ends)


def _between(found: list[Line], stays: list[Line]) -> Iterator[Line]:
    """What stands between two parts of one line, which reads as two: letters that neither part reaches to."""
    for first, second in permutations([line for line in found if line.slant is None], 2):
        upright, other = (line.bottom - line.top > line.right - line.left for line in (first, second))
        low, tall = sorted((first.height, second.height))
        if upright != other or tall > _PARTED_TALL * low:
            continue
        if upright:
            gap = replace(first, top=first.bottom, bottom=second.top)
            long, beside = gap.bottom - gap.top, min(first.right, second.right) - max(first.left, second.left)
        else:
            gap = replace(first, left=first.right, right=second.left)
            long, beside = gap.right - gap.left, min(first.bottom, second.bottom) - max(first.top, second.top)
        one = beside >= _IN_LINE * low and 0 < long <= _PARTED * low
        if one and not any(gap.shared(line) for line in stays):
            yield gap


def blanked(picture: Grey, mask: Mask) -> Grey:
    """The picture with zeros under the mask; the same array where the mask is empty."""
    return np.where(mask, np.uint8(0), picture) if mask.any() else picture


def ultrasound_mask(dataset: Dataset) -> Mask | None:
    """True outside the rectangles of SequenceOfUltrasoundRegions (PS3.3 C.8.5.5), where banners stand; None without
    any, and where nothing is outside. A rectangle outside the picture, or none of a sensible size, counts as none."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    mask = np.ones((rows, columns), dtype=np.bool_)
    for region in dataset.get("SequenceOfUltrasoundRegions") or []:
        edges = [region.get(f"RegionLocation{edge}") for edge in ("MinY0", "MaxY1", "MinX0", "MaxX1")]
        if any(edge is None for edge in edges):
            continue
        top, bottom, left, right = (int(edge) for edge in edges)
        if 0 <= top < bottom and 0 <= left < right:
            mask[top : bottom + 1, left : right + 1] = False
    return None if mask.all() or not mask.any() else mask


def flagged(dataset: Dataset) -> bool:
    """Whether the header announces burned-in text. It is believed when it says YES, and never when it says NO."""
    return str(dataset.get("BurnedInAnnotation", "") or "").strip().upper() == "YES"


def union(masks: Iterable[Mask], shape: Sequence[int]) -> Mask:
    """Text of one frame is blanked on all: what one frame shows, its neighbours may show too faintly to be found."""
    total = np.zeros(tuple(shape), dtype=np.bool_)
    for mask in masks:
        total |= mask
    return total


def _area(line: Line, shape: tuple[int, ...], *, margins: bool = False) -> Mask:
    """The pixels of a line. With margins, wider at its ends, which are found least exactly."""
    tall, wide = line.bottom - line.top, line.right - line.left
    beside, along = (max(3, line.height // 6), max(4, line.height)) if margins else (0, 0)
    mask = np.zeros(shape, dtype=np.bool_)
    if line.slant is None:
        down, across = (beside, along) if wide >= tall else (along, beside)
        mask[max(0, line.top - down) : line.bottom + down, max(0, line.left - across) : line.right + across] = True
        return mask
    lengthwise = line.slant.length / 2 + along
    crosswise = line.slant.height / 2 + beside
    cos, sin = np.cos(line.slant.angle), np.sin(line.slant.angle)
    corners = [
        (line.slant.column + a * lengthwise * cos - b * crosswise * sin,
         line.slant.row + a * lengthwise * sin + b * crosswise * cos)
        for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]  # fmt: skip
    image = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(image).polygon(corners, fill=1)
    return np.asarray(image)


def _level(line: Line) -> Slant:
    """A line along an edge of the picture, as one that runs askew is described."""
    tall, wide = line.bottom - line.top, line.right - line.left
    row, column = (line.top + line.bottom) / 2, (line.left + line.right) / 2
    return Slant(row, column, 0.0 if wide >= tall else np.pi / 2, max(tall, wide), min(tall, wide))


def _stretched(line: Line, lies: Slant, before: float, after: float) -> Line:
    cos, sin = float(np.cos(lies.angle)), float(np.sin(lies.angle))
    if line.slant is not None:
        middle = (after - before) / 2
        slant = Slant(
            lies.row + middle * sin, lies.column + middle * cos, lies.angle, lies.length + before + after, lies.height
        )  # fmt: skip
        return replace(line, slant=slant)
    return replace(
        line,
        top=max(0, round(line.top - before * sin)), bottom=round(line.bottom + after * sin),
        left=max(0, round(line.left - before * cos)), right=round(line.right + after * cos),
    )  # fmt: skip


def _counting(lines: list[Line], marked: Sequence[Line], words_only: bool) -> list[Line]:
    """The lines without those in the place of a marker, unless they read as more than two letters: a word may hide
    behind a marker. With `words_only`, of these what reads as a word beyond doubt, in whatever drawing."""
    if words_only:
        lines = [line for line in lines if line.letters >= _WORD_LETTERS and line.confidence >= _WORD_READ]
    return [line for line in lines if (line.letters > 2 and line.confidence >= _READ_SURE) or not _is_any(line, marked)]


def _is_any(line: Line, markers: Sequence[Line]) -> bool:
    """Whether a line is one of the markers, seen once more with other edges, and read as something else."""
    for marker in markers:
        smaller, larger = sorted((line.area, marker.area))
        if 0 < line.shared(marker) >= 0.7 * smaller and larger <= 2.5 * smaller:
            return True
    return False


def _on_a_ruler(line: Line, found: list[Line]) -> bool:
    """Whether a line is numbers of a ruler, or its numbers and ticks, seen as one."""
    return is_measure(line) or any(is_scale(scale) and 2 * scale.shared(line) >= scale.area for scale in found)


def _costs_little(line: Line, mask: Mask, markers: frozenset[str]) -> bool:
    """Whether a doubtful line is no longer than a letter, or stands in a row with text that has been blanked."""
    return _is_rest(line, mask, markers) or (line.slant is None and line.length < _SHORT * line.height)


def _is_rest(line: Line, mask: Mask, markers: frozenset[str]) -> bool:
    """Whether what was seen, however faintly, stands in a row with text that has been blanked."""
    if is_marker(line, markers) or line.height > _DOUBT_HEIGHT * min(mask.shape):
        return False
    return bool(mask[_area(line, mask.shape, margins=True)].any()) and mask[_area(line, mask.shape)].mean() < 0.5


def _plain(text: str) -> str:
    spread = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in spread if not unicodedata.combining(letter))
