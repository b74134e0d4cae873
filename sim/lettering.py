"""Draws what the letter finder learns from: pictures with lines of text on them, and with much that only looks so.

Grounds are chests and slices of `sim.anatomy`, textures, slopes and flat fields, and pieces of a folder of radiographs
where one is given. On them go hardware and furniture (wires, screws, staples, tubes, rulers, grids, frames), then lines
of invented names, dates and numbers: of any direction, mirrored, faint, boxed, outlined, cut by an edge, blurred, under
noise and after JPEG. Everything follows from the random generator that is given.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import ndimage

from client.imaging.vocabulary import listed_words
from sim.anatomy import draw_chest, draw_ct_slice

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
SIDE = 256
"""Pixels of a side of a drawn picture."""
_CAP_MIN, _CAP_MAX = 4.4, 44.0  # pixels, of a capital
_CORE = 0.25  # of its height is taken off a line all around, so that neighbours stay apart
_LEGIBLE, _PLAIN = 1.6, 0.55  # contrast over what is around, from which a line has to be found, and may be
_ROUGHEST = 15.0  # shades: more is an edge, and no grain
_SCALE = 3  # things are drawn this many times larger

_SYLLABLES = (
    "ba be bor ca chi da del do e el en fa fer gar gu ha hol i in jo ka ki la li lo ma mi mo na ne no o ol pa "
    "per ra re ri ro sa schm sen si sta su ta te ti to ul va ve vi wa we wil ya yo za ze zu ö ü é ñ ø".split()
)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789ÄÖÜäöüéèñçŁøß.,:;-/#()^'&+"
_MARKERS = "R L AP PA RT LT ERECT SUPINE PORTABLE LAT RCC LMLO kV mAs cm mm DOB ID MRN Dr. F M".split()


@dataclass(frozen=True)
class Lettered:
    """A picture, where the cores of its lines are, and which pixels say nothing about it (too faint to be read)."""

    picture: npt.NDArray[np.uint8]
    """(SIDE, SIDE)."""
    core: Mask
    unclear: Mask


@dataclass(frozen=True)
class _Glyphs:
    ink: Floats
    """0 to 1."""
    cap: float
    letters: int


class Artist:
    """Draws pictures, one after the other, with the fonts, or pillow's own, and on the grounds that it was given."""

    def __init__(self, rng: np.random.Generator, fonts: Sequence[Path] = (), grounds: Sequence[Path] = ()) -> None:
        self._rng = rng
        self._fonts = [path.read_bytes() for path in fonts]
        self._words = sorted(listed_words("words"))
        self._chests = [_grey(path) for path in grounds]
        self._drawn = [self._anatomy() for _ in range(24)]

    def draw(self) -> Lettered:
        rng = self._rng
        picture = self._ground()
        for thing in rng.permutation(len(_THINGS))[: rng.choice(5, p=[0.3, 0.28, 0.22, 0.13, 0.07])]:
            picture = self._with_thing(picture, _THINGS[thing])
        core, unclear = np.zeros((2, SIDE, SIDE), dtype=np.bool_)
        taken = np.zeros((SIDE, SIDE), dtype=np.bool_)
        for _ in range(rng.choice(8, p=[0.14, 0.22, 0.2, 0.14, 0.1, 0.08, 0.07, 0.05])):
            picture = self._with_line(picture, core, unclear, taken)
        if rng.random() < 0.25:
            picture = np.asarray(ndimage.gaussian_filter(picture, rng.uniform(0.3, 0.7)), dtype=np.float32)
        if rng.random() < 0.4:
            picture = picture + rng.normal(0, rng.uniform(0.5, 9), picture.shape).astype(np.float32)
        drawn = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
        if rng.random() < 0.25:
            drawn = _as_jpeg(drawn, int(rng.integers(40, 95)))
        if rng.random() < 0.15:
            drawn = 255 - drawn
        return Lettered(drawn, core, unclear & ~core)

    # --- grounds

    def _anatomy(self) -> Floats:
        rows, columns = (int(side) for side in self._rng.integers(300, 700, 2))
        if self._rng.random() < 0.7:
            return 255 * draw_chest((), self._rng, rows=rows, columns=columns)
        low, wide = self._rng.uniform(-1000, -100), self._rng.uniform(300, 1600)
        slice_ = (draw_ct_slice((), self._rng, rows=rows, columns=columns) - low) / wide
        return np.asarray(np.clip(slice_, 0, 1) * 255, dtype=np.float32)

    def _ground(self) -> Floats:
        rng = self._rng
        kind = rng.random()
        if kind < (0.5 if self._chests else 0.0):
            ground = self._piece(self._chests[rng.integers(len(self._chests))])
        elif kind < 0.68:
            ground = self._piece(self._drawn[rng.integers(len(self._drawn))])
            if rng.random() < 0.02:
                self._drawn[rng.integers(len(self._drawn))] = self._anatomy()
        elif kind < 0.78:
            ground = np.full((SIDE, SIDE), rng.choice([0, 0, 0, 255, rng.uniform(0, 255)]), dtype=np.float32)
        elif kind < 0.9:
            ground = np.full((SIDE, SIDE), rng.uniform(20, 200), dtype=np.float32)
            for size in rng.choice([2, 4, 8, 16, 32, 64, 128], 3):
                ground += np.float32(rng.uniform(2, 50)) * _cloud(rng, int(size))
        else:  # speckle in a sector
            speckle = np.abs(_cloud(rng, 2) + 1j * _cloud(rng, 3)) ** rng.uniform(0.5, 1.2) * rng.uniform(20, 70)
            down, across = np.mgrid[:SIDE, :SIDE] - rng.uniform(-60, 316, (2, 1, 1))
            ground = np.where(np.hypot(down, across) < rng.uniform(60, 260), speckle, rng.choice([0, 0, 15, 40]))
        ground = ground.astype(np.float32)
        if rng.random() < 0.35:
            edge, shade = int(rng.integers(0, SIDE)), float(rng.choice([0, 0, 255, 255, 40]))
            ground = np.rot90(ground, int(rng.integers(4))).copy()
            ground[:edge] = shade
        if rng.random() < 0.3:
            ground = ground + rng.uniform(-0.3, 0.3) * np.arange(SIDE)[None, :]
        ground = (ground - 128) * rng.uniform(0.5, 1.2) + rng.uniform(70, 170) if rng.random() < 0.5 else ground
        return np.asarray(np.clip(ground, 0, 255), dtype=np.float32)

    def _piece(self, whole: Floats) -> Floats:
        rng = self._rng
        smaller = float(rng.uniform(0.35, 1.3)) * 500 / max(whole.shape)
        size = [max(SIDE, round(side * smaller)) for side in whole.shape[::-1]]
        image = np.asarray(Image.fromarray(whole).resize((size[0], size[1]), Image.Resampling.BILINEAR))
        top, left = (int(rng.integers(0, side - SIDE + 1)) for side in image.shape)
        piece = image[top : top + SIDE, left : left + SIDE]
        piece = np.rot90(piece, int(rng.choice([0, 0, 0, 1, 2, 3])))
        return np.asarray(piece[:, ::-1] if rng.random() < 0.5 else piece, dtype=np.float32)

    def _with_thing(self, picture: Floats, thing: Callable[["_Pen", np.random.Generator], None]) -> Floats:
        pen = _Pen()
        thing(pen, self._rng)
        shade, strength = float(self._rng.choice([255, 255, 230, 0, 20, 128])), self._rng.uniform(0.15, 1.0)
        alpha = pen.drawn() * strength
        return np.asarray(picture * (1 - alpha) + shade * alpha, dtype=np.float32)

    # --- lines

    def _text(self) -> str:
        rng = self._rng

        def one_of(texts: Sequence[str]) -> str:
            return str(texts[int(rng.integers(len(texts)))])

        def word() -> str:
            return "".join(one_of(_SYLLABLES) for _ in range(rng.integers(1, 5))).title()

        def digits(least: int, most: int) -> str:
            return "".join(map(str, rng.integers(0, 10, rng.integers(least, most))))

        day, month, year = int(rng.integers(1, 32)), int(rng.integers(1, 13)), int(rng.integers(1920, 2030))
        texts = [
            word(), f"{word()}, {word()}", f"{word()} {word()}", f"{word()}^{word()}", word().upper(),
            f"{word()} {word()}".upper(), f"{word()} {word()[0]}.", f"{day:02}.{month:02}.{year}",
            f"{month}/{day}/{year % 100:02}", f"{year}-{month:02}-{day:02}", f"{year}{month:02}{day:02}", digits(2, 10),
            f"ID: {digits(4, 9)}", f"{digits(2, 3)}:{digits(2, 3)}", f"#{digits(3, 8)}", f"{word()[0]}{digits(3, 9)}",
            f"DOB {day:02}/{month:02}/{year}", one_of(self._words), f"{one_of(self._words)} {one_of(self._words)}",
            one_of(_MARKERS), one_of(_MARKERS), "".join(one_of(_LETTERS) for _ in range(rng.integers(2, 14))),
            f"{word()} {digits(3, 9)} {day:02}.{month:02}.{year}",
        ]  # fmt: skip
        return one_of(texts)

    def _font(self, size: int) -> ImageFont.FreeTypeFont:
        if not self._fonts:
            return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))
        return ImageFont.truetype(io.BytesIO(self._fonts[self._rng.integers(len(self._fonts))]), size)

    def _glyphs(self) -> _Glyphs:
        """A level line, cropped to its ink."""
        rng = self._rng
        text = self._text()
        cap = float(np.exp(rng.uniform(np.log(_CAP_MIN), np.log(_CAP_MAX if rng.random() < 0.6 else 12))))
        kind = rng.random()
        if kind < 0.1:
            font: ImageFont.ImageFont | ImageFont.FreeTypeFont = ImageFont.load_default_imagefont()
            text = text.encode("latin-1", "replace").decode("latin-1")
            larger, mode, real = max(1.0, cap / 7), "L", 7.0
        else:
            larger = 1 / float(rng.choice([1, 1, 2, 4]))
            font = self._font(max(5, round(cap / larger / 0.72)))
            mode = "1" if rng.random() < 0.2 and larger == 1 else "L"
            box = font.getbbox("H")
            real = float(box[3] - box[1])
        gap = cap / larger * rng.uniform(0.1, 0.8) if rng.random() < 0.12 else 0.0
        wide = int(font.getlength(text) + gap * len(text)) + 12
        canvas = Image.new(mode, (wide, int(3 * real) + 14), 0)
        pen = ImageDraw.Draw(canvas)
        if gap:
            at = 4.0
            for letter in text:
                pen.text((at, 4), letter, fill=255, font=font)
                at += font.getlength(letter) + gap
        else:
            pen.text((4, 4), text, fill=255, font=font)
        canvas = canvas.convert("L")
        if rng.random() < 0.12:
            canvas = canvas.filter(ImageFilter.MaxFilter(3))
        if larger != 1:
            sharp = Image.Resampling.NEAREST if larger > 1 and rng.random() < 0.6 else Image.Resampling.BILINEAR
            sharp = Image.Resampling.BOX if larger < 1 else sharp
            if larger > 1 and sharp is Image.Resampling.NEAREST:
                larger = round(larger)
            size = max(1, round(canvas.width * larger)), max(1, round(canvas.height * larger))
            canvas = canvas.resize(size, sharp)
        ink = np.asarray(canvas, dtype=np.float32) / np.float32(255)
        rows, columns = np.nonzero(ink > 0.1)
        if not len(rows):
            return _Glyphs(np.zeros((6, 6), dtype=np.float32), cap, 0)
        inner = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        return _Glyphs(inner, real * larger, len(text))

    def _with_line(self, picture: Floats, core: Mask, unclear: Mask, taken: Mask) -> Floats:
        rng = self._rng
        glyphs = self._glyphs()
        ink, cap = glyphs.ink, glyphs.cap
        edge = max(2, round(0.3 * cap))
        ink = np.pad(ink, edge)
        whole = np.zeros_like(ink)
        whole[edge:-edge, edge:-edge] = 1
        inner = np.zeros_like(ink)
        off = edge + max(0, round(_CORE * (ink.shape[0] - 2 * edge)))
        inner[off : max(off + 1, ink.shape[0] - off), off : max(off + 1, ink.shape[1] - off)] = 1
        layers = [ink, whole, inner]
        if rng.random() < 0.1:
            layers = [layer[:, ::-1] for layer in layers]
        turn = rng.choice(4, p=[0.6, 0.17, 0.06, 0.17])
        layers = [np.rot90(layer, turn) for layer in layers]
        if rng.random() < 0.22:
            angle = float(rng.choice([rng.uniform(-12, 12), rng.uniform(-90, 90)]))
            layers = [_turned(layer, angle) for layer in layers]
        tall, wide = layers[0].shape
        for _ in range(6):
            if rng.random() < 0.25:  # cut by an edge, or beside it
                top, left = (int(rng.integers(-side // 2, SIDE - side // 3)) for side in (tall, wide))
            else:
                top, left = (int(rng.integers(min(0, SIDE - side), max(1, SIDE - side + 1))) for side in (tall, wide))
            placed = [_placed(layer, top, left) for layer in layers]
            if not (taken & (placed[1] > 0.5)).any():
                break
        else:
            return picture
        strokes, area, middle = placed
        if strokes.max() < 0.3:
            return picture
        inside = area > 0.5
        taken |= ndimage.binary_dilation(inside, iterations=max(2, round(0.4 * cap)))
        behind = picture[strokes > 0.3]
        shade, ground = self._shades(float(np.median(behind)))
        drawn = picture
        style = rng.random()
        if style < 0.14:  # a box
            box = ndimage.binary_dilation(inside, iterations=int(rng.integers(1, 5)))
            drawn = np.where(box, ground, drawn)
        elif style < 0.24:  # an outline or a shadow
            around = ndimage.grey_dilation(strokes, 3) if rng.random() < 0.5 else np.roll(strokes, (1, 1), (0, 1))
            drawn = drawn * (1 - around) + ground * around
        if rng.random() < 0.3:
            strokes = ndimage.gaussian_filter(strokes, rng.uniform(0.2, 0.09 * cap))
        drawn = drawn * (1 - strokes) + shade * strokes
        legible = _legibility(picture, drawn, strokes, abs(shade - ground) * 0.7 if style < 0.24 else 0.0, cap)
        if legible[inside].max() < _PLAIN:
            return picture
        clear = (legible >= _LEGIBLE) & (glyphs.letters > 1)  # radiographs of the folder carry markers of one letter
        core |= (middle > 0.5) & clear
        unclear |= ndimage.binary_dilation(inside, iterations=2) & ~clear
        return drawn

    def _shades(self, behind: float) -> tuple[float, float]:
        """Of letters, and of what may be drawn behind them."""
        rng = self._rng
        contrast = float(np.exp(rng.uniform(np.log(9), np.log(250))))
        brighter = rng.random() < (0.75 if behind < 128 else 0.4)
        shade = behind + contrast if brighter else behind - contrast
        if rng.random() < 0.25:
            shade = 255.0 if brighter else 0.0
        shade = float(np.clip(shade, 0, 255))
        away = shade - rng.uniform(30, 255) if shade > 128 else shade + rng.uniform(30, 255)
        return shade, float(np.clip(away, 0, 255))


# --- what looks like text and is none


class _Pen:
    """Draws larger, so that edges are soft. Coordinates are pixels of the picture."""

    def __init__(self) -> None:
        self._image = Image.new("L", (SIDE * _SCALE, SIDE * _SCALE), 0)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: npt.ArrayLike, wide: float, shade: int = 255) -> None:
        at = [(float(x) * _SCALE, float(y) * _SCALE) for x, y in np.asarray(points)]
        self._draw.line(at, fill=shade, width=max(1, round(wide * _SCALE)), joint="curve")

    def disc(self, at: npt.ArrayLike, radius: float, shade: int = 255) -> None:
        x, y = np.asarray(at, dtype=np.float64).tolist()
        box = [(x - radius) * _SCALE, (y - radius) * _SCALE, (x + radius) * _SCALE, (y + radius) * _SCALE]
        self._draw.ellipse(box, fill=shade)

    def ring(self, at: npt.ArrayLike, radius: float, wide: float) -> None:
        x, y = np.asarray(at, dtype=np.float64).tolist()
        box = [(x - radius) * _SCALE, (y - radius) * _SCALE, (x + radius) * _SCALE, (y + radius) * _SCALE]
        self._draw.ellipse(box, outline=255, width=max(1, round(wide * _SCALE)))

    def drawn(self) -> Floats:
        small = self._image.resize((SIDE, SIDE), Image.Resampling.BOX)
        return np.asarray(small, dtype=np.float32) / np.float32(255)


def _curve(rng: np.random.Generator, steps: int = 7, long: float = 60.0) -> npt.NDArray[np.float64]:
    """Points of a soft curve, (n, 2)."""
    knots = rng.uniform(0, SIDE, 2) + np.cumsum(rng.normal(0, long, (steps, 2)), axis=0)
    along = np.linspace(0, steps - 1, 120)
    each = [ndimage.gaussian_filter1d(np.interp(along, range(steps), knots[:, axis]), 8) for axis in (0, 1)]
    return np.stack(each, axis=1)


def _way(rng: np.random.Generator) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A direction, upright or level more often than not, and the one across it."""
    angle = float(rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)], p=[0.3, 0.3, 0.4]))
    return np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])


def _tube(pen: _Pen, rng: np.random.Generator) -> None:
    path, wide = _curve(rng), rng.uniform(1, 9)
    pen.line(path, wide, 160)
    if rng.random() < 0.5:
        pen.line(path, wide * 0.3)


def _loops(pen: _Pen, rng: np.random.Generator) -> None:
    start, step = rng.uniform(40, 216, 2), rng.normal(0, 26, 2)
    size, wide = rng.uniform(3, 12), rng.uniform(0.8, 2.2)
    for number in range(rng.integers(1, 7)):
        turn = rng.uniform(0, 6)
        round_ = np.linspace(turn, turn + rng.uniform(3, 6.2), 40)
        loop = start + number * step + rng.normal(0, 2, 2) + size * np.stack([np.cos(round_), 0.7 * np.sin(round_)], 1)
        pen.line(loop, wide)
        pen.line([loop[-1], loop[-1] + rng.normal(0, size / 2, 2)], wide)


def _screws(pen: _Pen, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 6)):
        start, (way, across) = rng.uniform(20, 236, 2), _way(rng)
        long, wide, pitch = rng.uniform(12, 60), rng.uniform(1.5, 5), rng.uniform(1.6, 4)
        pen.line([start, start + way * long], wide)
        for at in np.arange(0.15 * long, long, pitch):
            pen.line([start + way * at - across * wide, start + way * at + across * wide], pitch * 0.45)
        pen.line([start - across * wide * 1.6, start + across * wide * 1.6], rng.uniform(2, 4))


def _plate(pen: _Pen, rng: np.random.Generator) -> None:
    start, (way, _), step, wide = rng.uniform(20, 200, 2), _way(rng), rng.uniform(8, 20), rng.uniform(5, 12)
    holes = rng.integers(3, 10)
    pen.line([start, start + way * step * (holes - 1)], wide)
    for hole in range(holes):
        pen.disc(start + way * step * hole, wide * rng.uniform(0.2, 0.4), 60)


def _ticks(pen: _Pen, rng: np.random.Generator) -> None:
    start, (way, across), step = rng.uniform(0, 200, 2), _way(rng), rng.uniform(3, 22)
    long, every, wide = rng.uniform(2, 10), rng.choice([1, 2, 5, 10]), rng.uniform(0.7, 2)
    count = rng.integers(4, 60)
    for number in range(count):
        at = start + way * step * number
        pen.line([at, at + across * long * (1 if number % every else 1.8)], wide)
    if rng.random() < 0.5:
        pen.line([start, start + way * step * (count - 1)], wide)


def _grid(pen: _Pen, rng: np.random.Generator) -> None:
    step, wide = rng.uniform(6, 70), rng.uniform(0.5, 1.6)
    both = rng.random() < 0.7
    for at in np.arange(rng.uniform(0, step), SIDE, step):
        pen.line([(0, at), (SIDE, at)], wide)
        if both:
            pen.line([(at, 0), (at, SIDE)], wide)


def _staples(pen: _Pen, rng: np.random.Generator) -> None:
    start, (way, across), step = rng.uniform(20, 200, 2), _way(rng), rng.uniform(5, 16)
    long, wide, hook = rng.uniform(3, 12), rng.uniform(0.8, 2), rng.uniform(0, 4)
    for number in range(rng.integers(3, 18)):
        at = start + way * step * number + rng.normal(0, 1.2, 2)
        ends = at - across * long / 2, at + across * long / 2
        pen.line([ends[0] + way * hook, *ends, ends[1] + way * hook], wide)


def _stent(pen: _Pen, rng: np.random.Generator) -> None:
    path, wide, turns = _curve(rng, 3, 30), rng.uniform(3, 10), rng.integers(5, 30)
    across = np.gradient(path, axis=0)[:, ::-1] * (-1, 1)
    across = across / np.maximum(np.hypot(*across.T)[:, None], 1e-6)
    for phase in (0, np.pi):
        pen.line(path + across * wide * np.sin(np.linspace(0, turns * np.pi, len(path)) + phase)[:, None], 0.9)


def _discs(pen: _Pen, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 7)):
        at, size = rng.uniform(0, SIDE, 2), rng.uniform(1.5, 16)
        if rng.random() < 0.5:
            pen.disc(at, size)
            pen.disc(at, size * rng.uniform(0.2, 0.6), 90)
        else:
            pen.ring(at, size, rng.uniform(0.8, 2.5))
        if rng.random() < 0.4:
            pen.line([at, at + rng.normal(0, 90, 2)], rng.uniform(0.8, 2))


def _beads(pen: _Pen, rng: np.random.Generator) -> None:
    start, (way, _), step = rng.uniform(0, 220, 2), _way(rng), rng.uniform(3, 14)
    for number in range(rng.integers(4, 50)):
        pen.disc(start + way * step * number + rng.normal(0, 0.4, 2), step * rng.uniform(0.15, 0.4))


def _zipper(pen: _Pen, rng: np.random.Generator) -> None:
    start, (way, across), step = rng.uniform(0, 220, 2), _way(rng), rng.uniform(3, 9)
    wide = rng.uniform(2, 6)
    for number in range(rng.integers(8, 60)):
        at = start + way * step * number
        side = wide if number % 2 else -wide
        pen.line([at, at + across * side], step * 0.5)


def _strokes(pen: _Pen, rng: np.random.Generator) -> None:
    """Short marks without an order: clips, wires' ends, calcifications."""
    for _ in range(rng.integers(1, 9)):
        at = rng.uniform(0, SIDE, 2)
        pen.line([at, *(at + np.cumsum(rng.normal(0, 5, (rng.integers(1, 4), 2)), axis=0))], rng.uniform(0.8, 2.5))


def _frames(pen: _Pen, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 4)):
        (x, y), (wide, tall) = rng.uniform(-20, 220, 2), rng.uniform(5, 160, 2)
        pen.line([(x, y), (x + wide, y), (x + wide, y + tall), (x, y + tall), (x, y)], rng.uniform(0.6, 3))


def _trace(pen: _Pen, rng: np.random.Generator) -> None:
    """The curve of a heart or of a flow."""
    across = np.arange(0, SIDE, 1.0)
    beat, tall = rng.uniform(15, 70), rng.uniform(5, 40)
    phase = (across + rng.uniform(0, beat)) % beat / beat
    down = tall * (np.exp(-(((phase - 0.5) / 0.03) ** 2)) + 0.25 * np.exp(-(((phase - 0.75) / 0.07) ** 2)))
    pen.line(
        np.stack([across, rng.uniform(20, 236) - down + rng.normal(0, 0.3, len(across))], axis=1), rng.uniform(0.8, 1.8)
    )


def _arrows(pen: _Pen, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 4)):
        at, (way, across), long = rng.uniform(20, 236, 2), _way(rng), rng.uniform(8, 40)
        pen.line([at, at + way * long], rng.uniform(1, 2.5))
        tip = at + way * long
        pen.line([tip - way * 4 + across * 3, tip, tip - way * 4 - across * 3], rng.uniform(1, 2))


_THINGS = (
    _tube, _loops, _screws, _plate, _ticks, _grid, _staples, _stent, _discs, _beads, _zipper, _strokes, _frames, _trace,
    _arrows,
)  # fmt: skip


# --- small things


def _legibility(picture: Floats, drawn: Floats, strokes: Floats, least: float, cap: float) -> Floats:
    """How far strokes stand out, at least `least` shades, from the grain of what is around, for letters of 9 pixels;
    place by place, for a line can run from a dark ground onto one of its own shade."""
    ink = (strokes > 0.4).astype(np.float32)
    around = 2 * max(3, round(cap)) + 1
    covered = np.maximum(ndimage.uniform_filter(ink, around), 1e-3)
    contrast = ndimage.uniform_filter(np.abs(drawn - picture) * ink, around) / covered
    rough = np.minimum(np.abs(ndimage.laplace(ndimage.gaussian_filter(picture, 0.7))), _ROUGHEST)
    grain = ndimage.uniform_filter(rough, around) + 2.5
    return np.asarray(np.maximum(contrast, least) * min(1.0, cap / 9) / grain, dtype=np.float32)


def _grey(path: Path) -> Floats:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), dtype=np.float32)


def _cloud(rng: np.random.Generator, size: int) -> Floats:
    """Soft noise of standard deviation 1, (SIDE, SIDE); `size` pixels from hill to hill."""
    few = rng.normal(size=(SIDE // size + 3, SIDE // size + 3)).astype(np.float32)
    image = Image.fromarray(few).resize((few.shape[1] * size, few.shape[0] * size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32)[:SIDE, :SIDE]


def _turned(layer: Floats, angle: float) -> Floats:
    image = Image.fromarray(np.ascontiguousarray(layer)).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    return np.clip(np.asarray(image, dtype=np.float32), 0, 1)


def _placed(layer: Floats, top: int, left: int) -> Floats:
    """The layer on an empty picture; what reaches over the edges is cut off."""
    placed = np.zeros((SIDE, SIDE), dtype=np.float32)
    seen = layer[max(0, -top) : SIDE - top, max(0, -left) : SIDE - left]
    placed[max(0, top) : max(0, top) + seen.shape[0], max(0, left) : max(0, left) + seen.shape[1]] = seen
    return placed


def _as_jpeg(picture: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image.convert("L"))
