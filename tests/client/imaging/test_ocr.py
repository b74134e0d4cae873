import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from client.imaging.ocr import _BORDER, _unmirrored

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


def test_the_border_of_the_search_for_small_letters_shows_no_line_twice() -> None:
    picture = np.zeros((64, 80), dtype=np.uint8)
    picture[58:62, 20:60] = 200
    mirrored = np.pad(picture, _BORDER, mode="symmetric")

    assert (mirrored > 0).any(axis=1).sum() == 8
    assert (_unmirrored(mirrored) > 0).any(axis=1).sum() == 4
    assert _unmirrored(np.dstack([mirrored] * 3)).shape == (*mirrored.shape, 3)
