"""Pictures of noise, slopes and edges with strokes drawn into them."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from client.imaging.png import Grey
from client.imaging.strokes import filled, levelled, noise_of, rows, stands_out, thin, written


def background(noise: float, size: int = 256) -> Grey:
    """A slope with a step of 120 shades down the middle, and noise."""
    slope = np.linspace(20, 60, size)[:, None] + 120 * (np.arange(size) >= size // 2)[None, :]
    noisy = slope + np.random.default_rng(3).normal(0, noise, (size, size))
    return np.asarray(noisy.clip(0, 255).astype(np.uint8))


def lettered(picture: Grey, text: str, at: tuple[int, int], size: int, contrast: int) -> tuple[Grey, Grey]:
    """The picture with text brighter by `contrast`, and where its ink is."""
    image = Image.new("L", picture.shape[::-1], 0)
    ImageDraw.Draw(image).text(at[::-1], text, fill=255, font=ImageFont.load_default(size))
    ink = np.asarray(image)
    return (picture + ink / 255 * contrast).clip(0, 255).astype(np.uint8), ink > 127


@pytest.mark.parametrize("noise", [0.0, 1.0, 4.0])
def test_slopes_edges_and_noise_are_no_writing(noise: float) -> None:
    assert written(background(noise)).mean() < 0.02


@pytest.mark.parametrize(
    ("size", "contrast", "noise"),
    [(10, 60, 0.0), (10, -40, 2.0), (12, 60, 8.0), (24, 40, 4.0), (40, 60, 4.0), (14, 20, 0.5), (16, 90, 25.0)],
)
def test_letters_of_any_legible_size_and_shade_are_writing(size: int, contrast: int, noise: float) -> None:
    picture, ink = lettered(background(noise), "Hollenstein", (100, 10), size, contrast)

    assert ink.any() and written(picture)[ink].mean() > 0.9


def test_noise_is_measured_beside_letters() -> None:
    picture, _ = lettered(background(9.0), "Hollenstein", (40, 10), 24, 90)

    assert abs(noise_of(picture) - 9.0) < 1.5
    assert noise_of(background(0.0)) < 1.0
    assert noise_of(np.zeros((2, 40), dtype=np.uint8)) == 0.0


def test_three_shades_on_plain_black_stand_out_where_levelled_also_beside_an_edge() -> None:
    plain = np.zeros((128, 256), dtype=np.uint8)
    plain[:60] = 180
    picture, ink = lettered(plain, "Hollenstein", (66, 20), 18, 3)
    beside = ~ink & (np.arange(128) >= 66)[:, None]

    assert levelled(plain)[100:].std() == 0 and thin(plain)[66:].std() == 0
    assert thin(picture)[ink].mean() > thin(picture)[beside].mean() + 60


def test_what_was_blanked_is_filled_with_what_is_around_it() -> None:
    picture = background(2.0)
    hidden = np.zeros(picture.shape, dtype=bool)
    hidden[100:140, 4:80] = True
    again = filled(np.where(hidden, 0, picture).astype(np.uint8), hidden)

    assert (again[~hidden] == picture[~hidden]).all()
    assert np.abs(again[hidden].astype(int) - picture[hidden]).max() < 30
    assert filled(picture, ~hidden & hidden) is picture


def test_letters_wide_apart_are_a_row_of_marks_and_noise_is_none() -> None:
    picture = background(2.0)
    for at, letter in enumerate("HOLLE"):
        picture, _ = lettered(picture, letter, (100, 4 + 24 * at), 16, 60)
    found, _ = rows(thin(picture))
    _, upright = rows(thin(np.ascontiguousarray(np.rot90(picture, -1))))

    assert any(len(row) == 5 and abs(row[0][1] - 4) < 6 and abs(row[-1][1] - 100) < 6 for row in found)
    assert upright[0] == found[0]
    assert rows(np.full((64, 64), 128, dtype=np.uint8)) == ([], [])
    assert not any(len(row) >= 5 and row[0][0] > 90 and row[0][2] < 130 for row in rows(thin(background(2.0)))[0])


def grid(noise: float = 2.0) -> Grey:
    """The background under a grid of lines, one or two pixels wide."""
    picture = background(noise).copy()
    for at in range(20, 256, 60):
        picture[at : at + 2, :] = picture[:, at] = 250
    return picture


@pytest.mark.parametrize("noise", [2.0, 8.0])
def test_the_cells_of_a_grid_stand_out_of_nothing(noise: float) -> None:
    nothing = np.zeros((256, 256), dtype=bool)
    for place in ((90, 30, 130, 70), (70, 8, 100, 110), (0, 85, 14, 150)):
        assert stands_out(grid(noise), place, nothing) < 1.8


@pytest.mark.parametrize("at", [(95, 24), (75, 24), (134, 24)])
def test_letters_in_a_grid_or_on_its_lines_stand_out(at: tuple[int, int]) -> None:
    picture, ink = lettered(grid(), "Hollenstein", at, 14, 60)
    rows_, columns = np.nonzero(ink)
    place = int(rows_.min()) - 2, int(columns.min()) - 2, int(rows_.max()) + 3, int(columns.max()) + 3

    assert stands_out(picture, place, np.zeros((256, 256), dtype=bool)) > 2.5


def test_where_all_sides_are_hidden_or_outside_anything_stands_out() -> None:
    hidden = np.zeros((256, 256), dtype=bool)
    hidden[40:160, :] = True
    hidden[90:110, 50:90] = False

    assert stands_out(background(2.0), (90, 50, 110, 90), hidden) == np.inf
    assert stands_out(background(2.0), (0, 0, 256, 256), np.zeros_like(hidden)) == np.inf
