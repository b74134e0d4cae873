"""Finds and reads lines of text in a grey picture, with the networks of `networks.py`.

One picture is looked at once, or, where it carries text, twice: the second look is closer.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from client.imaging import codes
from client.imaging.networks import Colours, Floats, Networks, likelihood
from client.imaging.png import Grey
from client.imaging.strokes import Mask, Rectangle, colours, filled, noise_of, rows, smoothed

_SIDE_MIN, _SIDE_MAX = 384, 1600  # pixels that the detector sees; letters under about 8 pixels are not found
_ENLARGED = 1.5  # how much larger a smoothed picture is searched, and in the closer look the colours
_DOUBLED = 2.0  # how much larger letters of 5 to 8 pixels have to be
_NOISY = 12.0  # shades
_INK, _SCORE_MIN = 0.3, 0.4  # DB: a pixel belongs to text; mean over a component
_UNCLIP = 1.6  # DB shrinks a line by its area over its circumference; this grows it back (section 3.3 of the paper)
_CORE_UNCLIP, _CORE_ENDS = 0.7, 2.0  # of the finder, which leaves half of the height; more at the ends of a line
_WHOLE = 0.15  # a component over more of the picture than this is anatomy taken for one letter
_COMPONENTS_MAX = 300
_PART = 0.12  # of the shorter side of a picture
_SPECK, _SPECK_SCORE = 10, 0.6  # pixels; of the detection
_BORDER = 7  # pixels; the detector sees sides in steps of 32, and a full one gets no step longer
_MIRRORED, _CUT = 0.3, 0.9  # of a box that is in the picture: less is a mirrored copy; less is read both ways
_COARSE = 0.67  # a copy that is no smaller shows nothing new
_PLAIN_SIDE = 96  # pixels: in smaller pictures a shade would be compared with the whole picture, borders and all
_PAIR = 0.6  # of a reading of two letters, from which it is made sure
_READ_WELL, _READ_SURE = 0.95, 0.9  # of a reading: no other view is asked; the finder is not asked
_MIRROR_READ, _MIRROR_SCORE = 0.8, 0.75  # of a reading, below which the mirror image is read, too; of the detection
_ROWS_READ, _ROW_READ, _ROW_LETTERS = 3, 0.9, 4  # rows of marks; of the reading of one that counts; letters in it
_FINDER_TALL, _FINDER_TALL_BOTH = 24, 1.55  # pixels; of reading and detection together, of what is taller
_FINDER_BOTH, _FINDER_FEW_BOTH, _FINDER_SCORE = 1.25, 1.35, 0.88  # of what is not; of two letters; detection alone
_AGREED = 0.2  # of what the finder sees where the detector sees a line; of text, it sees 0.86 and more
_ROW_KNOWN = 0.5  # of the reading of a line that has the same letters
_SLANTED, _LONG = 5.0, 2.5  # degrees off the edges of the picture; length over height from which a line has a direction
_SAME = 0.7  # two boxes that share so much of the larger one are one line


@dataclass(frozen=True)
class Slant:
    """A rectangle that is turned: its middle, the direction of its length in radians, and its sides."""

    row: float
    column: float
    angle: float
    length: float
    height: float

    def scaled(self, ratio: float, down: int = 0, across: int = 0) -> "Slant":
        return Slant(
            self.row * ratio + down, self.column * ratio + across, self.angle, self.length * ratio, self.height * ratio
        )  # fmt: skip


@dataclass(frozen=True, repr=False)
class Line:
    """One line of text: where it is, half-open in pixels, and what it seems to say."""

    top: int
    left: int
    bottom: int
    right: int
    text: str
    confidence: float
    """Of the reading, 0 to 1; 0 where nothing was read."""
    score: float
    """Of the detection, 0 to 1."""
    slant: "Slant | None" = None
    """Of a line that runs askew: where it lies in the box."""

    @property
    def height(self) -> int:
        """How tall the letters are at most, whatever the direction of the line."""
        level = min(self.bottom - self.top, self.right - self.left)
        return level if self.slant is None else int(np.ceil(self.slant.height))

    @property
    def length(self) -> int:
        return max(self.bottom - self.top, self.right - self.left)

    @property
    def letters(self) -> int:
        """How many letters and digits it reads as."""
        return sum(letter.isalnum() for letter in self.text)

    @property
    def is_read_well(self) -> bool:
        """Whether it is two letters or more, beyond doubt."""
        return self.letters > 1 and self.confidence >= _READ_SURE

    @property
    def is_clear(self) -> bool:
        """Whether the finder is believed: a faint box that reads badly is none, and a spine reads as large zeros."""
        short = _FINDER_BOTH if self.letters > 2 else _FINDER_FEW_BOTH
        least = _FINDER_TALL_BOTH if self.height > _FINDER_TALL else short
        return self.confidence + self.score >= least or self.score >= _FINDER_SCORE

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)

    def shared(self, other: "Line") -> int:
        """How many pixels of its box are in another's."""
        return _shared(self, other)

    def lies_in(self, other: "Line") -> bool:
        """Whether half of it or more is in a line that could be read: a dot is none."""
        return other.letters > 0 and other.confidence >= _ROW_KNOWN and 2 * self.shared(other) >= self.area

    def __repr__(self) -> str:
        return "<Line: hidden>"


@dataclass(frozen=True)
class _Box:
    """A component of a detector's map, grown to the letters' full height."""

    top: int
    left: int
    bottom: int
    right: int
    score: float
    slant: Slant | None = None

    def scaled(self, ratio: float) -> "_Box":
        """The same box in a picture `ratio` times as large."""
        edges = int(self.top * ratio), int(self.left * ratio)
        ends = int(np.ceil(self.bottom * ratio)), int(np.ceil(self.right * ratio))
        slant = None if self.slant is None else self.slant.scaled(ratio)
        return _Box(*edges, *ends, self.score, slant)

    @property
    def area(self) -> int:
        return max(0, self.bottom - self.top) * max(0, self.right - self.left)

    @property
    def is_speck(self) -> bool:
        """Lower than letters can be read, no longer than tall, and the detector is not sure of it."""
        low, long = sorted((self.bottom - self.top, self.right - self.left))
        return low < _SPECK and long < 1.5 * low and self.score < _SPECK_SCORE

    def is_large(self, picture: tuple[int, ...]) -> bool:
        """As tall as parts of a body are, and hardly a letter."""
        low, long = sorted((self.bottom - self.top, self.right - self.left))
        return low > _PART * min(picture) and long < 3 * low

    def grown(self, by: int) -> "_Box":
        """The box with so many pixels more on each side, or less."""
        edges = max(0, self.top - by), max(0, self.left - by), self.bottom + by, self.right + by
        return replace(self, top=edges[0], left=edges[1], bottom=edges[2], right=edges[3])

    def within(self, top: int, left: int, bottom: int, right: int) -> "_Box":
        """What of the box is in a part of the picture."""
        edges = max(top, self.top), max(left, self.left), min(bottom, self.bottom), min(right, self.right)
        return replace(self, top=edges[0], left=edges[1], bottom=edges[2], right=edges[3])

    def is_like(self, other: "_Box") -> bool:
        if (self.slant is None) != (other.slant is None):
            return False  # an upright box around an askew line cannot be read
        shared = _shared(self, other)
        return shared > 0 and shared >= _SAME * max(self.area, other.area)


def _shared(one: Line | _Box, other: Line | _Box) -> int:
    """How many pixels two boxes share."""
    down = min(one.bottom, other.bottom) - max(one.top, other.top)
    across = min(one.right, other.right) - max(one.left, other.left)
    return max(0, down) * max(0, across)


@cache
def shipped() -> "Reader":
    """The reader of this process. Raises DeidError ocr-missing when the runtime, the weights or the reader of codes
    are not there."""
    codes.reader()
    return Reader(Networks.open(Path(__file__).with_name("weights")))


class Reader:
    """Looks at pictures with the networks that it was given."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks

    def look(self, picture: Grey, hidden: Mask | None = None) -> "Look":
        """A look at a grey picture, in which what is `hidden` has been blanked."""
        return Look(self.networks, picture, hidden)


class Look:
    """One picture, as it is searched for text.

    All of the picture is searched in three colours, of which one is the picture, one is levelled and one shows strokes
    only: letters stand out there that are fainter than the body around them. (A very small picture has no surroundings
    to stand out from, and is searched as it is.) A border in which the edges are mirrored makes letters whole that an
    edge has cut.

    A finder of our own, which has learned from radiographs with letters of 5 to 40 pixels, sees in the same colours
    what the detector does not: faint lines, small ones, upright ones, mirrored ones. It is shown no border. What the
    detector sees and it does not is a line only if it reads well, or under strong noise, through which it does not see.
    """

    def __init__(self, networks: Networks, picture: Grey, hidden: Mask | None) -> None:
        self._networks, self._original = networks, picture.shape
        seen = _resized(picture, _scale(picture))
        calm = seen if hidden is None else filled(seen, _resized_mask(hidden, seen.shape))
        self._seen, calm = (np.pad(one, _BORDER, mode="symmetric") for one in (seen, calm))
        self._small, self._noisy = min(picture.shape) < _PLAIN_SIDE, noise_of(picture) > _NOISY
        self._drawn = np.dstack([calm] * 3) if self._small else colours(calm)
        quiet = (smoothed(self._seen),) if self._noisy else ()
        level = () if self._small else (self._drawn[..., 1],)
        self._views: tuple[Grey, ...] = (self._seen, *quiet, *level)
        self._lettered = np.zeros(self._seen.shape, dtype=np.float32)
        if not self._small:
            inner = self._drawn[_BORDER:-_BORDER, _BORDER:-_BORDER]
            self._lettered[_BORDER:-_BORDER, _BORDER:-_BORDER] = networks.letter_map(inner)

    def lines(self) -> list[Line]:
        """All that looks like text, read.

        Large letters are found in a small copy of the picture; under strong noise a smoothed and enlarged one takes its
        place. Where a part of the body is taken for a letter, and may hide a line on it, the picture is searched as it
        is, too. Letters that stand wide apart are looked for without a detector, as rows of marks as tall as each
        other.
        """
        boxes = self._detected(self._drawn)
        if any(box.is_large(self._seen.shape) for box in boxes):
            boxes += self._detected(self._seen)
        coarse = _SIDE_MIN / min(self._seen.shape)
        if self._noisy:
            boxes += self._detected(self._views[1], _ENLARGED)
        elif coarse < _COARSE:
            boxes += self._detected(self._seen, coarse)
        kept = _apart([box for box in boxes if not box.is_speck])
        lines = self._believed(kept)
        if self._small:
            return lines
        found = _boxes(self._lettered, _CORE_UNCLIP, _CORE_ENDS)
        more = [box for box in found if not any(box.is_like(other) for other in kept)]
        seen_too = [line for box in more for line in self._read(box) if line.is_clear]
        lines += [line for line in seen_too if not any(line.lies_in(other) for other in lines)]
        return lines + self._wide_apart(lines)

    def closer_lines(self) -> list[Line]:
        """What shows in the enlarged picture and in its enlarged colours, specks too: more, and smaller, letters of
        pictures that carry text. It is no search for itself."""
        return self._believed(_apart(self._detected(self._seen, _DOUBLED) + self._detected(self._drawn, _ENLARGED)))

    def _detected(self, picture: Grey | Colours, scale: float = 1.0) -> list[_Box]:
        """What the detector makes of a picture at another scale, in the picture's own pixels."""
        view = _resized(picture, min(scale, _SIDE_MAX / max(picture.shape)))
        return [box.scaled(picture.shape[0] / view.shape[0]) for box in _boxes(self._networks.text_map(view))]

    def _read(self, box: _Box) -> list[Line]:
        """A box, read in each view until one is read well, as a line of the original picture; never smaller.

        One that reaches into the border is read twice, without and with what is mirrored there: a letter that stands at
        the edge is whole without it, one that the edge has cut only with it. What is all mirrored is no line. Two
        letters are read again with a pixel less and a pixel more around them: a marker and a clip beside it read as
        two, and an AP upside down.
        """
        tall, wide = self._seen.shape
        inner = box.within(_BORDER, _BORDER, tall - _BORDER, wide - _BORDER)
        if inner.area < _MIRRORED * box.area:
            return []
        top, left, bottom, right = _in_original(inner, (tall, wide), self._original)
        down, across = self._original[0] / (tall - 2 * _BORDER), self._original[1] / (wide - 2 * _BORDER)
        slant = box.slant and box.slant.scaled(1.0, -_BORDER, -_BORDER).scaled(max(down, across))
        cut = box.slant is None and inner.area < _CUT * box.area
        lines = []
        for one in (inner, box) if cut else (inner if box.slant is None else box,):
            text, confidence = self._best(one)
            if len(text) == 2 and confidence > _PAIR and box.slant is None:
                others = [self._best(one.grown(by)) for by in (-1, 1)]
                text, confidence = max((text, confidence), *others, key=likelihood)
            lines.append(Line(top, left, bottom, right, text, confidence, box.score, slant))
        return lines

    def _believed(self, boxes: list[_Box]) -> list[Line]:
        """The lines of the boxes in which the finder has seen a trace of letters, or that read well all the same.

        All readings of a box stay: an R at the edge reads as IR with what is mirrored there.
        """
        blind = self._small or self._noisy
        lines: list[Line] = []
        for box in boxes:
            read = self._read(box)
            if blind or any(line.is_read_well for line in read) or _strongest(self._lettered, box) >= _AGREED:
                lines += read
        return lines

    def _best(self, box: _Box) -> tuple[str, float]:
        askew = box.slant is not None
        best = ("", 0.0)
        for view in self._views:
            best = max(best, self._networks.read(_crop(view, box), askew=askew), key=likelihood)
            if best[1] > _READ_WELL:
                break
        if best[1] < _MIRROR_READ and box.score >= _MIRROR_SCORE:
            behind = self._networks.read(np.ascontiguousarray(_crop(self._seen, box)[:, ::-1]), askew=askew)
            if behind[1] >= _MIRROR_READ and sum(letter.isalnum() for letter in behind[0]) > 2:
                return behind
        return best

    def _wide_apart(self, known: list[Line]) -> list[Line]:
        """Lines of letters with gaps between them, which no detector takes for one line, but those that are `known`.

        The marks of a row are read as if they stood close together; upright rows from either end.
        """
        strokes = self._drawn[..., 2]
        lines: list[Line] = []
        for upright, found in enumerate(rows(strokes)):
            view = np.ascontiguousarray(np.rot90(strokes)) if upright else strokes
            for row in found[:_ROWS_READ]:
                close = _close_together(view, row)
                text, confidence = self._networks.recognised(close)
                if upright and confidence < _ROW_READ:
                    text, confidence = self._networks.recognised(np.ascontiguousarray(close[::-1, ::-1]))
                said = [letter for letter in text if letter.isalnum()]
                ruler = len(set(said)) < 2
                if confidence < _ROW_READ or len(said) < _ROW_LETTERS or ruler:
                    continue
                edges = np.array(row)
                (top, left), (bottom, right) = edges[:, :2].min(axis=0), edges[:, 2:].max(axis=0)
                if upright:
                    top, left, bottom, right = left, view.shape[0] - bottom, right, view.shape[0] - top
                box = _Box(int(top), int(left), int(bottom), int(right), confidence)
                line = Line(*_in_original(box, strokes.shape, self._original), text, confidence, confidence)
                if not any(line.lies_in(other) for other in (*known, *lines)):
                    lines.append(line)
        return lines


def turned_level(picture: Grey, line: Line) -> Grey:
    """What a line shows, its length from left to right."""
    crop = _crop(picture, _Box(line.top, line.left, line.bottom, line.right, line.score, line.slant))
    return crop if crop.shape[1] >= crop.shape[0] else np.rot90(crop)


def _in_original(box: _Box, seen: tuple[int, ...], original: tuple[int, ...]) -> Rectangle:
    """A box of the picture that is searched, which has a border, as pixels of the original one."""
    down, across = (size / (wide - 2 * _BORDER) for size, wide in zip(original, seen, strict=True))
    top, left = max(0, int((box.top - _BORDER) * down)), max(0, int((box.left - _BORDER) * across))
    bottom = min(original[0], int(np.ceil((box.bottom - _BORDER) * down)))
    return top, left, bottom, min(original[1], int(np.ceil((box.right - _BORDER) * across)))


def _close_together(strokes: Grey, row: list[Rectangle]) -> Grey:
    """The marks of a row side by side, a fifth of their height apart, on plain ground."""
    top, bottom = max(0, min(mark[0] for mark in row) - 2), max(mark[2] for mark in row) + 2
    marks = [strokes[top:bottom, max(0, left - 1) : right + 1] for _, left, _, right in row]
    gap = np.full((marks[0].shape[0], max(2, (bottom - top - 4) // 5)), 128, dtype=np.uint8)
    return np.concatenate([gap, *(part for mark in marks for part in (mark, gap))], axis=1)


def _strongest(sure: Floats, box: _Box) -> float:
    """The mean of the highest fifth in a box of a map."""
    inside = np.sort(_crop(sure, box), axis=None)
    return float(inside[-max(1, inside.size // 5) :].mean()) if inside.size else 0.0


def _boxes(sure: Floats, unclip: float = _UNCLIP, ends: float = 1.0) -> list[_Box]:
    """The text lines of a map, grown back to full height."""
    labels, _ = ndimage.label(sure > _INK)
    boxes: list[_Box] = []
    for number, place in _largest(labels):
        inside = labels[place] == number
        rows, columns = inside.shape
        score = float(sure[place][inside].mean())
        if min(rows, columns) < 3 or score < _SCORE_MIN:
            continue
        slant = _slant(inside)
        if slant is None and rows * columns > _WHOLE * sure.size and min(rows, columns) > 0.2 * min(sure.shape):
            continue
        length, height = (rows, columns) if slant is None else (slant.length, slant.height)
        grow = int(np.ceil(inside.sum() * unclip / (2 * (length + height)))) + 1
        along = int(np.ceil(grow * ends))
        down, across = (grow, along) if columns >= rows or slant is not None else (along, grow)
        top, left = max(0, place[0].start - down), max(0, place[1].start - across)
        bottom, right = min(sure.shape[0], place[0].stop + down), min(sure.shape[1], place[1].stop + across)
        if slant is not None:
            row, column = slant.row + place[0].start, slant.column + place[1].start
            slant = Slant(row, column, slant.angle, slant.length + 2 * along, slant.height + 2 * grow)
        boxes.append(_Box(top, left, bottom, right, score, slant))
    return boxes


def _slant(inside: npt.NDArray[np.bool_]) -> Slant | None:
    """The rectangle of a long component that runs askew; None for any other.

    The direction is the long axis of the component's second moments.
    """
    rows, columns = np.nonzero(inside)
    if len(rows) < 12 or min(inside.shape) < 6:
        return None
    row, column = rows.mean(), columns.mean()
    down, across = rows - row, columns - column
    angle = 0.5 * np.arctan2(2 * (down * across).mean(), (across**2).mean() - (down**2).mean())
    along = across * np.cos(angle) + down * np.sin(angle)
    beside = down * np.cos(angle) - across * np.sin(angle)
    length, height = np.ptp(along) + 1, np.ptp(beside) + 1
    off = abs((np.degrees(angle) + 45) % 90 - 45)
    if off < _SLANTED or length < _LONG * height:
        return None
    middle, level = (along.max() + along.min()) / 2, (beside.max() + beside.min()) / 2
    row += middle * np.sin(angle) + level * np.cos(angle)
    column += middle * np.cos(angle) - level * np.sin(angle)
    return Slant(float(row), float(column), float(angle), float(length), float(height))


def _crop(picture: npt.NDArray[Any], box: _Box) -> npt.NDArray[Any]:
    """What a box shows; a line that runs askew is turned level."""
    if box.slant is None:
        return picture[max(0, box.top) : box.bottom, max(0, box.left) : box.right]
    slant = box.slant
    wide, tall = max(8, round(slant.length)), max(8, round(slant.height))
    cos, sin = float(np.cos(slant.angle)), float(np.sin(slant.angle))
    start = (slant.column - cos * wide / 2 + sin * tall / 2, slant.row - sin * wide / 2 - cos * tall / 2)
    turn = (cos, -sin, start[0], sin, cos, start[1])  # PIL: (x, y) of the crop to (x, y) of the picture
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.transform((wide, tall), Image.Transform.AFFINE, turn, Image.Resampling.BILINEAR))


def _apart(boxes: list[_Box]) -> list[_Box]:
    """One box for one line, the larger one, where two searches have found the same."""
    kept: list[_Box] = []
    for box in sorted(boxes, key=attrgetter("area"), reverse=True):
        if not any(box.is_like(other) for other in kept):
            kept.append(box)
    return kept


def _largest(labels: npt.NDArray[np.int32]) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """Components with their bounding boxes, the largest first, not more than a picture of text has."""
    places = [(number, place) for number, place in enumerate(ndimage.find_objects(labels), 1) if place is not None]
    places.sort(key=lambda one: -(one[1][0].stop - one[1][0].start) * (one[1][1].stop - one[1][1].start))
    yield from places[:_COMPONENTS_MAX]


def _scale(picture: Grey) -> float:
    rows, columns = picture.shape
    wanted = max(1.0, _SIDE_MIN / min(rows, columns))
    return float(min(wanted, _SIDE_MAX / max(rows, columns)))


def _resized(picture: Grey, scale: float) -> Grey:
    if scale == 1.0:
        return picture
    rows, columns = picture.shape[:2]
    size = (max(8, round(columns * scale)), max(8, round(rows * scale)))
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.LANCZOS))


def _resized_mask(mask: Mask, shape: tuple[int, ...]) -> Mask:
    return np.asarray(Image.fromarray(mask).resize((shape[1], shape[0]), Image.Resampling.NEAREST))
