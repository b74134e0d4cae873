"""What looks like text to the networks and is none: slopes, mirrored noise, glyphs all alone, marks that repeat.

A wire, a screw or a clip reads as a letter, and a ruler, a zipper or a row of staples as a line of them. Blanking one
destroys a part of a picture, holding one back wastes it, and nobody is known by a single letter. Each rule asks the
pixels: a reading alone proves nothing.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from client.imaging.ocr import Line, turned_level
from client.imaging.png import Grey
from client.imaging.strokes import Mask, Rectangle, stands_in_a_row, stands_out

SMALL = 10  # pixels: the height under which noise has the look of letters
_MIRAGE = 0.85  # of the reading of a small line along an edge
_DOUBLED, _DOUBLED_LONG = 0.5, 2.0  # of the reading of a shape that the border doubles, and heights
_EDGE_SCORE, _EDGE_LONG = 0.84, 6  # of the detection, and heights, of one that need not be read
_SHADING_READ, _SHADING = 0.8, 2.0  # of the reading; shades by which a slope may bend from pixel to pixel
_GROUND_READ, _GROUND_SCORE, _GROUND = 0.65, 0.86, 1.8  # of the reading; of the detection; of the strokes beside it
_GLYPH_LONG, _BLOT_LONG = 3.0, 1.4  # heights of what may be one letter, and of what is one mark if it cannot be read
_GLYPH_READ = 0.5  # of the reading of one letter
_WRITTEN, _WRITTEN_LONG = 0.9, 1.6  # of the detection, and heights, of what is written and cannot be read
_ROOM, _AS_TALL = 4.0, 2.0  # heights around a glyph in which nothing stands in a row with it; of two lines' heights
_TICKS = re.compile(r"[1Iil|!/\\]{3,}")
_OVER, _MOSTLY = 6, 0.8  # letters, of which no name and hardly a number has so many alike
_SAID, _SURE = 0.5, 0.8  # of a reading: as what it is taken; from which different letters are believed
_ALIKE_SAID, _ALIKE_ELSE = 0.45, 0.7  # likeness of a line and itself, one mark further, where it reads as one letter
# over and over, and elsewhere. Of 543 lines of text 6 % were above the first, none above the second
_AGAIN = 0.5  # of the smaller of two boxes, from which they are one glyph, seen twice
_LEGIBLE, _STROKE_LONG = 16, 2.5  # pixels; heights
_BETWEEN = 0.35  # and half a mark further
_SCALE_LONG, _SCALE_RANGE, _SCALE_TURNS = 4.0, 40.0, 4.2  # heights; shades; of that range, up and down in all
_SCALE_READ, _SCALE_STROKE = 0.4, 0.8  # of the reading; of that of one letter
_SCALE_EVEN = 0.12  # of the range, by which the shades may differ across


def is_mirage(line: Line, picture: tuple[int, ...]) -> bool:
    """Whether a low line along an edge reads badly: noise that the mirrored border doubles has the look of letters; so
    have shapes of any height that it doubles, but only of a letter or two, and they read as hardly anything."""
    rows, columns = picture
    level = line.right - line.left >= line.bottom - line.top
    along = line.top == 0 or line.bottom == rows if level else line.left == 0 or line.right == columns
    sure = line.score >= _EDGE_SCORE and line.length >= _EDGE_LONG * line.height
    shape = line.length < _DOUBLED_LONG * line.height and line.confidence < _DOUBLED
    return along and (shape or (line.height < SMALL and line.confidence < _MIRAGE and not sure))


def is_shading(line: Line, picture: Grey) -> bool:
    """Whether a line reads badly, or as nothing, where the shades bend nowhere by more than rounding: a slope."""
    inside = picture[line.top : line.bottom, line.left : line.right].astype(np.int16)
    if line.confidence >= _SHADING_READ or min(inside.shape) < 3:
        return False
    bends = [np.abs(np.diff(inside, 2, axis=axis)) for axis in (0, 1)]
    return max(float(np.percentile(bend, 98)) for bend in bends) <= _SHADING


def is_shade_scale(line: Line, picture: Grey) -> bool:
    """Whether a long line reads badly, as one stroke or as nothing, and is a bar that goes through the shades:
    ultrasound, maps of flow and nuclear medicine show which shade stands for what. Letters go up and down with each
    stroke."""
    sure = _SCALE_STROKE if line.letters <= 1 else _SCALE_READ
    if line.confidence >= sure or line.length < _SCALE_LONG * line.height:
        return False
    level = turned_level(picture, line).astype(np.float32)
    inner = level[level.shape[0] * 3 // 8 : max(1, level.shape[0] * 5 // 8)]
    along = ndimage.uniform_filter(np.median(inner, axis=0), max(3, level.shape[0] // 6))
    reach, uneven = float(np.ptp(along)), float(np.std(inner - np.median(inner, axis=0), axis=0).mean())
    turns = float(np.abs(np.diff(along)).sum())
    return reach >= _SCALE_RANGE and turns <= _SCALE_TURNS * reach and uneven <= _SCALE_EVEN * reach


def is_ground(line: Line, mask: Mask, picture: Grey) -> bool:
    """Whether a line reads badly, or as nothing, the detector is not sure of it, and it stands out of its surroundings
    no more than they do themselves: a cell of a grid, a vertebra in its column, noise."""
    if line.confidence >= _GROUND_READ or line.score >= _GROUND_SCORE or line.slant is not None:
        return False
    return stands_out(picture, (line.top, line.left, line.bottom, line.right), mask) <= _GROUND


def is_alone(line: Line, seen: Sequence[Line], mask: Mask, picture: Grey) -> bool:
    """Whether a line is one letter or one mark, and neither a mark as tall as it, nor another line, nor what was
    blanked stands in a row with it: letters wide apart and the digits of a number are not alone.

    A row may run level or upright, whichever way the letter reads: the networks read letters that lie on their side.
    """
    if line.letters > 1 or line.slant is not None or line.length > _GLYPH_LONG * line.height or _is_written(line):
        return False
    read = line.letters == 1 and line.confidence >= _GLYPH_READ
    if not read and (line.length > _BLOT_LONG * line.height or line.height < SMALL):
        return False
    box = (line.top, line.left, line.bottom, line.right)
    if mask[_around(box, _ROOM * line.length)].any():
        return False
    return not any(_in_a_row(line, other) for other in seen) and not stands_in_a_row(picture, box)


def is_one_stroke(line: Line) -> bool:
    """Whether a long box of legible size reads as one letter at most: a wire or a catheter. As much text as goes into
    it reads as more, or as nothing at all."""
    long = line.height >= _LEGIBLE and line.length >= _STROKE_LONG * line.height
    return long and line.letters <= 1 and line.confidence >= _SAID and not _is_written(line)


def _is_written(line: Line) -> bool:
    """Whether the detector is so sure of a box, longer than a letter, that it is writing, whatever it reads as: the
    reader takes a word of a script that it does not know (Hebrew, Thai, Devanagari, Hangul) for a letter or two."""
    return line.score >= _WRITTEN and line.length >= _WRITTEN_LONG * line.height


def is_repeated(line: Line, picture: Grey) -> bool:
    """Whether a line is one mark over and over, as ticks, staples and zippers are.

    It reads as strokes only; or it looks like itself, moved by one mark, and unlike itself, moved by half of one, the
    more so the more its reading speaks for text. A sure reading of different letters is believed.
    """
    if line.height < SMALL:
        return False
    letters = Counter(filter(str.isalnum, line.text))
    over = line.letters >= _OVER and max(letters.values()) > _MOSTLY * line.letters
    if len(letters) > 1 and line.confidence >= _SURE and not over:
        return False
    if line.confidence >= _SAID and (_TICKS.fullmatch(line.text) or (len(letters) == 1 and over)):
        return True
    same = over or len(letters) == 1 < line.letters or (len(letters) < 2 and line.confidence >= _SAID)
    least = _ALIKE_SAID if same else _ALIKE_ELSE
    level = turned_level(picture, line).astype(np.float32)
    level -= ndimage.uniform_filter(level, (1, 2 * level.shape[0]))
    lowest = 1.0
    for step in range(2, level.shape[1] // 3):
        alike = _likeness(level[:, step:], level[:, :-step])
        if alike >= least and lowest <= _BETWEEN:
            return True
        lowest = min(lowest, alike)
    return False


def _likeness(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    spread = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / spread if spread > 0 else 0.0


def _around(box: Rectangle, room: float) -> tuple[slice, slice]:
    reach = int(np.ceil(room))
    return slice(max(0, box[0] - reach), box[2] + reach), slice(max(0, box[1] - reach), box[3] + reach)


def _in_a_row(line: Line, other: Line) -> bool:
    """Whether another line stands beside, above or below one, not far off and about as tall; not the same again."""
    down = max(line.top, other.top) - min(line.bottom, other.bottom)
    across = max(line.left, other.left) - min(line.right, other.right)
    if max(down, across) < 0 and down * across >= _AGAIN * min(line.area, other.area):
        return False
    near = min(down, across) < 0 and max(down, across) <= _ROOM * line.height
    return near and other.height <= _AS_TALL * line.height and line.height <= _AS_TALL * other.height
