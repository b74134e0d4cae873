"""Finds and reads lines of text in a grey picture: PaddleOCR's detector and recogniser, run by ONNX Runtime.

The weights lie in `weights/`, are compared with their SHA-256 when they are opened, and are those of the RapidOCR
packages, byte for byte. Nothing is fetched. What stands around the networks (scaling, shapes, decoding) is written here
with numpy, pillow and scipy: the packages themselves would bring OpenCV, whose wheels carry LGPL libraries.

Detector: Liao et al., "Real-time Scene Text Detection with Differentiable Binarization", AAAI 2020. Recogniser:
SVTR-LCNet with CTC decoding (Graves et al., ICML 2006).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from client.imaging.header import refusal
from client.imaging.png import Grey

WEIGHTS = {
    "ch_PP-OCRv4_det_infer.onnx": "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    "ch_PP-OCRv4_rec_infer.onnx": "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
    "PP-OCRv6_det_small.onnx": "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
}
"""File in `weights/` -> SHA-256."""
_DETECTOR, _SECOND_DETECTOR = "PP-OCRv6_det_small.onnx", "ch_PP-OCRv4_det_infer.onnx"
_RECOGNISER = "ch_PP-OCRv4_rec_infer.onnx"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Floats = npt.NDArray[np.float32]
_Box = tuple[int, int, int, int, float]
_SIDE_MIN, _SIDE_MAX = 512, 1600  # pixels that the detector sees; letters under about 8 pixels are not found
_INK, _SCORE_MIN = 0.3, 0.4  # DB: a pixel belongs to text; mean over a component
_UNCLIP = 1.6  # DB shrinks a line by its area over its circumference; this grows it back (section 3.3 of the paper)
_LINE_ROWS, _LINE_COLUMNS_MAX = 48, 1600  # what the recogniser sees of one line
_WHOLE = 0.15  # a component over more of the picture than this is anatomy taken for one letter
_COMPONENTS_MAX = 300


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

    def __repr__(self) -> str:
        return "<Line: hidden>"


@cache
def shipped() -> "Reader":
    """The reader of this process. Raises DeidError ocr-missing when the runtime or the weights are not there."""
    return Reader.open(Path(__file__).with_name("weights"))


class Reader:
    """Three networks on one thread each: two detectors and a recogniser."""

    def __init__(self, detector: Any, second: Any, recogniser: Any) -> None:
        self._detector, self._second, self._recogniser = detector, second, recogniser
        names = recogniser.get_modelmeta().custom_metadata_map["character"].splitlines()
        self._letters = ["", *names, " "]

    @classmethod
    def open(cls, folder: Path) -> "Reader":
        """Raises DeidError ocr-missing: no ONNX Runtime, or weights that are not the ones named in `WEIGHTS`."""
        try:
            import onnxruntime
        except ImportError:
            raise refusal("ocr-missing", "the detector of burned-in text is not installed") from None
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        sessions = {}
        for name, digest in WEIGHTS.items():
            data = _weights(folder / name)
            if hashlib.sha256(data).hexdigest() != digest:
                raise refusal("ocr-missing", "the weights of the text detector are not the ones that were shipped")
            sessions[name] = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return cls(sessions[_DETECTOR], sessions[_SECOND_DETECTOR], sessions[_RECOGNISER])

    def lines(self, picture: Grey) -> list[Line]:
        """All that looks like text in a grey picture, read.

        The first detector sees more text than the second, and sometimes takes a whole body for one letter. Only then
        is the second one asked, which sees the picture larger and is not misled.
        """
        scale = _scale(picture)
        small = _resized(picture, scale)
        boxes, whole = _boxes(self._map(self._detector, small, _MEAN, _STD))
        if whole:
            larger = _resized(picture, min(1.5 * scale, _SIDE_MAX / max(picture.shape)))
            ratio = larger.shape[0] / small.shape[0]
            more, _ = _boxes(self._map(self._second, larger, (0.5,) * 3, (0.5,) * 3))
            boxes += [(*(round(edge / ratio) for edge in box[:4]), box[4]) for box in more]
        found = []
        for top, left, bottom, right, score in boxes:
            text, confidence = self._read(small[top:bottom, left:right])
            edges = _back((top, left, bottom, right), small.shape, picture.shape)
            found.append(Line(*edges, text, confidence, score))
        return found

    def _map(self, session: Any, picture: Grey, mean: tuple[float, ...], std: tuple[float, ...]) -> Floats:
        """For every pixel how sure the detector is that it is text; (rows, columns) of the picture."""
        rows, columns = picture.shape
        size = (max(32, round(columns / 32) * 32), max(32, round(rows / 32) * 32))
        grey = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR), dtype=np.float32) / 255
        planes = np.stack([(grey - one) / other for one, other in zip(mean, std, strict=True)]).astype(np.float32)
        sure = session.run(None, {session.get_inputs()[0].name: planes[None]})[0][0, 0]
        return np.asarray(Image.fromarray(sure).resize((columns, rows), Image.Resampling.BILINEAR))

    def _read(self, crop: Grey) -> tuple[str, float]:
        """The best reading over the directions in which the line may run."""
        rows, columns = crop.shape
        turns = (0, 2) if columns >= 1.3 * rows else (1, 3) if rows >= 1.3 * columns else (0, 1, 2, 3)
        best = ("", 0.0)
        for turn in turns:
            text, confidence = self._recognised(np.ascontiguousarray(np.rot90(crop, turn)))
            if (confidence if text else 0.0) > best[1]:
                best = (text, confidence)
            if turn == turns[0] and confidence > 0.9:
                break
        return best

    def _recognised(self, crop: Grey) -> tuple[str, float]:
        """CTC: the likeliest letter at each step, repeats and blanks left out; their mean probability."""
        low, high = np.percentile(crop, (1, 99))
        clear = np.clip((crop - low) * (255.0 / max(high - low, 8.0)), 0, 255).astype(np.uint8)
        columns = min(_LINE_COLUMNS_MAX, max(16, round(crop.shape[1] * _LINE_ROWS / crop.shape[0])))
        line = Image.fromarray(clear).resize((columns, _LINE_ROWS), Image.Resampling.BICUBIC)
        planes = np.zeros((1, 3, _LINE_ROWS, max(columns, 320)), dtype=np.float32)
        planes[0, :, :, :columns] = np.asarray(line, dtype=np.float32) / 127.5 - 1
        steps = self._recogniser.run(None, {self._recogniser.get_inputs()[0].name: planes})[0][0]
        likely, sure = steps.argmax(axis=1), steps.max(axis=1)
        new = (likely != 0) & (likely != np.concatenate(([0], likely[:-1])))
        if not new.any():
            return "", 0.0
        return "".join(self._letters[letter] for letter in likely[new]).strip(), float(sure[new].mean())


def _boxes(sure: Floats) -> tuple[list[_Box], bool]:
    """The text lines of a detector's map, grown back to full height; and whether a component spans the picture."""
    labels, _ = ndimage.label(sure > _INK)
    boxes: list[_Box] = []
    whole = False
    for number, place in _largest(labels):
        inside = labels[place] == number
        rows, columns = inside.shape
        score = float(sure[place][inside].mean())
        if min(rows, columns) < 3 or score < _SCORE_MIN:
            continue
        if rows * columns > _WHOLE * sure.size and min(rows, columns) > 0.2 * min(sure.shape):
            whole = True
            continue
        grow = int(np.ceil(inside.sum() * _UNCLIP / (2 * (rows + columns)))) + 1
        top, left = max(0, place[0].start - grow), max(0, place[1].start - grow)
        bottom, right = min(sure.shape[0], place[0].stop + grow), min(sure.shape[1], place[1].stop + grow)
        boxes.append((top, left, bottom, right, score))
    return boxes, whole


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
    rows, columns = picture.shape
    size = (max(8, round(columns * scale)), max(8, round(rows * scale)))
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.LANCZOS))


def _back(
    box: tuple[int, int, int, int], seen: tuple[int, ...], original: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """A box in the picture that the detector saw as one in the original, never smaller."""
    down, across = original[0] / seen[0], original[1] / seen[1]
    top, left, bottom, right = box
    return (
        int(top * down), int(left * across),
        min(original[0], int(np.ceil(bottom * down))), min(original[1], int(np.ceil(right * across))),
    )  # fmt: skip


def _weights(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise refusal("ocr-missing", "the weights of the text detector are missing") from None
