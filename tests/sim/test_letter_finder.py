"""The letter finder's drawings, its loss, and that a file of weights computes what was trained."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sim.letter_finder import LetterFinder, loss_of, save, train
from sim.lettering import SIDE, Artist, _legibility


def artist(seed: int) -> Artist:
    return Artist(np.random.default_rng(seed))


def test_the_same_seed_draws_the_same_and_each_picture_is_another() -> None:
    one, other = artist(3), artist(3)
    drawn = [one.draw() for _ in range(6)]

    assert all(np.array_equal(first.picture, other.draw().picture) for first in drawn)
    assert len({first.picture.tobytes() for first in drawn}) == 6


def test_most_pictures_carry_lines_and_some_none() -> None:
    some = artist(4)
    drawn = [some.draw() for _ in range(60)]

    assert all(one.picture.shape == one.core.shape == one.unclear.shape == (SIDE, SIDE) for one in drawn)
    assert not any((one.core & one.unclear).any() for one in drawn)
    assert 25 < sum(one.core.any() for one in drawn) < 58
    assert 0.005 < np.mean([one.core.mean() for one in drawn]) < 0.15


def test_a_line_longer_than_the_picture_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    some = artist(5)
    monkeypatch.setattr(some, "_text", lambda: "Hollenstein " * 30)
    drawn = [some.draw() for _ in range(12)]

    assert any(one.core.any() for one in drawn)


def test_a_line_is_legible_only_where_it_stands_out() -> None:
    """It runs from a dark ground onto one of its own shade."""
    ground = np.full((SIDE, SIDE), 20, dtype=np.float32)
    ground[:, SIDE // 2 :] = 200
    strokes = np.zeros_like(ground)
    strokes[120:136, 8:-8:4] = 1
    drawn = np.where(strokes > 0, np.float32(200), ground)
    legible = _legibility(ground, drawn, strokes, 0.0, 12.0)[124:132]

    assert legible[:, 30:100].min() > 20 and legible[:, 156:226].max() == 0


def test_the_loss_is_least_where_the_lines_are() -> None:
    core = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    core[..., 4:6, 2:14] = True
    nothing = torch.zeros_like(core)
    right = torch.where(core, 6.0, -6.0)

    assert loss_of(right, core, nothing) < 0.1 < loss_of(-torch.ones(1, 1, 16, 16), core, nothing)
    assert loss_of(right.roll(6, 2), core, nothing) > 1
    elsewhere = right.clone()
    elsewhere[..., 10:12, :] = 6
    assert loss_of(elsewhere, core, elsewhere.gt(0) & ~core) < 0.1 < loss_of(elsewhere, core, nothing)


def test_what_was_trained_is_finite_and_answers_at_half_the_size() -> None:
    torch.manual_seed(0)
    one = train([], [], steps=3)
    assert not one.training
    assert all(torch.isfinite(parameter).all() for parameter in one.parameters())
    with torch.no_grad():
        assert one(torch.rand(1, 3, 32, 48)).shape == (1, 1, 16, 24)


def test_the_file_computes_what_was_trained(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    import onnxruntime

    torch.manual_seed(1)
    network = LetterFinder().eval()
    save(network, tmp_path / "finder.onnx")
    pictures = torch.rand(1, 3, 48, 80)
    session = onnxruntime.InferenceSession(tmp_path / "finder.onnx")
    (sure,) = session.run(None, {"pictures": pictures.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(sure, network(pictures).numpy(), atol=1e-5)
