"""Pictures of noise, slopes and edges with strokes drawn into them."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from client.imaging.png import Grey
from client.imaging.strokes import noise_of, places, written


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
    assert places(background(noise)) == [] or not written(background(noise)).mean() > 0.02


@pytest.mark.parametrize(
    ("size", "contrast", "noise"),
    [(10, 60, 0.0), (10, -40, 2.0), (12, 60, 8.0), (24, 40, 4.0), (40, 60, 4.0), (14, 20, 0.5), (16, 90, 25.0)],
)
def test_letters_of_any_legible_size_and_shade_are_inside_a_place(size: int, contrast: int, noise: float) -> None:
    picture, ink = lettered(background(noise), "Hollenstein", (100, 10), size, contrast)
    inside = np.zeros(picture.shape, dtype=bool)
    for top, left, bottom, right in places(picture):
        inside[top:bottom, left:right] = True

    assert ink.any() and inside[ink].mean() > 0.97


def test_a_page_of_text_is_one_place() -> None:
    page = np.full((256, 256), 10, dtype=np.uint8)
    for row in range(4, 250, 16):
        page, _ = lettered(page, "Hollenstein Mathilda 7.6.1950 no. 48", (row, 2), 13, 200)

    assert places(page) == [(0, 0, 256, 256)]


def test_noise_is_measured_beside_letters() -> None:
    picture, _ = lettered(background(9.0), "Hollenstein", (40, 10), 24, 90)

    assert abs(noise_of(picture) - 9.0) < 1.5
    assert noise_of(background(0.0)) < 1.0
    assert noise_of(np.zeros((2, 40), dtype=np.uint8)) == 0.0
