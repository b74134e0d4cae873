import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from client.imaging.ocr import _BORDER, Line, _unmirrored, shipped

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
    return " ".join(line.text for line in shipped().lines(picture) if line.confidence > 0.6)


def test_a_line_that_is_seen_from_behind_is_read() -> None:
    assert "1949" in read(lettered("Prendergast 1949", 18, (60, 300), 255, mirrored=True))


def test_the_finder_sees_small_upright_and_faint_lines() -> None:
    assert "Hollen" in read(lettered("Hollenstein", 9, (60, 310), 230))
    assert "Hollen" in read(lettered("Hollenstein", 12, (60, 310), 250, turned=1))


def test_of_what_the_finder_sees_a_faint_box_that_reads_badly_is_not_believed() -> None:
    small, tall = (0, 0, 12, 40), (0, 0, 40, 160)
    assert Line(*small, "Ng", 0.3, 0.92).is_clear and Line(*small, "Ng", 0.8, 0.45).is_clear
    assert not Line(*small, "TE", 0.59, 0.49).is_clear
    assert Line(*tall, "JOA", 0.7, 0.91).is_clear
    assert not Line(*tall, "0000", 0.68, 0.75).is_clear


def test_the_border_of_the_search_for_small_letters_shows_no_line_twice() -> None:
    picture = np.zeros((64, 80), dtype=np.uint8)
    picture[58:62, 20:60] = 200
    mirrored = np.pad(picture, _BORDER, mode="symmetric")

    assert (mirrored > 0).any(axis=1).sum() == 8
    assert (_unmirrored(mirrored) > 0).any(axis=1).sum() == 4
    assert _unmirrored(np.dstack([mirrored] * 3)).shape == (*mirrored.shape, 3)
