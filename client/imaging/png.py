"""The one picture format of the store: 8-bit grey PNG without metadata."""

import io
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

Grey = npt.NDArray[np.uint8]
_PNG_CHUNKS = {b"IHDR", b"IDAT", b"IEND"}


def encode_png(pixels: Grey) -> bytes:
    """8-bit grey PNG, level 1, with the three structural chunks only."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def decode_png(data: bytes) -> Grey:
    """The pixels of `encode_png`. Raises ValueError for any other chunk: a text chunk could hide anything."""
    if not set(_chunks(data)) <= _PNG_CHUNKS:
        raise ValueError("a PNG chunk that the store never writes")
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if image.mode != "L":
            raise ValueError("a picture that is not 8-bit grey")
        return np.asarray(image)


def _chunks(data: bytes) -> Iterator[bytes]:
    at = 8
    while at + 8 <= len(data):
        yield data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    if at != len(data):
        raise ValueError("bytes after the last PNG chunk")
