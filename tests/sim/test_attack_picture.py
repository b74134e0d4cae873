"""The picture of the attacks."""

import xml.etree.ElementTree as ET

from sim.attack_picture import picture

ROW = {"name": "gaussian-score", "planted_bug": "half-noise", "claimed_epsilon": 2.8, "lower_bound": 1e6, "caught": 5,
       "runs": 5}  # fmt: skip


def test_the_picture_is_one_svg_without_anything_from_outside() -> None:
    drawn = picture({"audits": [ROW, ROW | {"planted_bug": None, "caught": 0}], "membership": None})
    shapes = list(ET.fromstring(drawn).iter())

    assert "5 of 5 above the claim" in drawn and "0 of 5" in drawn
    assert not any("href" in name for shape in shapes for name in shape.attrib)
    assert all(float(shape.get("width", "0")) <= 760 for shape in shapes if shape.tag.endswith("rect"))


def test_names_are_escaped() -> None:
    assert "<script>" not in picture({"audits": [ROW | {"name": "<script>"}], "membership": None})
