"""Codes that machines read, in the pixels: QR, Data Matrix, Aztec, PDF417, and the bars of Code 128 and its kin.

A label on a film or a request form says a name and a record number in them, and no search for letters sees that. zxing
reads them; what reads as a code goes like text. A reader of codes is strict where one of text is not: nearly every
format has a checksum and a frame of its own, and what it finds in noise and bones is nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from client.imaging.header import refusal
from client.imaging.png import Grey
from client.imaging.strokes import Mask, levelled

Floats = npt.NDArray[np.float64]
_ROUNDS = 4
_STACKED = ("PDF417", "MicroPDF417")
_FLAT = frozenset({"QRCode", "MicroQRCode", "RMQRCode", "Aztec", "DataMatrix", "MaxiCode", *_STACKED})
"""Whose position is known on all four sides; of bars, it is where they were read."""
_DAMAGED = frozenset({"QRCode", "MicroQRCode", "RMQRCode", "Aztec", "Code128", "Code93", "EAN13", "UPCA"})
"""What goes although its checksum does not fit: their frames stand nowhere in a body, as a Data Matrix' seems to."""
_CELL = 8  # pixels
_BUSY, _RANGE = 4.0, 30  # times that shades run up or down in three cells, and between how many
_COARSE, _COARSE_BUSY, _COARSE_RANGE = 3, 3.6, 12  # of a picture a third as large, in which noise is less
_CROWDED, _AROUND = 6, 24  # cells of a busy part; pixels around it
_WHOLE = 0.5  # of the picture: busy parts that are more of it are searched as one
_ENLARGED_MAX, _CLOSER_MAX = 1 << 19, 1 << 20  # pixels of a part that is looked at twice as large; closer at all
_STEP = 3.0  # degrees
_BARS_LONG, _BARS_MANY, _UNEVEN = 7, 24, 0.3  # cells; bars and gaps; of their mean width, and how often
_BARS_RANGE, _BARS_BUSY, _UNLIKE = 80, 3.0, 0.15  # shades; as above; changes down, of those across
_COHERENT, _EDGED = 0.85, 60.0  # of a window's gradients: how much of one direction; squares of shades per pixel
_ALIKE, _BROKEN = 0.5, 4  # correlation of two rows of bars; rows that a blot may spoil
_MARGIN, _MARGIN_MIN, _BESIDE_BARS = 0.04, 4, 3  # of the longer side; pixels


@dataclass(frozen=True, repr=False)
class _View:
    """A picture to look at, and how its (x, y) become the original's: `turn` @ xy + `start`."""

    picture: Grey
    turn: Floats
    start: Floats

    def __repr__(self) -> str:
        return "<View: hidden>"


def without_codes(picture: Grey, known: Mask, most: float = 1.0) -> Mask:
    """What is `known` to be blanked, and all codes that can be read in the picture, or in what of it that leaves.

    Guarantees: with the result blanked, the picture was searched again, and no code was found in it.

    Raises: DeidError burned-in when codes are left after blanking, or are more than `most` of the picture; ocr-missing
    without zxing.
    """
    mask = known | found(picture)
    for _ in range(_ROUNDS):
        if not mask.any() or not (more := found(np.where(mask, np.uint8(0), picture)) & ~mask).any():
            break
        mask |= more
    else:
        raise refusal("burned-in", "codes are left in the pixels after blanking")
    if (mask & ~known).mean() > most:
        raise refusal("burned-in", "codes cover too much of the picture")
    return mask


def found(picture: Grey) -> Mask:
    """The pixels of all codes in a picture, with a margin: as it is, inverted, levelled, enlarged and turned."""
    mask = np.zeros(picture.shape, dtype=np.bool_)
    whole = _View(np.ascontiguousarray(picture), np.eye(2), np.zeros(2))
    _search(whole, picture, mask)
    _search(_inverted(whole), picture, mask, bars_only=True)
    for part in _busy_parts(picture):
        for view in _closer(_part(whole, part)):
            _search(view, picture, mask)
            _search(_inverted(view), picture, mask, bars_only=True)
        for seen, place, out in ((picture, part, mask), (picture.T, part[::-1], mask.T)):
            for corners in _unread_bars(seen[place]):
                corners += (place[1].start, place[0].start)
                out |= _area(_full_height(corners, seen), seen.shape, bars=True)
    return mask


def reader() -> ModuleType:
    """The library. Raises DeidError ocr-missing when it is not installed."""
    try:
        import zxingcpp
    except ImportError:
        raise refusal("ocr-missing", "the reader of codes in the pixels is not installed") from None
    return zxingcpp


def _search(view: _View, picture: Grey, mask: Mask, *, bars_only: bool = False) -> None:
    """Adds to the mask what a view shows. zxing inverts by itself, but for bars."""
    zxing = reader()
    known = zxing.BarcodeFormat
    formats = [known.AllLinear, *(getattr(known, name) for name in _STACKED)] if bars_only else [known.AllReadable]
    for code in zxing.read_barcodes(
        view.picture, zxing.BarcodeFormats(formats), try_invert=not bars_only, return_errors=True
    ):
        name = code.format.name
        if code.error is not None and name not in _DAMAGED:
            continue
        at = code.position
        points = [(point.x, point.y) for point in (at.top_left, at.top_right, at.bottom_right, at.bottom_left)]
        corners = np.array(points, dtype=np.float64) @ view.turn.T + view.start
        if bars := name not in _FLAT:
            corners = _full_height(corners, picture)
        mask |= _area(corners, picture.shape, bars=bars)


def _inverted(view: _View) -> _View:
    return _View(255 - view.picture, view.turn, view.start)


def _part(whole: _View, part: tuple[slice, slice]) -> _View:
    """A part of the picture, smaller if it has more pixels than a closer look is worth: the first look was whole."""
    start = np.array([part[1].start, part[0].start], dtype=np.float64)
    crop = np.ascontiguousarray(whole.picture[part])
    fewer = int(np.ceil(np.sqrt(crop.size / _CLOSER_MAX)))
    return _View(np.asarray(Image.fromarray(crop).reduce(fewer)), fewer * np.eye(2), start)


def _closer(view: _View) -> Iterator[_View]:
    """Twice as large, for modules of one or two pixels; levelled, for shades that are near each other; and with the
    bars that lean turned level, for zxing reads along the edges of the picture only."""
    rows, columns = view.picture.shape
    if rows * columns <= _ENLARGED_MAX:
        large = Image.fromarray(view.picture).resize((2 * columns, 2 * rows), Image.Resampling.BILINEAR)
        yield _View(np.asarray(large), view.turn / 2, view.start)
    yield _View(levelled(view.picture), view.turn, view.start)
    angle = _lean(view.picture)
    if angle is not None:
        yield _turned(view, angle)


def _turned(view: _View, angle: float) -> _View:
    """The view turned by so many degrees around its middle, and as large as it takes."""
    rows, columns = view.picture.shape
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    size = np.array([columns * abs(cos) + rows * abs(sin), columns * abs(sin) + rows * abs(cos)])
    turn = np.array([[cos, -sin], [sin, cos]])
    start = np.array([columns, rows]) / 2 - turn @ (size / 2)
    coefficients = (cos, -sin, float(start[0]), sin, cos, float(start[1]))
    wide, tall = (int(np.ceil(side)) for side in size)
    image = Image.fromarray(view.picture).transform(
        (wide, tall), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=128
    )
    return _View(np.asarray(image), view.turn @ turn, view.turn @ start + view.start)


def _lean(picture: Grey) -> float | None:
    """By how many degrees most bars lean off the nearest edge, 0 to 90; None if they do not, or there are none.

    Bars have gradients of one direction wherever one looks: the structure tensor of Bigün and Granlund, 1987.
    """
    calm = ndimage.gaussian_filter(picture.astype(np.float32), 0.8)
    if min(calm.shape) < _AROUND:
        return None
    down, across = np.gradient(calm)
    xx, yy, xy = (ndimage.uniform_filter(both, 17) for both in (across * across, down * down, across * down))
    energy = xx + yy
    counts = (np.hypot(xx - yy, 2 * xy) > _COHERENT * energy) & (energy > _EDGED)
    if not counts.any():
        return None
    angle = np.degrees(0.5 * np.arctan2(2 * xy[counts], xx[counts] - yy[counts])) % 90
    bins = round(90 / _STEP)
    strong = np.bincount((angle / _STEP).astype(int) % bins, np.minimum(energy[counts], 2000), bins)
    both = strong + np.roll(strong, 1)
    both[[0, 1, -1]] = 0
    return float(both.argmax() * _STEP) if both.any() else None


def _busy_parts(picture: Grey) -> list[tuple[slice, slice]]:
    """Where a code may stand: shades run up and down between the same two ends, over and over. Slopes and edges do it
    once, and most of a body has nothing else."""
    busy = _busy(picture, _BUSY, _RANGE)
    if min(picture.shape) >= 3 * _CELL * _COARSE:
        small = np.asarray(Image.fromarray(np.ascontiguousarray(picture)).reduce(_COARSE))
        coarse = _busy(small, _COARSE_BUSY, _COARSE_RANGE).repeat(_COARSE, axis=0).repeat(_COARSE, axis=1)
        busy |= coarse[: busy.shape[0], : busy.shape[1]]
    labels, count = ndimage.label(ndimage.binary_closing(np.pad(busy, 2), np.ones((3, 3)))[2:-2, 2:-2])
    if not count:
        return []
    sizes = np.bincount(labels.ravel())[1:]
    parts = [
        tuple(slice(max(0, _CELL * side.start - _AROUND), _CELL * side.stop + _AROUND) for side in place)
        for place, size in zip(ndimage.find_objects(labels), sizes, strict=True)
        if size >= _CROWDED
    ]
    return _joined(parts, picture.shape)


def _joined(parts: list[tuple[slice, ...]], shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """The parts, or the whole picture where they are most of it, or many."""
    ends = [(slice(down.start, min(down.stop, shape[0])), slice(across.start, min(across.stop, shape[1])))
            for down, across in parts]  # fmt: skip
    pixels = sum((down.stop - down.start) * (across.stop - across.start) for down, across in ends)
    if pixels <= _WHOLE * shape[0] * shape[1]:
        return ends
    return [(slice(0, shape[0]), slice(0, shape[1]))]


def _busy(picture: Grey, least: float, least_range: int) -> Mask:
    """One answer for each cell of 8 x 8 pixels, from it and the cells around it."""
    rows, columns = picture.shape
    filled = np.pad(picture, ((0, -rows % _CELL), (0, -columns % _CELL)), mode="edge").astype(np.int16)
    cells = (filled.shape[0] // _CELL, _CELL, filled.shape[1] // _CELL, _CELL)
    runs = np.zeros(filled.shape, dtype=np.int16)
    runs[:, 1:] = np.abs(np.diff(filled, axis=1))
    runs[1:] += np.abs(np.diff(filled, axis=0))
    often = ndimage.uniform_filter(runs.reshape(cells).mean(axis=(1, 3)), 3)
    blocks = filled.reshape(cells)
    high = ndimage.maximum_filter(blocks.max(axis=(1, 3)), 3)
    low = ndimage.minimum_filter(blocks.min(axis=(1, 3)), 3)
    reach = (high - low).astype(np.float64)
    return np.asarray((reach >= least_range) & (3 * _CELL * often >= least * reach))


def _full_height(corners: Floats, picture: Grey) -> Floats:
    """The corners of a code of bars, along which it was read somewhere, with all of the bars' height."""
    middle = corners.mean(axis=0)
    along = _across_the_bars(corners, picture)
    beside = np.array([-along[1], along[0]])
    reach = (corners - middle) @ along
    steps = np.arange(reach.min(), reach.max() + 1)

    def row(off: float) -> Floats:
        x, y = np.rint(middle[:, None] + along[:, None] * steps + beside[:, None] * off).astype(int)
        shades = picture[y.clip(0, picture.shape[0] - 1), x.clip(0, picture.shape[1] - 1)].astype(np.float64)
        return np.asarray(shades - shades.mean())

    own = row(0.0)
    heights = (corners - middle) @ beside
    low = min(-_reach(lambda off: row(-off), own, max(picture.shape)), heights.min())
    high = max(_reach(row, own, max(picture.shape)), heights.max())
    ends = ((reach.min(), low), (reach.max(), low), (reach.max(), high), (reach.min(), high))
    return np.array([middle + along * u + beside * v for u, v in ends])


def _reach(row: Callable[[float], Floats], own: Floats, most: int) -> int:
    """How far rows of bars go on that are like the one they were read in."""
    last = 0
    for off in range(1, most):
        other = row(off)
        both = float(np.sqrt((own @ own) * (other @ other)))
        if both > 0 and own @ other >= _ALIKE * both:
            last = off
        elif off - last > _BROKEN:
            break
    return last


def _across_the_bars(corners: Floats, picture: Grey) -> Floats:
    """The direction in which bars follow each other: the one of most gradients between the corners."""
    low, high = np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)
    part = picture[max(0, low[1] - 1) : high[1] + 2, max(0, low[0] - 1) : high[0] + 2].astype(np.float64)
    spread = np.ptp(corners, axis=0)
    level = np.array([1.0, 0.0] if spread[0] >= spread[1] else [0.0, 1.0])
    if min(part.shape) < 3:
        return level
    down, across = np.gradient(part)
    tensor = np.array([[(across * across).sum(), (across * down).sum()], [(across * down).sum(), (down * down).sum()]])
    strengths, directions = np.linalg.eigh(tensor)
    return np.asarray(directions[:, 1], dtype=np.float64) if strengths[0] < (1 - _COHERENT) * strengths[1] else level


def _unread_bars(picture: Grey) -> Iterator[Floats]:
    """The corners of upright bars that look like a code, read or not: one that is cut, or drawn too coarsely, says less
    to zxing than to who takes time. Its bars are two shades, many, of several widths, and alike from row to row."""
    rows, columns = (side // _CELL for side in picture.shape)
    if columns < _BARS_LONG or not rows:
        return
    whole = np.ascontiguousarray(picture[: rows * _CELL, : columns * _CELL])
    blocks = whole.reshape(rows, _CELL, columns, _CELL)
    size = (1, 3)
    across = np.abs(np.diff(whole.astype(np.int16), axis=1, append=0)).reshape(blocks.shape).mean(axis=(1, 3))
    down = np.abs(np.diff(blocks.astype(np.int16), axis=1)).mean(axis=(1, 3))
    often = ndimage.uniform_filter(across, size)
    reach = ndimage.maximum_filter(blocks.max(axis=(1, 3)), size) - ndimage.minimum_filter(
        blocks.min(axis=(1, 3)), size
    )
    alike = (ndimage.uniform_filter(down, size) <= _UNLIKE * often) & (reach >= _BARS_RANGE)
    labels, _ = ndimage.label(alike & (3 * _CELL * often >= _BARS_BUSY * reach))
    for place in ndimage.find_objects(labels):
        top, bottom = place[0].start * _CELL, place[0].stop * _CELL
        left, right = (place[1].start - 1) * _CELL, (place[1].stop + 1) * _CELL
        left, right = max(0, left), min(right, picture.shape[1])
        if place[1].stop - place[1].start >= _BARS_LONG and _of_widths(whole[(top + bottom) // 2, left:right]):
            yield np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float64)


def _of_widths(row: Grey) -> bool:
    """Whether a row of shades is many bars of several widths: a grid, a ruler or a test pattern has one,
    or a few, one after the other. A tenth of it at least is dark, and a tenth bright: the ticks of a ruler are less."""
    low, high = np.percentile(row, (10, 90))
    if high - low < _BARS_RANGE:
        return False
    edges = np.nonzero(np.diff(row > (low + high) / 2))[0]
    widths = np.diff(edges)
    if len(widths) < _BARS_MANY:
        return False
    other = np.abs(widths[2:] - widths[:-2]) > _UNEVEN * widths.mean()  # bars with bars, gaps with gaps
    return bool(other.mean() >= _UNEVEN)


def _area(corners: Floats, shape: tuple[int, ...], *, bars: bool) -> Mask:
    """The pixels between the corners, and a margin; a narrow one above and below bars, where text may stand."""
    top, right, bottom, left = (corners - np.roll(corners, 1, axis=0))[[1, 2, 3, 0]]
    margin = max(_MARGIN_MIN, _MARGIN * float(np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1).max()))
    grown = corners.copy()
    for along, wide in ((top - bottom, margin), (right - left, _BESIDE_BARS if bars else margin)):
        unit = along / max(float(np.linalg.norm(along)), 1e-6)
        grown += wide * np.sign((corners - corners.mean(axis=0)) @ unit)[:, None] * unit
    image = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in grown], fill=1)
    return np.asarray(image)
