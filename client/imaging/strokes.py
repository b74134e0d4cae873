"""Where in a grey picture something may be written: a cheap look before the networks are asked.

Letters are strokes, thinner than the things of a body and brighter or darker than both of their sides. A morphological
opening takes strokes thinner than its window away and leaves edges and slopes of any height (Serra, "Image Analysis
and Mathematical Morphology", 1982, on the top-hat). What it took away is squared and averaged over windows of 16
pixels, and compared with what noise leaves in the same part of the picture.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage
from scipy.spatial import KDTree

from client.imaging.png import Grey

_WINDOW = 7  # pixels; strokes up to 6 wide, which letters up to about 40 high have
_CELL = 8
_ABOVE_NOISE, _SILENCE, _LOUD = 2.5, 30.0, 600.0  # ratio; squares of shades: what is never, and what is always asked
_NEIGHBOURS = 11  # cells on a side of the part of the picture that says how strong its noise is
_AROUND, _THIN = 63, 11  # pixels that a shade is compared with; pixels
_CALM, _PLAIN = 0.7, 0.7  # pixels; shades: less is rounding, not noise
_STAND_OUT = (80, 45)  # shades of a `thin` picture: two standard deviations, nearly, and one
_MARK_MIN, _MARK_MAX = 6, 48  # pixels
_ALIKE, _LINED_UP, _GAP = 1.6, 0.3, 3.0  # of two marks' heights: their ratio, how far off the other, how far apart
_GLYPH_MAX, _WITHIN = 32, 0.4  # pixels; of a glyph's box, from which marks in it, side by side, are letters
_FAR, _AS_STRONG = 4.0, 0.35  # heights from a glyph to the next in its row; of its contrast
_SIDE_MIN, _SIDE_SHARE = 6, 0.4  # pixels; of a square as tall as a place: what of a side has to be seen
_RULED, _RULE_MIN, _RULE_THIN = 0.5, 40, 7  # of the strokes of a place; pixels: how long and how thin lines are
_ROW, _LEVEL = 4, 0.6  # marks; how far off each other they may be in all

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Rectangle = tuple[int, int, int, int]


def written(picture: Grey) -> Mask:
    """Where something may be written, in squares of 8 x 8 pixels.

    Guarantees: where strokes up to 6 pixels wide differ by 25 shades or more from both of their sides and fill a fifth
    of a window of 16 pixels, the window is in it, whatever the noise; in quieter places fainter ones are.
    """
    size = (_WINDOW, _WINDOW)
    bright = picture - ndimage.grey_opening(picture, size)
    dark = ndimage.grey_closing(picture, size) - picture
    suspected = _stands_out(bright) | _stands_out(dark)
    return np.kron(suspected, np.ones((_CELL, _CELL), dtype=np.bool_))[: picture.shape[0], : picture.shape[1]]


def noise_of(picture: Grey) -> float:
    """Standard deviation of a picture's noise, in shades. Immerkær, "Fast Noise Variance Estimation", 1996, with a
    median instead of a mean, so that edges and letters hardly count."""
    if min(picture.shape) < 3:
        return 0.0
    values = picture.astype(np.int16)
    across = values[:, :-2] - 2 * values[:, 1:-1] + values[:, 2:]
    both = across[:-2] - 2 * across[1:-1] + across[2:]
    return float(np.median(np.abs(both))) / (0.6745 * 6)


def levelled(picture: Grey) -> Grey:
    """The picture without its slopes, every part of it stretched to the same contrast.

    A shade becomes its distance from the mean of the 63 x 63 pixels around it, in standard deviations of these: three
    shades on plain black are seen as well as letters over ribs.
    """
    return _stretched(_calm(picture), _AROUND)


def thin(picture: Grey) -> Grey:
    """Only what is thinner than 11 pixels, brighter or darker than both of its sides, stretched as `levelled` is.

    Edges leave nothing here, so that letters beside one are seen that `levelled` loses in its glare.
    """
    return _stretched(stroked(picture), _AROUND // 2)


def colours(picture: Grey) -> npt.NDArray[np.uint8]:
    """The picture, levelled, and its strokes, as three colours; (rows, columns, 3)."""
    return np.dstack([picture, levelled(picture), thin(picture)])


def rows(strokes: Grey) -> tuple[list[list[Rectangle]], list[list[Rectangle]]]:
    """Rows of four marks or more that stand side by side and are as tall as each other, the longest first: level ones,
    and upright ones in the coordinates of `np.rot90(strokes)`.

    `strokes` is a picture as `thin` makes it. Letters that stand wide apart are such a row. A detector, which looks for
    lines, sees the gaps between them.
    """
    inks = (ink for least in _STAND_OUT for ink in (strokes > 128 + least, strokes < 128 - least))
    boxes = [_boxes(ink) for ink in inks]
    turned = [
        np.stack((strokes.shape[1] - b[:, 3], b[:, 0], strokes.shape[1] - b[:, 1], b[:, 2]), axis=1) for b in boxes
    ]
    level, upright = ([row for some in all_ for row in _side_by_side(_marks(some))] for all_ in (boxes, turned))
    return sorted(level, key=len, reverse=True), sorted(upright, key=len, reverse=True)


def stands_in_a_row(picture: Grey, glyph: Rectangle) -> bool:
    """Whether what is in the rectangle is two marks or more, or a mark like it stands beside, above or below it.

    Beside: as `rows` has it, and up to four heights away. Letters of one row are as strong as each other, on the whole:
    a mark counts that has a third of the strokes' contrast.
    """
    top, left, bottom, right = glyph
    reach = int((_FAR + 2) * max(bottom - top, right - left)) + _THIN
    start = max(0, top - reach), max(0, left - reach)
    part = picture[start[0] : bottom + reach, start[1] : right + reach]
    fewer = max(1, -(-max(bottom - top, right - left) // _GLYPH_MAX))
    small = np.asarray(Image.fromarray(np.ascontiguousarray(part)).reduce(fewer))
    own = np.array([top - start[0], left - start[1], bottom - start[0], right - start[1]]) / fewer
    strokes, place = stroked(small), [round(float(edge)) for edge in own]
    strong = _AS_STRONG * float(np.percentile(np.abs(strokes[place[0] : place[2], place[1] : place[3]]), 95))
    return any(_has_a_neighbour(_boxes(ink), own) for ink in (strokes > strong, strokes < -strong))


def _has_a_neighbour(boxes: npt.NDArray[np.int64], own: npt.NDArray[np.float64]) -> bool:
    size = boxes[:, 2:] - boxes[:, :2]
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((middle >= own[:2]) & (middle <= own[2:])).all(axis=1)
    letters = boxes[inside & (size.max(axis=1) >= _WITHIN * (own[2:] - own[:2]).max())]
    if len(letters) > 1 and any((letters[:, 2 + axis].min() <= letters[:, axis].max()) for axis in (0, 1)):
        return True
    glyph = np.concatenate((boxes[inside, :2].min(axis=0), boxes[inside, 2:].max(axis=0))) if inside.any() else own
    for down, across in ((0, 1), (1, 0)):
        tall = glyph[2 + down] - glyph[down]
        low, high = np.minimum(size[:, down], tall), np.maximum(size[:, down], tall)
        off = np.abs(middle[:, down] - (glyph[down] + glyph[2 + down]) / 2)
        gap = np.maximum(boxes[:, across] - glyph[2 + across], glyph[across] - boxes[:, 2 + across])
        fits = (high <= _ALIKE * low) & (off <= _LINED_UP * low) & (gap >= 0) & (gap <= _FAR * low)
        if (fits & (size[:, across] <= _ALIKE * size[:, down]) & (size[:, down] >= _MARK_MIN - 2) & ~inside).any():
            return True
    return False


def stands_out(picture: Grey, place: Rectangle, hidden: Mask) -> float:
    """How much stronger the strokes of a place are than those of the quietest of its four sides; infinite where none
    of them can be compared.

    Of a long place its strongest part counts, for it may be written in there only. Straight lines are left out: the
    cells of a grid are as empty as each other. What is hidden is no side.
    """
    low = max(_SIDE_MIN, min(place[2] - place[0], place[3] - place[1]))
    reach = 3 * low + _THIN
    down, across = max(0, place[0] - reach), max(0, place[1] - reach)
    part = slice(down, place[2] + reach), slice(across, place[3] + reach)
    top, left, bottom, right = place[0] - down, place[1] - across, place[2] - down, place[3] - across
    strokes = np.abs(stroked(picture[part]))
    strong = float(np.percentile(strokes[top:bottom, left:right], 95))
    counts = ~_ruled(strokes > _RULED * strong, max(_RULE_MIN, 3 * low))
    counts &= ~ndimage.binary_dilation(hidden[part], iterations=_THIN // 2 + 1)

    def seen(top: int, left: int, bottom: int, right: int) -> float:
        window = slice(max(0, top), max(0, bottom)), slice(max(0, left), max(0, right))
        values = strokes[window][counts[window]]
        return float(np.percentile(values, 95)) if len(values) >= _SIDE_SHARE * low**2 else np.inf

    near = low // 2
    quiet = min(
        seen(top - near - low, left, top - near, right),
        seen(bottom + near, left, bottom + near + low, right),
        seen(top, left - near - 2 * low, bottom, left - near),
        seen(top, right + near, bottom, right + near + 2 * low),
    )
    level = right - left >= bottom - top
    start, stop = (left, right) if level else (top, bottom)
    cuts = np.linspace(start, stop, max(1, round((stop - start) / (2 * low))) + 1).astype(int).tolist()
    ends = zip(cuts[:-1], cuts[1:], strict=True)
    own = max(seen(top, one, bottom, two) if level else seen(one, left, two, right) for one, two in ends)
    return own / max(quiet, _PLAIN) if quiet < np.inf else np.inf


def _ruled(ink: Mask, least: int) -> Mask:
    """Straight lines, level or upright, that are as long as `least` and thinner than letters are tall."""
    return np.asarray(ndimage.binary_dilation(_level_lines(ink, least) | _level_lines(ink.T, least).T, np.ones((3, 3))))


def _level_lines(ink: Mask, least: int) -> Mask:
    long = ndimage.binary_opening(ndimage.binary_dilation(ink, np.ones((3, 1))), np.ones((1, least)))
    return np.asarray(long & ~ndimage.binary_opening(long, np.ones((_RULE_THIN, 1))))


def stroked(picture: Grey) -> Floats:
    """By how many shades every pixel is brighter or darker than both of its sides: the two top-hats."""
    calm, size = _calm(picture), (_THIN, _THIN)
    return np.asarray(2 * calm - ndimage.grey_opening(calm, size) - ndimage.grey_closing(calm, size))


def filled(picture: Grey, hidden: Mask) -> Grey:
    """The picture with the mean of the surroundings where it is hidden, so that what was blanked dazzles nothing."""
    if not hidden.any() or hidden.all():
        return picture
    seen = (~hidden).astype(np.float32)
    around = np.where(hidden, picture[~hidden].mean(), 0).astype(np.float32)
    for window in (4 * _AROUND, _AROUND, 9):
        share = ndimage.uniform_filter(seen, window)
        mean = ndimage.uniform_filter(picture * seen, window) / np.maximum(share, 1e-3)
        around = np.where(share > 0.02, mean, around)
    return np.where(hidden, np.rint(around), picture).astype(np.uint8)


def _boxes(ink: Mask) -> npt.NDArray[np.int64]:
    """(top, left, bottom, right) of each component."""
    labels, _ = ndimage.label(ink, np.ones((3, 3)))
    edges = [(down.start, across.start, down.stop, across.stop) for down, across in ndimage.find_objects(labels)]
    return np.array(edges, dtype=np.int64).reshape(-1, 4)


def _marks(boxes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Those that have the size of a letter and are not much wider than tall."""
    tall, wide = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return np.asarray(boxes[(tall >= _MARK_MIN) & (tall <= _MARK_MAX) & (wide <= _ALIKE * tall)])


def _side_by_side(marks: npt.NDArray[np.int64]) -> list[list[Rectangle]]:
    """Each mark is followed to the next one on its right that is like it."""
    if len(marks) < _ROW:
        return []
    tall = (marks[:, 2] - marks[:, 0]).astype(np.float64)
    middle = np.stack(((marks[:, 0] + marks[:, 2]) / 2, (marks[:, 1] + marks[:, 3]) / 2), axis=1)
    near = KDTree(middle / (_LINED_UP, 1 + _GAP) / _MARK_MAX).query_pairs(1.5, output_type="ndarray")
    first, second = np.where(middle[near[:, 0], 1] <= middle[near[:, 1], 1], near.T, near.T[::-1])
    low, high = np.minimum(tall[first], tall[second]), np.maximum(tall[first], tall[second])
    gap = marks[second, 1] - marks[first, 3]
    fits = (high <= _ALIKE * low) & (np.abs(middle[first, 0] - middle[second, 0]) <= _LINED_UP * low)
    fits &= (gap >= 0) & (gap <= _GAP * low)
    first, second, gap = first[fits], second[fits], gap[fits]
    order = np.lexsort((gap, first))
    nearest = order[np.unique(first[order], return_index=True)[1]]
    following = dict(zip(first[nearest].tolist(), second[nearest].tolist(), strict=True))
    chains = []
    for start in sorted(set(following) - set(following.values())):
        chain = [start]
        while chain[-1] in following:
            chain.append(following[chain[-1]])
        least = tall[chain].min()
        even = tall[chain].max() <= _ALIKE * least and np.ptp(middle[chain, 0]) <= _LEVEL * least
        if len(chain) >= _ROW and even:
            chains.append([tuple(marks[one].tolist()) for one in chain])
    return chains


def _calm(picture: Grey) -> Floats:
    return np.asarray(ndimage.gaussian_filter(picture.astype(np.float32), _CALM))


def _stretched(values: Floats, around: int) -> Grey:
    off = values - ndimage.uniform_filter(values, around)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(off**2, around), _PLAIN**2))
    return np.asarray(np.clip(128 + off * (45 / spread), 0, 255).astype(np.uint8))


def smoothed(picture: Grey) -> Grey:
    """Noise averaged over the width of a thin stroke, and the rest stretched to fill the range of shades."""
    calm = ndimage.gaussian_filter(picture.astype(np.float32), 1.0)
    spread = max(float(calm.std()), 1.0)
    return np.asarray(np.clip(128 + (calm - calm.mean()) * (40 / spread), 0, 255).astype(np.uint8))


def _stands_out(strokes: Grey) -> Mask:
    """One answer per cell of 8 x 8 pixels."""
    rows, columns = strokes.shape
    down, across = -(-rows // _CELL), -(-columns // _CELL)
    squares = np.zeros((down * _CELL, across * _CELL), dtype=np.float32)
    squares[:rows, :columns] = strokes.astype(np.float32) ** 2
    cells = squares.reshape(down, _CELL, across, _CELL).mean(axis=(1, 3))
    windows = ndimage.uniform_filter(cells, 2)
    usual = ndimage.percentile_filter(windows, 25, size=_NEIGHBOURS)
    return np.asarray((windows > np.maximum(_ABOVE_NOISE * usual, _SILENCE)) | (windows > _LOUD))
