"""The networks that look for text in a grey picture: PaddleOCR's detector and recogniser, and a finder of our own.

ONNX Runtime runs them, on one thread each. The weights lie in `weights/` and are compared with their SHA-256 when they
are opened. PaddleOCR's are those of the RapidOCR packages, byte for byte; the finder's are `sim/letter_finder.py`'s
work. Nothing is fetched. What stands around the networks (scaling, shapes, decoding) is written here with numpy and
pillow: the packages themselves would bring OpenCV, whose wheels carry LGPL libraries.

Detector: Liao et al., "Real-time Scene Text Detection with Differentiable Binarization", AAAI 2020. Recogniser:
SVTR-LCNet with CTC decoding (Graves et al., ICML 2006).
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from client.imaging.header import refusal
from client.imaging.png import Grey

WEIGHTS = {
    "ch_PP-OCRv4_rec_infer.onnx": "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
    "letter_finder.onnx": "2fbd94779f134cf37192b2b374d68f3c67e3de4728dae856a5876a152fb38a30",
    "PP-OCRv6_det_small.onnx": "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
}
"""File in `weights/` -> SHA-256."""
_DETECTOR, _RECOGNISER = "PP-OCRv6_det_small.onnx", "ch_PP-OCRv4_rec_infer.onnx"
_FINDER = "letter_finder.onnx"
Colours = npt.NDArray[np.uint8]  # (rows, columns, 3)
Floats = npt.NDArray[np.float32]
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DETECTOR_STEP, _FINDER_STEP = 32, 16  # pixels, of which a side that they see is a multiple
_LINE_ROWS, _LINE_COLUMNS_MIN, _LINE_COLUMNS_MAX = 48, 160, 1600  # what the recogniser sees of one line
_KNOWN_MAX = 4096  # lines, by a digest of their pixels
_TURN_READ = 0.9  # of a reading in the likeliest direction: no other is tried
_TWO_READ, _TWO = 0.8, 0.1  # of a reading of two letters; by which it then comes before others
_LEVEL = 1.3  # length over height of a line whose direction is known


class Networks:
    """Where text may be in a picture, and what a piece of it says."""

    def __init__(self, detector: Any, finder: Any, recogniser: Any) -> None:
        self._detector, self._finder, self._recogniser = detector, finder, recogniser
        names = recogniser.get_modelmeta().custom_metadata_map["character"].splitlines()
        self._letters = ["", *names, " "]
        self._known: dict[bytes, tuple[str, float]] = {}

    @classmethod
    def open(cls, folder: Path) -> "Networks":
        """Raises DeidError ocr-missing: no ONNX Runtime, or weights that are not the ones named in `WEIGHTS`."""
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read on import: disable_telemetry_events comes too late for some
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
        return cls(*(sessions[name] for name in (_DETECTOR, _FINDER, _RECOGNISER)))

    def text_map(self, picture: Grey | Colours) -> Floats:
        """For every pixel how sure the detector is that it is text; (rows, columns) of the picture."""
        rows, columns = picture.shape[:2]
        wide, tall = (max(1, round(side / _DETECTOR_STEP)) * _DETECTOR_STEP for side in (columns, rows))
        image = Image.fromarray(np.ascontiguousarray(picture)).resize((wide, tall), Image.Resampling.BILINEAR)
        shades = np.atleast_3d(np.asarray(image, dtype=np.float32) / 255)  # one plane of grey, or three
        even = (shades - np.array(_MEAN, dtype=np.float32)) / np.array(_STD, dtype=np.float32)
        planes = np.moveaxis(even, 2, 0)
        sure = self._detector.run(None, {self._detector.get_inputs()[0].name: planes[None]})[0][0, 0]
        return np.asarray(Image.fromarray(sure).resize((columns, rows), Image.Resampling.BILINEAR))

    def letter_map(self, drawn: Colours) -> Floats:
        """For every pixel how sure the finder is that it is in the middle of a line; (rows, columns) of the picture.

        The sides are filled up with their mirror images: repeated pixels are stripes, and stripes are letters."""
        rows, columns = drawn.shape[:2]
        even = np.pad(drawn, ((0, -rows % _FINDER_STEP), (0, -columns % _FINDER_STEP), (0, 0)), mode="symmetric")
        planes = np.moveaxis(even, 2, 0)[None].astype(np.float32) / 255
        half = self._finder.run(None, {self._finder.get_inputs()[0].name: planes})[0][0, 0]
        sure = Image.fromarray(half).resize(even.shape[1::-1], Image.Resampling.BILINEAR)
        return np.asarray(sure)[:rows, :columns]

    def read(self, crop: Grey, *, askew: bool = False) -> tuple[str, float]:
        """The best reading over the directions in which the line may run. One `askew` has been turned level."""
        rows, columns = crop.shape
        upright = (1, 3) if rows >= _LEVEL * columns else (0, 1, 2, 3)
        turns = (0, 2) if askew or columns >= _LEVEL * rows else upright
        best = ("", 0.0)
        for turn in turns:
            text, confidence = self.recognised(np.ascontiguousarray(np.rot90(crop, turn)))
            best = max(best, (text, confidence), key=likelihood)
            if turn == turns[0] and confidence > _TURN_READ:
                break
        return best

    def recognised(self, crop: Grey) -> tuple[str, float]:
        """What a level line says. A fifth of all lines is asked for again, in another drawing or in the next frame."""
        key = hashlib.blake2b(crop.tobytes(), digest_size=16, salt=repr(crop.shape).encode()[:16]).digest()
        if key not in self._known:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[key] = self._recognise(crop)
        return self._known[key]

    def _recognise(self, crop: Grey) -> tuple[str, float]:
        """CTC: the likeliest letter at each step, repeats and blanks left out; their mean probability."""
        low, high = np.percentile(crop, (1, 99))
        clear = np.clip((crop - low) * (255.0 / max(high - low, 8.0)), 0, 255).astype(np.uint8)
        columns = min(_LINE_COLUMNS_MAX, max(16, round(crop.shape[1] * _LINE_ROWS / crop.shape[0])))
        line = Image.fromarray(clear).resize((columns, _LINE_ROWS), Image.Resampling.BICUBIC)
        planes = np.zeros((1, 3, _LINE_ROWS, max(columns, _LINE_COLUMNS_MIN)), dtype=np.float32)
        planes[0, :, :, :columns] = np.asarray(line, dtype=np.float32) / 127.5 - 1
        steps = self._recogniser.run(None, {self._recogniser.get_inputs()[0].name: planes})[0][0]
        likely, sure = steps.argmax(axis=1), steps.max(axis=1)
        new = (likely != 0) & (likely != np.concatenate(([0], likely[:-1])))
        if not new.any():
            return "", 0.0
        return "".join(self._letters[letter] for letter in likely[new]).strip(), float(sure[new].mean())


def likelihood(read: tuple[str, float]) -> float:
    """By which readings of one line are compared: two letters that read well are seldom an accident, and one is often,
    as the d that a PA is upside down."""
    text, confidence = read
    two = confidence >= _TWO_READ and sum(letter.isalnum() for letter in text) == 2
    return confidence + (_TWO if two else 0.0) if text else 0.0


def _weights(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise refusal("ocr-missing", "the weights of the text detector are missing") from None
