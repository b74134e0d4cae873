"""Stored pixel values to 8-bit grey pictures, in the order of PS3.4 annex N: modality, VOI, presentation.

A grey frame has at most 65,536 different stored values, so the whole pipeline is computed once per possible value in
float64 and the frame looks its answers up: exact, fast, and nothing is rounded to 8 bits before the window.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEGExtended12Bit

from client.imaging import jpeg12
from client.imaging.burned_in import (
    PAGE_SHARE,
    SHARE_MAX,
    Mask,
    blanked,
    crossing,
    searched,
    ultrasound_mask,
    union,
)
from client.imaging.header import border, refusal
from client.imaging.identifiers import own_names
from client.imaging.ocr import Line, Reader
from client.imaging.png import Grey
from client.imaging.profile import DeidProfile, Limits, Rendering
from client.imaging.strokes import written

Floats = npt.NDArray[np.float64]
_LOW, _HIGH = 0.005, 0.995  # without a window: these quantiles of the frame become black and white
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7."  # secondary captures, of one frame and of many
_FORMATS = ("PNG", "JPEG")


@dataclass(frozen=True, repr=False)
class Rendered:
    """One picture: uint8 (rows, columns), 0 is black."""

    pixels: Grey
    window: str
    frame: int | None
    source_rows: int
    source_columns: int
    blanked_share: float = 0.0
    """How much of the picture was blanked, 0 to 1: text, and what lies outside of ultrasound regions."""

    def __repr__(self) -> str:
        return "<Rendered: hidden>"


def render(dataset: Dataset, profile: DeidProfile, reader: Reader) -> list[Rendered]:
    """All pictures of one DICOM object: the chosen frames, each under each chosen window, without burned-in text.

    Text is looked for in the windowed picture at its full size, which holds all that is kept; what one frame shows is
    blanked on all. Of an ultrasound picture, only the regions that its header names are kept.

    Edge cases: an object without pixels is `class-refused`; fewer bytes than declared, `truncated`; a compression no
    permissive decoder reads, `codec-missing`; constant frames are black.
    """
    with border("decode-failed", "the pixel data do not decode"):
        _require_decodable(dataset, profile.limits)
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
        outside = ultrasound_mask(dataset)
        chosen = spread(frames, profile.rendering.frames_per_object)
        seen: list[_Frame] = []
        for index in chosen:
            known = seen[-1].mask if seen else None
            seen.append(_looked_at(dataset, index, outside, profile, reader, known=known))
        text = seen[-1].mask
        mask = text if outside is None else text | outside
        share = _share(mask if any(frame.shown for frame in seen) else text)
        return [
            _rendered(blanked(grey, mask), share, dataset, window, index + 1 if frames > 1 else None, profile)
            for index, frame in zip(chosen, seen, strict=True)
            for window, grey in frame.drawn
        ]


def cover(dataset: Dataset, profile: DeidProfile, reader: Reader) -> tuple[Mask, tuple[int, int]] | None:
    """What has to be covered in all frames of an object, (rows, columns), and a pixel of the first whose value can do
    it; None if there is no text. Every frame is searched, as it is drawn and for what that hides: who has the file can
    draw it otherwise.

    What only may be text holds the object back if it is in the first, the last or every tenth frame: a doubt is wrong
    once in some hundred clean pictures, and an object of hundreds of frames would hardly ever pass.

    The pixel is the darkest one of those that stay: its stored value is dark whatever the photometric interpretation.

    Raises: DeidError as `render`.
    """
    with border("decode-failed", "the pixel data do not decode"):
        _require_decodable(dataset, profile.limits)
        outside = ultrasound_mask(dataset)
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
        strict = spread(frames, max(profile.rendering.frames_per_object, -(-frames // 10) + 1))
        first = _looked_at(dataset, 0, outside, profile, reader, hidden=True)
        text, shown = first.mask, first.shown
        for index in range(1, frames):
            seen = _looked_at(
                dataset, index, outside, profile, reader, hidden=True, doubts_count=index in strict, known=text
            )  # fmt: skip
            text, shown = text | seen.mask, shown or seen.shown
        if not text.any() and not shown:
            return None
        mask = text if outside is None else text | outside
        _, grey = first.drawn[0]
        at = int(np.argmin(np.where(mask, 256, grey.astype(np.int64))))
        return mask, (at // grey.shape[1], at % grey.shape[1])


@dataclass(frozen=True, repr=False)
class _Frame:
    """One frame as it is drawn, with text in it; where the text is; whether anything is outside of its regions."""

    drawn: list[tuple[str, Grey]]  # window, picture
    mask: Mask
    shown: bool


def _looked_at(
    dataset: Dataset,
    index: int,
    outside: Mask | None,
    profile: DeidProfile,
    reader: Reader,
    *,
    hidden: bool = False,
    doubts_count: bool = True,
    known: Mask | None = None,
) -> _Frame:
    """Searches a frame in all of its drawings, but for what is `known` from others: that goes on all frames."""
    array = np.asarray(pixel_array(dataset, index=index))
    drawn = list(_greys(array, dataset, index, profile.rendering))
    greys = [grey for _, grey in drawn]
    ultrasound = str(dataset.get("Modality", "")) == "US"
    most = PAGE_SHARE if _is_capture(dataset) else SHARE_MAX
    names = own_names(dataset)
    shown = outside is not None and bool((array[outside] != array[outside][0]).any())
    text = np.zeros(greys[0].shape, dtype=np.bool_) if known is None else known
    if outside is not None and shown:
        text = union((text, *(crossing(blanked(grey, text), outside, reader, names) for grey in greys)), text.shape)
    marked: tuple[Line, ...] = ()
    views = [(grey, False) for grey in greys] + (list(_undrawn(array, dataset, greys)) if hidden else [])
    for at, (view, faint) in enumerate(views):
        found = searched(
            view if outside is None else blanked(view, outside),
            reader,
            known=text,
            elsewhere=known,
            marked=marked,
            names=names,
            most=most,
            doubts_count=doubts_count and at < len(greys),
            doubts_go=ultrasound,
            words_only=faint,
        )
        text, marked = found.mask, (*marked, *found.markers)
    return _Frame(drawn, text, shown)


def _is_capture(dataset: Dataset) -> bool:
    """Whether an object is what a screen or a scanner of paper showed, or a picture computed from a series."""
    modality = str(dataset.get("Modality", ""))
    derived = modality in ("CT", "MR") and "DERIVED" in (dataset.get("ImageType") or ())
    return derived or modality in ("OT", "SC") or f"{dataset.SOPClassUID}.".startswith(_CAPTURE)


def _share(mask: Mask) -> float:
    """Rounded, but never down to zero: two letters in a large picture are text as well."""
    return max(round(float(mask.mean()), 4), 0.0001) if mask.any() else 0.0


def _rendered(
    grey: Grey, share: float, dataset: Dataset | None, window: str, frame: int | None, profile: DeidProfile
) -> Rendered:
    upright = grey if dataset is None else _upright(grey, dataset)
    small = _shrunk(upright, profile.rendering.longest_side)
    return Rendered(small, window, frame, grey.shape[0], grey.shape[1], share)


def render_picture(data: bytes, profile: DeidProfile, reader: Reader) -> Rendered:
    """A PNG or JPEG, treated as a secondary capture without a window; metadata and animation are not read."""
    with (
        border("decode-failed", "the picture does not decode"),
        Image.open(io.BytesIO(data), formats=_FORMATS) as image,
    ):
        if image.width * image.height > profile.limits.frame_pixels:
            raise refusal("limit-size", "the picture has more pixels than the limit")
        if image.mode in ("L", "1", "I", "I;16", "F"):
            grey = _stretched(np.asarray(image.convert("L") if image.mode == "1" else image).astype(np.float64))
        else:
            grey = np.asarray(image.convert("RGB").convert("L"))
        mask = searched(grey, reader).mask
        return _rendered(blanked(grey, mask), _share(mask), None, "none", None, profile)


def window(values: Floats, centre: float, width: float, function: str = "LINEAR") -> Floats:
    """Modality values to [0, 1]. PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.2 (LINEAR_EXACT), C.11.2.1.3.1 (SIGMOID).

    >>> window(np.array([0.0, 127.5, 255.0]), 128, 256).tolist()
    [0.0, 0.5, 1.0]
    """
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0.0, 1.0)
    if width <= 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)


def _require_decodable(dataset: Dataset, limits: Limits) -> None:
    """Raises for what cannot be decoded. Unpacks what pydicom itself does not decode."""
    rows, columns = int(dataset.get("Rows", 0) or 0), int(dataset.get("Columns", 0) or 0)
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    if "PixelData" not in dataset or not rows or not columns:
        raise refusal("class-refused", "the object holds no picture")
    if frames < 1 or frames > limits.frames:
        raise refusal("limit-frames", "the number of frames is outside the limits")
    if rows * columns > limits.frame_pixels:
        raise refusal("limit-size", "a frame has more pixels than the limit")
    allocated, stored, high = (int(dataset.get(key, 0) or 0) for key in ("BitsAllocated", "BitsStored", "HighBit"))
    if allocated not in (1, 8, 16, 32) or not 0 < stored <= allocated or high != stored - 1:
        raise refusal("malformed", "the pixel bits are not laid out as the standard says")
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise refusal("codec-missing", "no decoder for this transfer syntax") from None
    in_twelve_bits = jpeg12.is_coded(dataset)
    if not decoder.is_available or (syntax == JPEGExtended12Bit and stored > 8 and not in_twelve_bits):
        raise refusal("codec-missing", "no decoder for this transfer syntax is installed")
    if in_twelve_bits:
        if 2 * rows * columns * frames > limits.inflated_bytes:
            raise refusal("limit-size", "the frames are larger than the limit")
        jpeg12.unpack(dataset)
        return
    samples = int(dataset.get("SamplesPerPixel", 1) or 1)
    if not syntax.is_compressed and len(dataset.PixelData) < rows * columns * frames * samples * allocated // 8:
        halved = str(dataset.get("PhotometricInterpretation", "")) == "YBR_FULL_422"
        if not halved or len(dataset.PixelData) < rows * columns * frames * 2:
            raise refusal("truncated", "fewer pixel bytes than declared")


def picture_names(frames: int, rendering: Rendering) -> Iterator[tuple[str, int | None]]:
    """Window and frame of every picture that `render` may make of an object."""
    numbers = [index + 1 for index in spread(frames, rendering.frames_per_object)] if frames > 1 else [None]
    return product((*rendering.ct_windows, "voi", "percentile", "none"), numbers)


def spread(count: int, most: int) -> list[int]:
    """At most `most` indices below `count`, evenly spaced, first and last among them."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [count // 2]
    return sorted({round(step * (count - 1) / (most - 1)) for step in range(most)})


def _greys(array: npt.NDArray[Any], dataset: Dataset, index: int, rendering: Rendering) -> Iterator[tuple[str, Grey]]:
    colours = _colours(array, dataset)
    if colours is not None:
        yield "none", np.asarray(Image.fromarray(colours).convert("L"))
        return
    attributes = _frame_attributes(dataset, index)
    inverse = (
        dataset.get("PhotometricInterpretation") == "MONOCHROME1"
        or str(dataset.get("PresentationLUTShape", "")) == "INVERSE"
    )
    stored, possible = _stored(array, dataset)
    values = np.asarray(_modality(possible, attributes), dtype=np.float64)
    padding = _padding(possible, dataset)
    for name, shades in _shades(stored, values, padding, attributes, dataset, rendering):
        table = np.where(padding, 0.0, 1.0 - shades if inverse else shades)
        yield name, np.take(np.rint(table * 255).astype(np.uint8), stored)


def _colours(array: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[np.uint8] | None:
    """(rows, columns, 3) of a colour frame, the high bytes; None for grey."""
    if str(dataset.get("PhotometricInterpretation", "")) == "PALETTE COLOR":
        array = apply_color_lut(array, dataset)
    if array.ndim != 3:
        return None
    byte = array if array.dtype == np.uint8 else (array >> (8 * array.dtype.itemsize - 8)).astype(np.uint8)
    return np.ascontiguousarray(byte[..., :3])


_HIDDEN_SHARE, _HIDDEN_SHADES = 0.002, 13  # of the pixels; of 255
_EXTREME = 0.0001  # of the pixels: darker or brighter ones do not flatten the others
_FREQUENT, _HUNDRED, _SMALL_PART = 0.8, 100, 0.1  # of a part's pixels; what shows in the whole range; of that range


def _undrawn(array: npt.NDArray[Any], dataset: Dataset, greys: list[Grey]) -> Iterator[tuple[Grey, bool]]:
    """What the drawn pictures of a frame do not show although its pixels have it, where it has strokes.

    Of colours, letters as light as their ground, in each colour. Of greys, what the window draws in plain black or
    white: over the whole range of values, and around the values that are the most frequent there. And what is drawn in
    one shade although its values differ: padding, and indices of a palette that have one colour.

    With each, whether it shows what is so faint that grain and bones have the look of letters there.
    """
    colours = _colours(array, dataset)
    stored, possible = _stored(array, dataset) if array.ndim == 2 else (array, array)
    if colours is not None:
        for plane in np.moveaxis(colours, -1, 0):
            if (written(plane) & (np.abs(plane.astype(np.int16) - greys[0]) >= _HIDDEN_SHADES)).any():
                yield np.ascontiguousarray(plane), False
    else:
        low, high = _outermost(stored, possible)
        whole = _between(low, high, stored, possible)
        ends = [end for grey in greys for shade in (0, 255) if (end := grey == shade).mean() >= _HIDDEN_SHARE]
        plain = [end for end in ends if np.ptp(whole[end]) >= _HIDDEN_SHADES]
        if plain and (written(whole) & np.logical_or.reduce(plain)).any():
            yield whole, False
        for end in ends:
            values = possible[stored[end]]
            near, far = _most_frequent(values, (high - low) / _HUNDRED)
            inside = values[(values > near) & (values < far)]
            if inside.size and np.ptp(inside) and far - near <= _SMALL_PART * (high - low):
                frequent = _between(near, far, stored, possible)
                if (written(frequent) & end).any():
                    yield frequent, True
    if array.ndim == 2:
        alike = _padding(possible, dataset)[stored] if colours is None else _of_one_colour(array, colours)
        if alike.any() and np.ptp(stored[alike]):
            yield _by_rank(stored, alike), False


def _outermost(stored: npt.NDArray[np.int64], possible: npt.NDArray[np.int64]) -> tuple[float, float]:
    """The darkest and the brightest value of a frame, but for a few."""
    cumulated = np.cumsum(np.bincount(stored.ravel(), minlength=len(possible)))
    ends = (_EXTREME * stored.size, (1 - _EXTREME) * stored.size)
    low, high = (float(possible[at]) for at in np.searchsorted(cumulated, ends))
    return low, high


def _most_frequent(values: npt.NDArray[np.int64], beside: float) -> tuple[float, float]:
    """The shortest stretch of values that most of them are in, and so much more on either side: what stands out of it
    by more than that is not hidden when the whole range is drawn."""
    ordered = np.sort(values)
    most = max(1, round(_FREQUENT * ordered.size))
    first = int(np.argmin(ordered[most - 1 :] - ordered[: ordered.size - most + 1]))
    return float(ordered[first] - beside), float(ordered[first + most - 1] + beside)


def _between(low: float, high: float, stored: npt.NDArray[np.int64], possible: npt.NDArray[np.int64]) -> Grey:
    """A grey frame from one value to another, whatever its window."""
    shades = (possible - low) / max(high - low, 1.0)
    return np.asarray(np.take(np.rint(np.clip(shades, 0, 1) * 255).astype(np.uint8), stored))


def _of_one_colour(indices: npt.NDArray[Any], colours: npt.NDArray[np.uint8]) -> Mask:
    """The pixels in whose colour a pixel of another index is drawn, too."""
    packed = colours.astype(np.int64) @ np.array([65536, 256, 1])
    drawn = np.unique(np.stack((packed.ravel(), indices.ravel().astype(np.int64))), axis=1)[0]
    return np.isin(packed, drawn[1:][drawn[1:] == drawn[:-1]])


def _by_rank(stored: npt.NDArray[np.int64], alike: Mask) -> Grey:
    """Some pixels in shades of their values' ranks among them; the others white."""
    _, order, counts = np.unique(stored[alike], return_inverse=True, return_counts=True)
    view = np.full(stored.shape, 255, dtype=np.uint8)
    view[alike] = np.rint((np.cumsum(counts) - counts / 2) * (255 / order.size)).astype(np.uint8)[order]
    return view


def _stored(array: npt.NDArray[Any], dataset: Dataset) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The frame as indices into all possible stored values; bits above BitsStored (old overlays) are cleared."""
    bits = int(dataset.BitsStored)
    signed = bool(dataset.get("PixelRepresentation", 0))
    whole = array.astype(np.int64)
    if bits > 16:
        possible, stored = np.unique(whole, return_inverse=True)
        return stored.reshape(array.shape), possible
    whole &= (1 << bits) - 1
    if not signed:
        return whole, np.arange(1 << bits, dtype=np.int64)
    half = 1 << (bits - 1)
    return (whole + half) & ((1 << bits) - 1), np.arange(-half, half, dtype=np.int64)


def _frame_attributes(dataset: Dataset, index: int) -> Dataset:
    """Rescale and VOI of a frame: its own functional group, else the shared one, else the object's. PS3.3 C.7.6.16."""
    found = Dataset()
    groups: list[Dataset] = [dataset]
    for keyword, position in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", index)):
        items = dataset.get(keyword) or []
        if position < len(items):
            for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                groups.extend(items[position].get(macro) or [])
    for group in groups:
        for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "WindowCenter",
                        "WindowWidth", "VOILUTFunction", "VOILUTSequence"):  # fmt: skip
            if keyword in group:
                found[keyword] = group[keyword]
    implicit, little = dataset.original_encoding
    found.set_original_encoding(bool(implicit), little is not False)
    return found


def _modality(possible: npt.NDArray[np.int64], attributes: Dataset) -> npt.NDArray[Any]:
    if attributes.get("ModalityLUTSequence"):
        return _looked_up(possible.astype(np.float64), attributes.ModalityLUTSequence[0], attributes)[0]
    slope, intercept = attributes.get("RescaleSlope"), attributes.get("RescaleIntercept")
    return possible * float(1 if slope is None else slope) + float(0 if intercept is None else intercept)


def _looked_up(values: Floats, item: Dataset, attributes: Dataset) -> tuple[Floats, Floats]:
    """(the table's answer to each value, the table itself). PS3.3 C.11.1.1: values outside take the nearest entry."""
    count, first, _ = (int(number) for number in item.LUTDescriptor)
    data = item.LUTData
    if isinstance(data, bytes):
        little = attributes.original_encoding[1] is not False
        data = np.frombuffer(data, "u1" if len(data) <= (count or 65536) + 1 else "<u2" if little else ">u2")
    entries = np.asarray(data, dtype=np.float64)[: count or 65536]
    if first > 32767 and values.min() < 0:  # written as unsigned, meant as signed
        first -= 65536
    at = np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)
    return entries[at], entries


def _padding(possible: npt.NDArray[np.int64], dataset: Dataset) -> npt.NDArray[np.bool_]:
    """Which stored values are padding (PS3.3 C.7.5.1.1.2): drawn black, and not asked when a window is looked for."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(possible.shape, dtype=np.bool_)
    other = dataset.get("PixelPaddingRangeLimit")
    ends = sorted((int(value), int(value if other is None else other)))
    return (possible >= ends[0]) & (possible <= ends[1])


def _shades(
    stored: npt.NDArray[np.int64], values: Floats, padding: npt.NDArray[np.bool_], attributes: Dataset,
    dataset: Dataset, rendering: Rendering,
) -> Iterator[tuple[str, Floats]]:  # fmt: skip
    """(window name, shade in [0, 1] of every possible stored value), one per picture."""
    counts = np.bincount(stored.ravel(), minlength=len(values)).astype(np.int64)
    counts[padding] = 0
    if _in_hounsfield_units(attributes, dataset):
        for name in rendering.ct_windows:
            centre, width = rendering.windows_hu[name]
            yield name, window(values, centre, width)
        return
    shades = _voi(values, attributes)
    if shades is not None and _tells_apart(shades, counts):
        yield "voi", shades
    else:
        yield "percentile", _between_quantiles(values, counts)


def _in_hounsfield_units(attributes: Dataset, dataset: Dataset) -> bool:
    words = [str(word).upper() for word in dataset.get("ImageType") or []]
    hounsfield = str(attributes.get("RescaleType", "HU") or "HU").upper() == "HU"
    return (
        dataset.get("Modality") == "CT" and "RescaleIntercept" in attributes and hounsfield and "LOCALIZER" not in words
    )


def _voi(values: Floats, attributes: Dataset) -> Floats | None:
    table = attributes.get("VOILUTSequence")
    if table and len(np.atleast_1d(table[0].get("LUTDescriptor"))) == 3 and table[0].get("LUTData"):
        looked_up, entries = _looked_up(values, table[0], attributes)
        low, high = entries.min(), entries.max()
        return (looked_up - low) / (high - low) if high > low else None
    centre, width = _first(attributes.get("WindowCenter")), _first(attributes.get("WindowWidth"))
    function = str(attributes.get("VOILUTFunction", "") or "LINEAR").upper()
    if centre is None or width is None or not width > 0 or not np.isfinite(centre + width):
        return None
    return window(values, centre, width, function)


def _tells_apart(shades: Floats, counts: npt.NDArray[np.int64]) -> bool:
    """False if a window that some devices write wrongly would draw a frame that has structure in one shade."""
    present = counts > 0
    return present.sum() < 2 or bool(np.ptp(shades[present]) > 1 / 255)


def _between_quantiles(values: Floats, counts: npt.NDArray[np.int64]) -> Floats:
    order = np.argsort(values, kind="stable")
    cumulated = np.cumsum(counts[order])
    total = int(cumulated[-1])
    if total == 0:
        return np.zeros_like(values)
    low = values[order[np.searchsorted(cumulated, _LOW * total)]]
    high = values[order[min(int(np.searchsorted(cumulated, _HIGH * total)), len(order) - 1)]]
    if high <= low:
        present = values[counts > 0]
        low, high = present.min(), present.max()
    return np.clip((values - low) / (high - low), 0.0, 1.0) if high > low else np.zeros_like(values)


def _stretched(values: Floats) -> Grey:
    possible, stored, counts = np.unique(values, return_inverse=True, return_counts=True)
    table = np.rint(_between_quantiles(possible, counts) * 255).astype(np.uint8)
    return np.take(table, stored.reshape(values.shape))


def _upright(grey: Grey, dataset: Dataset) -> Grey:
    """Radiographs with a stated orientation are turned so that feet are down and a frontal patient's left is right.

    PS3.3 C.7.6.1.1.1: the first value is the direction of the rows, the second of the columns. Without one, as stored.
    """
    if str(dataset.get("Modality", "")) not in ("CR", "DX"):
        return grey
    words = [str(word).strip().upper()[:1] for word in dataset.get("PatientOrientation") or []]
    if len(words) != 2 or {words[0] in "HF", words[1] in "HF"} != {True, False} or "" in words:
        return grey
    across, down = words
    if across in "HF":
        grey, across, down = grey.T, down, across
    if down == "H":
        grey = grey[::-1]
    if across == "R":
        grey = grey[:, ::-1]
    return np.ascontiguousarray(grey)


def _shrunk(grey: Grey, longest_side: int) -> Grey:
    """At most `longest_side` on the longer side, never enlarged; antialiased."""
    rows, columns = grey.shape
    scale = longest_side / max(rows, columns)
    if scale >= 1:
        return grey
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    image = Image.fromarray(np.ascontiguousarray(grey))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


def _first(value: Any) -> float | None:
    first = value[0] if hasattr(value, "__len__") and not isinstance(value, str) and value else value
    try:
        return float(first)
    except (TypeError, ValueError):  # absent, or `40,5`
        return None
