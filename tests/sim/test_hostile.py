import io
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset

from client.imaging.dataset import clean_dataset
from client.imaging.header import read
from client.imaging.header_path import clean_native
from client.imaging.ocr import shipped
from client.imaging.pixels import render
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from federation.errors import DeidError
from sim.hostile import Hostile, hostile_objects, odd_files

PROFILE = DeidProfile.shipped()
KEYS = SiteKeys.from_secret(bytes(range(32)))
HOSTILE, ODD = list(hostile_objects(3)), list(odd_files(3))


def written(clean: Dataset) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, clean, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_no_plant_survives_in_any_place(hostile: Hostile) -> None:
    header = dcmread(io.BytesIO(hostile.data))
    del header.PixelData  # its own way is the next line's
    slow = written(clean_dataset(header, PROFILE, KEYS))
    parts = clean_native(hostile.data, PROFILE, KEYS)
    assert parts is not None and len(hostile.planted) > 1500
    fast = b"".join(parts)

    assert [plant for plant in hostile.planted if plant.encode() in slow] == []
    assert [plant for plant in hostile.planted if plant.encode() in fast] == []
    assert [plant for plant in hostile.planted if plant.encode() in hostile.data[:-40]] != []


@pytest.mark.parametrize(("name", "data"), ODD, ids=[name for name, _ in ODD])
def test_odd_files_end_with_a_reason(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)

    with pytest.raises(DeidError) as refused:
        dataset = read(tmp_path / "x", PROFILE.limits, pixels=True)
        clean_dataset(dataset, PROFILE, KEYS)
        render(dataset, PROFILE, shipped())
    assert refused.value.code in DeidError.codes
    assert "QXZ" not in str(refused.value) and "826" not in str(refused.value)
