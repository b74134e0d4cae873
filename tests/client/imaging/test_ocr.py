import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from client.imaging.networks import Networks
from client.imaging.ocr import Line, Look, _Box, _strongest, shipped
from client.imaging.strokes import colours

OPEN = "from client.imaging.ocr import shipped; shipped()"


def test_opening_the_networks_leaves_no_file_behind(tmp_path: Path) -> None:
    """ONNX Runtime's telemetry keeps a session in the temporary folder and a database in the user's cache."""
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    hushed = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    loud = {name: value for name, value in os.environ.items() if name not in hushed}
    subprocess.run(
        [sys.executable, "-B", "-c", OPEN], check=True, cwd=Path(__file__).parents[3],
        env=loud | {"HOME": str(home), "TMPDIR": str(scratch), "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def lettered(
    text: str, size: int, at: tuple[int, int], shade: int, *, mirrored: bool = False, turned: int = 0
) -> np.ndarray:
    """A soft picture with one line of text on it."""
    down, across = np.mgrid[:400, :420]
    ground = 90 + 40 * np.sin(down / 40) + 20 * np.cos(across / 25) + np.random.default_rng(0).normal(0, 2, (400, 420))
    layer = Image.new("L", (420, 400), 0)
    ImageDraw.Draw(layer).text(at, text, fill=255, font=ImageFont.load_default(size))
    ink = np.rot90(np.asarray(layer)[:, ::-1] if mirrored else np.asarray(layer), turned)
    ink = np.pad(ink, ((0, max(0, 400 - ink.shape[0])), (0, max(0, 420 - ink.shape[1]))))[:400, :420] / 255
    return np.clip(ground * (1 - ink) + shade * ink, 0, 255).astype(np.uint8)


def read(picture: np.ndarray) -> str:
    return " ".join(line.text for line in shipped().look(picture).lines() if line.confidence > 0.6)


def test_a_line_that_is_seen_from_behind_is_read() -> None:
    assert "1949" in read(lettered("Prendergast 1949", 18, (60, 300), 255, mirrored=True))


def test_the_finder_sees_small_upright_and_faint_lines() -> None:
    assert "Hollen" in read(lettered("Hollenstein", 9, (60, 310), 230))
    assert "Hollen" in read(lettered("Hollenstein", 12, (60, 310), 250, turned=1))


def test_of_what_the_finder_sees_a_faint_box_that_reads_badly_is_not_believed() -> None:
    small, tall = (0, 0, 12, 40), (0, 0, 40, 160)
    assert Line(*small, "Ng", 0.3, 0.92).is_clear and Line(*small, "Ng", 0.9, 0.5).is_clear
    assert not Line(*small, "TE", 0.59, 0.49).is_clear
    assert Line(*tall, "JOA", 0.7, 0.91).is_clear
    assert not Line(*tall, "0000", 0.68, 0.75).is_clear


def test_a_box_that_reads_as_a_dot_hides_no_line() -> None:
    small = Line(40, 10, 52, 90, "Hollenstein", 0.7, 0.8)

    assert small.lies_in(Line(10, 0, 90, 160, "Hollenste", 0.76, 0.75))
    assert not small.lies_in(Line(10, 0, 90, 160, ".", 0.76, 0.75))
    assert not small.lies_in(Line(50, 0, 90, 160, "Hollenste", 0.76, 0.75))


@pytest.mark.parametrize("side", [724, 728, 732])
def test_the_finder_sees_nothing_at_the_edges_of_noise(side: int) -> None:
    """Repeated to fill the last square, noise is stripes, and looks like a line of letters."""
    slope = np.linspace(0, 255, side)[:, None] + np.linspace(-40, 40, side)[None, :]
    noise = np.random.default_rng(side).normal(0, 5, (side, side))
    drawn = colours((slope + noise).clip(0, 255).astype(np.uint8))

    assert shipped().networks.letter_map(drawn).max() < 0.5


def test_two_letters_that_read_better_upside_down_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An AP of a radiograph, in its noise: with a pixel more around it, it reads as what it is."""
    look = shipped().look(np.zeros((386, 386), dtype=np.uint8))
    read_as = {10: ("dy", 0.89), 8: ("dy", 0.97), 12: ("AP", 0.99)}
    monkeypatch.setattr(Look, "_best", lambda self, box: read_as[box.bottom - box.top])

    (line,) = look._read(_Box(30, 20, 40, 40, 0.7))
    assert line.text == "AP"


def test_two_letters_come_before_one_that_reads_a_little_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """PA, upside down, is a d."""
    networks, crop = shipped().networks, np.arange(40 * 60, dtype=np.uint8).reshape(40, 60)
    says = {bytes(crop[0]): ("PA", 0.86), bytes(crop[::-1, ::-1][0]): ("d", 0.88)}
    monkeypatch.setattr(Networks, "recognised", lambda self, turned: says[bytes(turned[0])])

    assert networks.read(crop, askew=True) == ("PA", 0.86)
    says[bytes(crop[0])] = ("PA", 0.7)
    assert networks.read(crop, askew=True) == ("d", 0.88)


def test_the_finder_is_sure_of_what_it_sees_in_the_dark() -> None:
    layer = np.zeros((3, 120, 200), dtype=np.uint8)
    names = ("Hollenstein", "Ćwikła Åse", "Ñandú Øst")
    for plane, name in zip(layer, names, strict=True):
        image = Image.fromarray(plane)
        ImageDraw.Draw(image).text((20, 50), name, fill=250, font=ImageFont.load_default(20))
        sure = shipped().networks.letter_map(colours(np.asarray(image)))
        assert _strongest(sure, _Box(50, 20, 76, 120, 1.0)) > 0.9


def test_what_a_detector_sees_and_the_finder_does_not_is_text_only_if_it_reads_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = lettered("Hollenstein", 20, (60, 200), 255)
    monkeypatch.setattr(Networks, "letter_map", lambda self, drawn: np.zeros(drawn.shape[:2], dtype=np.float32))
    assert "Hollen" in read(picture)

    monkeypatch.setattr(Line, "is_read_well", False)
    monkeypatch.setattr(Look, "_wide_apart", lambda *_: [])
    assert read(picture) == ""


def test_all_readings_of_a_box_stay_if_one_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """An R at the edge, seen without what is mirrored there and with it."""
    r = [Line(10, 0, 40, 18, text, confidence, 0.9) for text, confidence in (("R", 0.95), ("IR", 0.97))]
    look = shipped().look(np.zeros((120, 120), dtype=np.uint8))
    monkeypatch.setattr(Look, "_read", lambda *_: r)
    assert look._believed([_Box(10, 0, 40, 18, 0.9)]) == r

    monkeypatch.setattr(Look, "_read", lambda *_: r[:1])
    assert look._believed([_Box(10, 0, 40, 18, 0.9)]) == []


def test_the_highest_fifth_of_a_box_counts() -> None:
    sure = np.zeros((20, 20), dtype=np.float32)
    sure[4:6, 2:12] = 0.8  # 20 of 100 pixels

    assert _strongest(sure, _Box(0, 2, 10, 12, 0.5)) == pytest.approx(0.8)
    assert _strongest(sure, _Box(10, 2, 20, 12, 0.5)) == 0.0
