"""Text burned into the pixels: found, read, and blanked unless it is a marker of side or view.

A header that says nothing about burned-in text proves nothing, so every picture that is kept is searched, after
windowing, as a person would see it. `R`, `L`, `AP`, `ERECT` and the like stay, because a reader of the picture needs
them; all other text becomes black. Then the blanked picture is searched again, and text that is still there holds the
study back.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

from client.imaging.header import refusal
from client.imaging.ocr import Line, Reader
from client.imaging.png import Grey

Mask = npt.NDArray[np.bool_]
MARKERS = frozenset(
    "R L RT LT RIGHT LEFT RE LI AP PA LAT LATERAL LL RL OBL OBLIQUE AXIAL ERECT UPRIGHT SUPINE PRONE SEMI SEMIERECT "
    "SITTING STANDING DECUB DECUBITUS PORTABLE MOBILE BEDSIDE INSP EXP INSPIRATION EXPIRATION RAP LAP RPA LPA RLAT "
    "LLAT CC MLO ML LM RCC LCC RMLO LMLO RML LML A P H F S I ANT POST SUP INF".split()
)
_MARKER_SURE = 0.5
_READ_SURE, _BOTH_SURE = 0.4, 1.1  # of the reading; of reading and detection together
_LETTER_SURE, _LETTER_SCORE = 0.9, 0.6  # of the reading and of the detection of a single letter
_LETTER_MAX = 0.1  # how tall, as a share of the picture, it may be to be one
_SHORT, _SHORT_READ, _SHORT_BOTH = 1.5, 0.6, 1.2  # length over height below which two letters take more to be sure
_LARGE, _LARGE_SURE = 0.15, 0.75  # letters as tall as this, as a share of the picture, read well or are none
_LINE_MAX, _HUGE_LETTERS = 0.25, 3  # a line that is thicker, as a share of the picture, is anatomy, if it reads as less
_UNREAD_SURE = 0.85  # the detector is so sure of a long thin box that it counts although nothing can be read
_DOUBT_SCORE, _DOUBT_READ, _DOUBT_BOTH = 0.65, 0.3, 1.05  # what is not blanked but may be text holds the study back
_DOUBT_HEIGHT = 0.1  # and no larger, as a share of the picture
_ROUNDS = 3
_SMALLEST = 24  # pixels
_SHARE_MAX = 0.1


@dataclass(frozen=True, repr=False)
class Searched:
    """What a search of one picture came to: the pixels to blank, empty where nothing was found."""

    mask: Mask

    @property
    def share(self) -> float:
        return float(self.mask.mean())

    @property
    def anything(self) -> bool:
        return bool(self.mask.any())

    def __repr__(self) -> str:
        return "<Searched: hidden>"


def searched(picture: Grey, reader: Reader) -> Searched:
    """Where a picture carries text that has to go.

    Guarantees: the picture with `mask` blanked was searched again, and nothing was found in it but markers and what
    does not have the look of text. Blanking needs to be sure, for it destroys; holding back needs a doubt only.

    | picture | mask |
    |---|---|
    | no text, or markers only | empty: the picture is kept as it is, to the bit |
    | under 24 pixels long, or 8 wide | empty: too small for a name that can be read |
    | text | its lines with a margin |
    | what may be text, but is too faint or too short to be sure | refused |
    | text over more than a tenth of the picture | refused |

    Raises: DeidError burned-in when text is or may be left after blanking, or too much would have to go.
    """
    mask = np.zeros(picture.shape, dtype=np.bool_)
    if max(picture.shape) < _SMALLEST or min(picture.shape) < 8:
        return Searched(mask)
    for _ in range(_ROUNDS):
        seen = reader.lines(blanked(picture, mask), mask)
        markers = [line for line in seen if is_marker(line)]
        seen = [line for line in seen if not mask[_area(line, picture.shape)].all() and not _is_any(line, markers)]
        found = [line for line in seen if identifies(line, picture.shape)]
        if not found:
            if any(doubtful(line, picture.shape) or _is_rest(line, mask) for line in seen):
                raise refusal("burned-in", "something in the pixels may be text")
            break
        for line in found:
            mask |= _area(line, picture.shape, margins=True)
    else:
        raise refusal("burned-in", "text is left in the pixels after blanking")
    result = Searched(mask)
    if result.share > _SHARE_MAX:
        raise refusal("burned-in", "text covers more than a tenth of the picture")
    return result


def identifies(line: Line, picture: tuple[int, ...]) -> bool:
    """Whether a line has to go: it reads as text and is no marker, or it has the shape of text beyond doubt.

    `picture` is its size, (rows, columns): an outline of a chest can read as a large 8.
    """
    if is_marker(line):
        return False
    letters = sum(letter.isalnum() for letter in line.text)
    if line.height > _LINE_MAX * min(picture):
        return letters >= _HUGE_LETTERS and line.confidence >= _LETTER_SURE
    if line.height > _LARGE * min(picture) and line.confidence < _LARGE_SURE:
        return False
    if letters == 1:
        sure = line.confidence >= _LETTER_SURE and line.score >= _LETTER_SCORE
        return sure and line.length <= _LETTER_MAX * max(picture)
    if letters and line.length < _SHORT * line.height:
        return line.confidence >= _SHORT_READ and line.confidence + line.score >= _SHORT_BOTH
    if letters and line.confidence >= _READ_SURE and line.confidence + line.score >= _BOTH_SURE:
        return True
    return line.score >= _UNREAD_SURE and line.length >= 2 * line.height


def doubtful(line: Line, picture: tuple[int, ...]) -> bool:
    """Whether a line that need not go may be text all the same. A clean picture has next to nothing of the kind."""
    if is_marker(line) or line.height > _DOUBT_HEIGHT * min(picture):
        return False
    if line.score >= _DOUBT_SCORE and line.length >= 1.5 * line.height:
        return True
    letters = sum(letter.isalnum() for letter in line.text)
    return letters > 1 and line.confidence >= _DOUBT_READ and line.confidence + line.score >= _DOUBT_BOTH


def is_marker(line: Line) -> bool:
    """Whether a line says a side, a view or a position, and nothing else."""
    words = [word for word in re.split(r"[^A-Z0-9]+", _plain(line.text)) if word]
    return 0 < len(words) <= 3 and line.confidence >= _MARKER_SURE and all(word in MARKERS for word in words)


def blanked(picture: Grey, mask: Mask) -> Grey:
    """The picture with zeros under the mask; the same array where the mask is empty."""
    return np.where(mask, np.uint8(0), picture) if mask.any() else picture


def ultrasound_mask(dataset: Dataset) -> Mask | None:
    """True outside the rectangles of SequenceOfUltrasoundRegions (PS3.3 C.8.5.5), where banners stand; None without
    any. A rectangle outside the picture, or none of a sensible size, counts as none."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    mask = np.ones((rows, columns), dtype=np.bool_)
    for region in dataset.get("SequenceOfUltrasoundRegions") or []:
        edges = [region.get(f"RegionLocation{edge}") for edge in ("MinY0", "MaxY1", "MinX0", "MaxX1")]
        if any(edge is None for edge in edges):
            continue
        top, bottom, left, right = (int(edge) for edge in edges)
        if 0 <= top < bottom and 0 <= left < right:
            mask[top : bottom + 1, left : right + 1] = False
    return None if mask.all() else mask


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


def _is_any(line: Line, markers: list[Line]) -> bool:
    """Whether a line is one of the markers, seen once more with other edges, and read as something else."""
    for marker in markers:
        down = min(line.bottom, marker.bottom) - max(line.top, marker.top)
        across = min(line.right, marker.right) - max(line.left, marker.left)
        smaller, larger = sorted((line.right - line.left) * (line.bottom - line.top) for line in (line, marker))
        if down > 0 and across > 0 and down * across >= 0.7 * smaller and larger <= 2.5 * smaller:
            return True
    return False


def _is_rest(line: Line, mask: Mask) -> bool:
    """Whether what was seen, however faintly, stands in a row with text that has been blanked."""
    if is_marker(line) or line.height > _DOUBT_HEIGHT * min(mask.shape):
        return False
    return bool(mask[_area(line, mask.shape, margins=True)].any()) and mask[_area(line, mask.shape)].mean() < 0.5


def _plain(text: str) -> str:
    spread = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in spread if not unicodedata.combining(letter)).upper()
