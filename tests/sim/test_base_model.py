"""How the tiny base is made; that the shipped one has learnt its lesson is for the federation's own tests to show."""

import client.training  # noqa: F401  isort: skip
from pathlib import Path

import numpy as np
import torch

from client.training.model import Device, load_base
from sim.base_model import PATCHES, examine, make_base, make_model, make_tokenizer, see, start_projector
from sim.public_cases import public_case, public_text


def test_the_projector_starts_by_whitening_and_without_the_mean() -> None:
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    model = make_model(make_tokenizer(public_text(rng, 20)), text_layers=1, vision_layers=1, width=64)
    seen = torch.randn(200, PATCHES, 64) * torch.logspace(0, -1, 64) + 5.0
    start_projector(model, seen)
    with torch.no_grad():
        made = model.multi_modal_projector(seen.flatten(0, 1))

    assert made.mean(0).norm() < 0.05 * (0.06 * 8)
    variances = torch.linalg.eigvalsh(torch.cov(made.T))
    torch.testing.assert_close(variances[1:], torch.full((63,), 0.06**2), rtol=0.02, atol=0)


def test_the_examination_counts_pairs_in_the_right_order() -> None:
    torch.manual_seed(2)
    rng = np.random.default_rng(2)
    tokenizer = make_tokenizer(public_text(rng, 20))
    model = make_model(tokenizer, text_layers=1, vision_layers=1, width=64).eval()
    seen = see(model, [public_case(rng) for _ in range(6)])
    truth = np.array([True, False, True, False, False, True])

    found = examine(model, tokenizer, {"Is there haze?": truth}, seen)["Is there haze?"]
    other = examine(model, tokenizer, {"Is there haze?": ~truth}, seen)["Is there haze?"]

    assert 0.0 <= found <= 1.0
    assert found + other == 1.0


def test_the_command_makes_a_checkpoint_that_loads_and_the_same_seed_makes_the_same_one(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        make_base(tmp_path / name, seed=3, cases=100, steps=3, threads=1, progress=lambda line: None)
        digests.append(load_base(tmp_path / name, sha256=None, family="llama4", device=Device()).digest)

    assert digests[0] == digests[1]
