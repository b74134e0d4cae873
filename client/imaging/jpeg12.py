"""JPEG with 12 bits a sample (JPEG Extended, process 4): GDCM decodes it, but pydicom 3.0 never asks it to.

On public files the values are those of the JPEG committee's reference decoder, or off by one: the code is lossy, and
decoders may round differently (ITU-T T.83).
"""

import gdcm
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRLittleEndian, JPEGExtended12Bit


def is_coded(dataset: Dataset) -> bool:
    """Whether the pixels are grey values of 9 to 12 bits in JPEG streams."""
    syntax, samples = dataset.file_meta.TransferSyntaxUID, int(dataset.get("SamplesPerPixel", 1) or 1)
    return bool(syntax == JPEGExtended12Bit and samples == 1 and 8 < int(dataset.BitsStored) <= 12)


def unpack(dataset: Dataset) -> None:
    """Put plain values in the place of the streams of all frames.

    Raises: ValueError for a stream that does not decode to a whole frame.
    """
    rows, columns, frames = (int(dataset.get(name, 1) or 1) for name in ("Rows", "Columns", "NumberOfFrames"))
    plain = [_decoded(stream, rows, columns) for stream in generate_frames(dataset.PixelData, number_of_frames=frames)]
    if len(plain) < frames or any(len(frame) != 2 * rows * columns for frame in plain):
        raise ValueError("a frame does not decode")
    del dataset["PixelData"]
    dataset.add_new("PixelData", "OW", b"".join(plain[:frames]))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _decoded(stream: bytes, rows: int, columns: int) -> bytes:
    """One frame as little-endian words, or nothing."""
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(JPEGExtended12Bit))))
    image.SetPixelFormat(gdcm.PixelFormat(1, 12, 12, 11, 0))  # 16 bits allocated: it tries its 16-bit decoder first
    text = image.GetBuffer()  # bytes as a string, or None
    return b"" if text is None else text.encode("utf-8", "surrogateescape")
