"""A random Llama 4 in small, its processor with several tiles, and patients with several pictures."""

from pathlib import Path

import client.training  # noqa: F401  isort: skip
import numpy as np
import pytest
import torch
from transformers import Llama4ImageProcessor, Llama4Processor

from client.training.examples import Example
from client.training.model import Base, Device, load_base
from sim.base_model import PATCH, make_model, make_tokenizer
from sim.public_cases import TILE, public_text

TURNS = (
    ("Is there consolidation?", "Yes."),
    ("Describe the findings.", "There is a small nodule on the left."),
    ("Is there a pneumothorax?", "No."),
)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights; pictures larger than a tile become up to four tiles and a global one."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("base")
    tokenizer = make_tokenizer(public_text(np.random.default_rng(3), 50))
    make_model(tokenizer, text_layers=2, vision_layers=2, width=64).save_pretrained(folder)
    pictures = Llama4ImageProcessor(size={"height": TILE, "width": TILE}, max_patches=4)
    Llama4Processor(pictures, tokenizer, patch_size=PATCH, pixel_shuffle_ratio=0.5).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(base_folder: Path) -> Base:
    """One for all tests, which put their own adapter on it."""
    return load_base(base_folder, sha256=None, family="llama4", device=Device())


@pytest.fixture
def fresh_base(base_folder: Path) -> Base:
    """For tests that change the base itself."""
    return load_base(base_folder, sha256=None, family="llama4", device=Device())


def patient(name: str, *, pictures: int = 1, examples: int = 1, side: int = 80) -> list[Example]:
    """Made examples of one patient; `side` above one tile makes several tiles."""
    rng = np.random.default_rng(list(name.encode()))
    return [
        Example(
            name,
            tuple(rng.integers(0, 255, (side, side), dtype=np.uint8) for _ in range(pictures)),
            tuple(TURNS[index] for index in rng.permutation(len(TURNS))[: 1 + int(rng.integers(3))]),
        )
        for _ in range(examples)
    ]


@pytest.fixture
def patients() -> list[list[Example]]:
    """Six patients: one picture, several tiles, two pictures, two examples, and a copy of another patient."""
    return [
        patient("one"),
        patient("tiles", side=200),
        patient("two-pictures", pictures=2),
        patient("two-examples", examples=2),
        patient("both", pictures=2, examples=2, side=120),
        patient("one"),
    ]
