"""Drawn chests and CT slices: made pictures in which a finding can be seen, has a place and a size, and must be found.

Nothing here is medicine. The drawings have what matters to a test of learning: anatomy that varies from person to
person, scanners that differ, and findings that change the picture where the report says they are. The public findings
teach the base model to look at a chest; the clinical ones are what the hospitals teach it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]  # floating, (rows, columns)

CLINICAL = ("consolidation", "effusion", "cardiomegaly", "pneumothorax")
PUBLIC = (
    "nodule", "mass", "cavity", "bulla", "pacemaker", "tube", "hyperinflation", "scoliosis", "haze", "hernia",
    "elevation",
)  # fmt: skip

SIDES = ("right", "left")
ZONES = ("upper", "middle", "lower")
SIZES = ("small", "moderate", "large")


@dataclass(frozen=True)
class Finding:
    """One visible thing. `side` and `zone` are the patient's; "" where the finding has none (cardiomegaly)."""

    name: str
    side: str = ""
    zone: str = ""
    size: str = "moderate"


@dataclass(frozen=True)
class Style:
    """How a scanner renders the same chest. All values are public properties of the device."""

    gamma: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.0
    noise: float = 0.02
    unsharp: float = 0.0
    tilt_degrees: float = 2.0
    collimation: float = 0.0


@dataclass(frozen=True)
class _Chest:
    """One person's anatomy on a unit square: x grows to the image's right (the patient's left), y downwards."""

    x: Image
    y: Image
    lung_width: float
    lung_top: float
    lung_bottom: float
    heart_radius: float
    midline: float
    side_sign: dict[str, float]

    def lung(self, side: str) -> Image:
        """Soft membership of one lung field, 0 outside to 1 inside."""
        centre = self.midline + self.side_sign[side] * (0.06 + self.lung_width)
        middle = (self.lung_top + self.lung_bottom) / 2
        half = (self.lung_bottom - self.lung_top) / 2
        across = (self.x - centre) / self.lung_width
        down = (self.y - middle) / half
        # A superellipse, narrower at the apex, with a domed diaphragm.
        narrowing = np.clip(0.55 + 0.5 * (down + 1) / 2 + 0.2, 0.6, 1.0)
        shape = np.abs(across / narrowing) ** 2.6 + np.abs(down) ** 3.2
        dome = self.y - (self.lung_bottom - 0.05 * (1 - np.clip(np.abs(across), 0, 1) ** 2))
        return _soft(1.0 - shape, 0.12) * _soft(-dome, 0.015)


def draw_chest(
    findings: Sequence[Finding],
    rng: np.random.Generator,
    *,
    rows: int,
    columns: int,
    view: str = "PA",
    style: Style | None = None,
) -> Image:
    """A chest radiograph, (rows, columns) float32 in [0, 1]; 0 is air (dark), 1 is dense (bright)."""
    style = style or Style()
    chest = _make_chest(findings, rng, rows, columns, view, style)
    image, lungs = _background(chest, rng, view)
    for finding in findings:
        painter = _PAINTERS.get(finding.name)
        if painter is not None:
            image = painter(image, lungs, chest, finding, rng)
    return _scan(image, chest, rng, style)


def draw_ct_slice(findings: Sequence[Finding], rng: np.random.Generator, *, rows: int, columns: int) -> Image:
    """An axial chest slice in Hounsfield units, (rows, columns) float32: air -1000, lung -850, soft 40, bone 700."""
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    x = (x + 0.5) / columns - 0.5
    y = (y + 0.5) / rows - 0.5
    body = _soft(1 - (x / 0.44) ** 2 - (y / 0.33) ** 2, 0.03)
    image = -1000 + 1040 * body
    lungs: Image = np.zeros_like(image)
    for side, sign in (("right", -1.0), ("left", 1.0)):
        lung = _soft(1 - ((x - sign * 0.19) / 0.15) ** 2 - ((y + 0.01) / 0.22) ** 2, 0.06)
        lungs = np.maximum(lungs, lung)
        image = image * (1 - lung) + (-850 + 60 * _texture(rng, rows, columns, 24)) * lung
        for finding in findings:
            if finding.side == side and finding.name == "consolidation":
                radius = 0.05 + 0.03 * SIZES.index(finding.size)
                spot = np.exp(-(((x - sign * 0.2) ** 2 + (y + 0.02) ** 2) / radius**2)) * lung
                image = image + 820 * spot
            if finding.side == side and finding.name == "effusion":
                depth = 0.06 + 0.04 * SIZES.index(finding.size)
                fluid = _soft(y - (0.2 - depth), 0.01) * lung
                image = image * (1 - fluid) + 15 * fluid
            if finding.side == side and finding.name == "pneumothorax":
                air = _soft(-(y + 0.12 - 0.03 * SIZES.index(finding.size)), 0.01) * lung
                image = image * (1 - air) - 1000 * air
    big = 1.35 if any(finding.name == "cardiomegaly" for finding in findings) else 1.0
    heart = _soft(1 - ((x - 0.03) / (0.1 * big)) ** 2 - ((y + 0.05) / (0.1 * big)) ** 2, 0.06)
    image = image * (1 - heart) + 45 * heart
    spine = _soft(1 - (x / 0.05) ** 2 - ((y - 0.24) / 0.05) ** 2, 0.1)
    image = image * (1 - spine) + 700 * spine
    return (image + rng.normal(0, 12, image.shape)).astype(np.float32)


def _make_chest(
    findings: Sequence[Finding], rng: np.random.Generator, rows: int, columns: int, view: str, style: Style
) -> _Chest:
    names = {finding.name: finding for finding in findings}
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    x = (x + 0.5) / columns - 0.5
    y = (y + 0.5) / rows
    angle = np.deg2rad(rng.normal(0, style.tilt_degrees))
    zoom = rng.uniform(0.93, 1.07)
    shift_x, shift_y = rng.normal(0, 0.015, 2)
    cx, cy = (x - shift_x) / zoom, (y - 0.5 - shift_y) / zoom
    x, y = cx * np.cos(angle) - cy * np.sin(angle), cx * np.sin(angle) + cy * np.cos(angle) + 0.5
    if "scoliosis" in names:
        bend = 0.035 + 0.025 * SIZES.index(names["scoliosis"].size)
        x = x + bend * (1 if names["scoliosis"].side == "left" else -1) * np.sin(np.pi * (y - 0.1) / 0.85)
    heart = rng.normal(0.14, 0.008) * (1.12 if view == "AP" else 1.0)
    if "cardiomegaly" in names:
        heart *= 1.28 + 0.13 * SIZES.index(names["cardiomegaly"].size)
    stretch = 0.05 + 0.02 * SIZES.index(names["hyperinflation"].size) if "hyperinflation" in names else 0.0
    return _Chest(
        x=x.astype(np.float32),
        y=y.astype(np.float32),
        lung_width=float(rng.normal(0.168, 0.008) + stretch * 0.3),
        lung_top=float(rng.normal(0.12, 0.012) - stretch * 0.4),
        lung_bottom=float(rng.normal(0.76, 0.02) - (0.03 if view == "AP" else 0.0) + stretch),
        heart_radius=float(heart),
        midline=0.0,
        side_sign={"right": -1.0, "left": 1.0},
    )


def _background(chest: _Chest, rng: np.random.Generator, view: str) -> tuple[Image, dict[str, Image]]:
    """Body, lungs, heart, spine, ribs and vessels of a person without any finding."""
    x, y = chest.x, chest.y
    rows, columns = x.shape
    body = _soft(1 - (np.abs(x) / 0.46) ** 4 - (np.abs(y - 0.62) / 0.62) ** 6, 0.1)
    image = 0.05 + 0.55 * body * (0.9 + 0.1 * _texture(rng, rows, columns, 6))
    lungs = {side: chest.lung(side) for side in SIDES}
    both = np.maximum(lungs["right"], lungs["left"])
    if view == "LATERAL":
        both = _soft(1 - ((x + 0.02) / 0.3) ** 2 - ((y - 0.45) / 0.34) ** 2, 0.1)
        lungs = {side: both for side in SIDES}
    vessels = _texture(rng, rows, columns, 14) + 0.6 * _texture(rng, rows, columns, 30)
    image = image * (1 - both) + (0.2 + 0.05 * vessels) * both
    hilum = np.exp(-(((np.abs(x) - 0.08) / 0.05) ** 2) - ((y - 0.42) / 0.09) ** 2)
    image = image + 0.12 * hilum * both
    heart_x = 0.045 + 0.12 * (chest.heart_radius - 0.14)
    heart = _soft(
        1
        - ((x - heart_x) / (chest.heart_radius * 1.12)) ** 2
        - ((y - chest.lung_bottom + chest.heart_radius * 0.85) / (chest.heart_radius * 1.05)) ** 2,
        0.18,
    )
    image = np.maximum(image, 0.62 * heart)
    spine = np.exp(-((x / 0.045) ** 2)) * body
    image = np.maximum(image, (0.62 + 0.05 * np.sin(y * 75)) * spine)
    ribs = np.sin((y + 0.55 * (np.abs(x) - 0.2) ** 2 * 4) * 62 + rng.uniform(0, 6.28)) ** 6
    image = image + 0.055 * ribs * both
    collar = np.exp(-(((y - 0.13 + 0.12 * np.abs(x)) / 0.014) ** 2)) * (np.abs(x) > 0.05) * (np.abs(x) < 0.36)
    image = image + 0.15 * collar * body
    return image.astype(np.float32), lungs


def _scan(image: Image, chest: _Chest, rng: np.random.Generator, style: Style) -> Image:
    image = np.clip(image, 0, 1.2)
    image = (image - 0.4) * style.contrast + 0.4 + style.brightness
    if style.unsharp:
        image = image + style.unsharp * (image - _blur(image, 5))
    if style.collimation:
        edge = 0.5 - style.collimation * rng.uniform(0.3, 1.0)
        image = image * _soft(edge - np.abs(chest.x), 0.01)
    image = np.clip(image, 0, 1) ** (style.gamma * rng.uniform(0.92, 1.08))
    return np.clip(image + rng.normal(0, style.noise, image.shape), 0, 1).astype(np.float32)


# --- findings -------------------------------------------------------------------------------------------------------

Painter = Callable[[Image, dict[str, Image], _Chest, Finding, np.random.Generator], Image]


def _centre(chest: _Chest, finding: Finding, rng: np.random.Generator) -> tuple[float, float]:
    """Where in the lung a finding lies, in chest coordinates."""
    sign = chest.side_sign[finding.side or "right"]
    height = chest.lung_bottom - chest.lung_top
    zone = {"upper": 0.2, "middle": 0.5, "lower": 0.78}[finding.zone or "middle"]
    cx = chest.midline + sign * (0.06 + chest.lung_width * rng.uniform(0.8, 1.3))
    return cx, chest.lung_top + height * (zone + rng.uniform(-0.05, 0.05))


def _consolidation(image: Image, lungs: dict[str, Image], chest: _Chest, f: Finding, rng: np.random.Generator) -> Image:
    cx, cy = _centre(chest, f, rng)
    radius = (0.08, 0.1, 0.125)[SIZES.index(f.size)]
    rough = 1 + 0.7 * (_texture(rng, image.shape[0], image.shape[1], 10) - 0.5)
    spot = np.exp(-((((chest.x - cx) / radius) ** 2 + ((chest.y - cy) / (radius * 1.15)) ** 2) ** 1.3)) * rough
    return _opacify(image, 0.9 * np.clip(spot, 0, 1) * lungs[f.side])


def _opacify(image: Image, share: Image) -> Image:
    """Fill air with something as dense as soft tissue; what is already dense stays as it is."""
    return (image + np.clip(0.62 - image, 0, None) * np.clip(share, 0, 1)).astype(np.float32)


def _effusion(image: Image, lungs: dict[str, Image], chest: _Chest, f: Finding, rng: np.random.Generator) -> Image:
    depth = (0.17, 0.23, 0.3)[SIZES.index(f.size)] * rng.uniform(0.9, 1.15)
    sign = chest.side_sign[f.side]
    lateral = np.clip((sign * chest.x - 0.06) / (2 * chest.lung_width), 0, 1)
    level = chest.lung_bottom - depth * (0.55 + 0.75 * lateral**2)
    fluid = _soft(chest.y - level, 0.02) * _soft(sign * chest.x - 0.03, 0.02) * _soft(0.4 - np.abs(chest.x), 0.02)
    fluid = fluid * _soft(chest.lung_bottom + 0.04 - chest.y, 0.02)
    return (image * (1 - fluid) + np.maximum(image, 0.6) * fluid).astype(np.float32)


def _pneumothorax(image: Image, lungs: dict[str, Image], chest: _Chest, f: Finding, rng: np.random.Generator) -> Image:
    sign = chest.side_sign[f.side]
    width = (0.055, 0.075, 0.1)[SIZES.index(f.size)] * rng.uniform(0.9, 1.15)
    # What is left of the lung: the same outline, shrunken towards the hilum. Between the two outlines is air.
    centre = chest.midline + sign * (0.06 + chest.lung_width - 0.6 * width)
    middle = (chest.lung_top + chest.lung_bottom) / 2 + 0.7 * width
    half = (chest.lung_bottom - chest.lung_top) / 2 - 0.5 * width
    across = (chest.x - centre) / (chest.lung_width - 0.6 * width)
    outline = 1.0 - np.abs(across / 0.9) ** 2.6 - np.abs((chest.y - middle) / half) ** 3.2
    upper = _soft(chest.lung_top + 0.75 * (chest.lung_bottom - chest.lung_top) - chest.y, 0.03)
    lung = lungs[f.side] * upper
    air = _soft(-outline, 0.06) * lung
    line = np.exp(-((outline / 0.09) ** 2)) * lung
    collapsed = _soft(outline, 0.1) * lung
    image = image * (1 - 0.9 * air) + 0.05 * air
    return (image + 0.16 * line + 0.07 * collapsed).astype(np.float32)


def _nodule(image: Image, lungs: dict[str, Image], chest: _Chest, f: Finding, rng: np.random.Generator) -> Image:
    cx, cy = _centre(chest, f, rng)
    radius = (0.022, 0.034, 0.05)[SIZES.index(f.size)]
    disc = _soft(radius - np.hypot(chest.x - cx, chest.y - cy), 0.006)
    return image + (0.38 * disc * lungs[f.side]).astype(np.float32)


def _mass(image: Image, lungs: dict[str, Image], chest: _Chest, f: Finding, rng: np.random.Generator) -> Image:
    cx, cy = _centre(chest, f, rng)
    radius = (0.06, 0.075, 0.095)[SIZES.index(f.size)]
    disc = _soft(radius - np.hypot(chest.x - cx, (chest.y - cy) * rng.uniform(0.8, 1.2)), 0.018)
    return _opacify(image, disc * lungs[f.side])


def _bulla(image: Image, lungs: dict[str, Image], chest: _Chest, f: Finding, rng: np.random.Generator) -> Image:
    cx, cy = _centre(chest, f, rng)
    radius = (0.06, 0.08, 0.1)[SIZES.index(f.size)]
    distance = np.hypot((chest.x - cx) * 1.3, chest.y - cy)
    hole = _soft(radius - distance, 0.012) * lungs[f.side]
    rim = np.exp(-(((distance - radius) / 0.008) ** 2)) * lungs[f.side]
    return (image * (1 - 0.85 * hole) + 0.05 * hole + 0.12 * rim).astype(np.float32)


def _elevation(image: Image, lungs: dict[str, Image], chest: _Chest, f: Finding, rng: np.random.Generator) -> Image:
    """One half of the diaphragm stands too high: the lung ends early, in a dome."""
    rise = (0.08, 0.13, 0.2)[SIZES.index(f.size)] * rng.uniform(0.9, 1.15)
    centre = chest.midline + chest.side_sign[f.side] * (0.06 + chest.lung_width)
    dome = chest.lung_bottom - rise + 0.09 * ((chest.x - centre) / chest.lung_width) ** 2
    return _opacify(image, _soft(chest.y - dome, 0.012) * lungs[f.side] * 1.1)


def _cavity(image: Image, lungs: dict[str, Image], chest: _Chest, f: Finding, rng: np.random.Generator) -> Image:
    cx, cy = _centre(chest, f, rng)
    radius = (0.035, 0.05, 0.07)[SIZES.index(f.size)]
    distance = np.hypot(chest.x - cx, chest.y - cy)
    ring = np.exp(-(((distance - radius) / 0.011) ** 2))
    hole = _soft(radius - 0.01 - distance, 0.008) * lungs[f.side]
    return (image * (1 - 0.8 * hole) + 0.04 * hole + 0.3 * ring * lungs[f.side]).astype(np.float32)


def _pacemaker(image: Image, lungs: dict[str, Image], chest: _Chest, f: Finding, rng: np.random.Generator) -> Image:
    sign = chest.side_sign[f.side]
    size = (0.035, 0.045, 0.055)[SIZES.index(f.size)]
    cx, cy = sign * rng.uniform(0.24, 0.3), rng.uniform(0.2, 0.26)
    box = _soft(size - np.maximum(np.abs(chest.x - cx), np.abs(chest.y - cy) * 1.2), 0.006)
    t = np.clip((chest.y - cy) / 0.42, 0, 1)
    wire_x = cx * (1 - t) + 0.06 * t
    wire = np.exp(-(((chest.x - wire_x) / 0.007) ** 2)) * (chest.y > cy) * (chest.y < 0.68)
    return np.maximum(image, np.maximum(0.95 * box, 0.8 * wire)).astype(np.float32)


def _tube(image: Image, lungs: dict[str, Image], chest: _Chest, f: Finding, rng: np.random.Generator) -> Image:
    end = {"upper": 0.36, "middle": 0.52, "lower": 0.7}[f.zone or "middle"]
    sway = 0.012 * np.sin(chest.y * 9 + rng.uniform(0, 6))
    wire = np.exp(-(((chest.x - 0.004 - sway) / 0.01) ** 2)) * _soft(end - chest.y, 0.01)
    return np.maximum(image, 0.9 * wire).astype(np.float32)


def _haze(image: Image, lungs: dict[str, Image], chest: _Chest, f: Finding, rng: np.random.Generator) -> Image:
    strength = (0.3, 0.45, 0.65)[SIZES.index(f.size)]
    sides = (f.side,) if f.side else SIDES
    both = np.maximum.reduce([lungs[side] for side in sides])
    mottle = 0.6 + 0.8 * _texture(rng, image.shape[0], image.shape[1], 12)
    return _opacify(image, strength * mottle * both)


def _hernia(image: Image, lungs: dict[str, Image], chest: _Chest, f: Finding, rng: np.random.Generator) -> Image:
    size = (0.06, 0.08, 0.1)[SIZES.index(f.size)]
    cy = chest.lung_bottom - size * 0.6
    distance = np.hypot(chest.x - 0.02, (chest.y - cy) * 1.1)
    bubble = _soft(size - distance, 0.01)
    ring = np.exp(-(((distance - size) / 0.012) ** 2))
    return (image * (1 - 0.55 * bubble) + 0.15 * bubble + 0.2 * ring).astype(np.float32)


_PAINTERS: dict[str, Painter] = {
    "consolidation": _consolidation,
    "effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "nodule": _nodule,
    "mass": _mass,
    "bulla": _bulla,
    "elevation": _elevation,
    "cavity": _cavity,
    "pacemaker": _pacemaker,
    "tube": _tube,
    "haze": _haze,
    "hernia": _hernia,
}  # cardiomegaly, hyperinflation and scoliosis shape the chest itself: see _make_chest


# --- small numeric helpers ------------------------------------------------------------------------------------------


def _soft(distance: Image, width: float) -> Image:
    """A step from 0 to 1 around 0, `width` wide."""
    return (0.5 + 0.5 * np.tanh(distance / width)).astype(np.float32)


def _texture(rng: np.random.Generator, rows: int, columns: int, cells: int) -> Image:
    """Smooth noise in [0, 1] with about `cells` bumps along a side."""
    grid = rng.random((cells + 2, cells + 2)).astype(np.float32)
    down, across = _axis(rows, cells), _axis(columns, cells)
    top = grid[down[0]][:, across[0]] * (1 - across[1]) + grid[down[0]][:, across[0] + 1] * across[1]
    bottom = grid[down[0] + 1][:, across[0]] * (1 - across[1]) + grid[down[0] + 1][:, across[0] + 1] * across[1]
    return (top * (1 - down[1][:, None]) + bottom * down[1][:, None]).astype(np.float32)


def _axis(length: int, cells: int) -> tuple[NDArray[np.intp], Image]:
    position = (np.arange(length) + 0.5) / length * cells
    index = position.astype(np.intp)
    fraction = position - index
    return index, (fraction * fraction * (3 - 2 * fraction)).astype(np.float32)


def _blur(image: Image, width: int) -> Image:
    kernel = np.ones(width) / width
    across = np.apply_along_axis(lambda line: np.convolve(line, kernel, mode="same"), 1, image)
    return np.apply_along_axis(lambda line: np.convolve(line, kernel, mode="same"), 0, across).astype(np.float32)
