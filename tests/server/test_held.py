"""Updates kept until all are there: the same bits from memory and from the file, and nothing left behind."""

import numpy as np
import pytest

from federation.adapter import AdapterUpdate
from server.held import Held

SHAPES = {"m.lora_A.weight": (2, 5), "m.lora_B.weight": (4, 2)}


def update(seed: int, columns: int = 2) -> AdapterUpdate:
    rng = np.random.default_rng(seed)
    return AdapterUpdate(
        {
            "m.lora_A.weight": rng.standard_normal((columns, 5), dtype=np.float32),
            "m.lora_B.weight": rng.standard_normal((4, columns), dtype=np.float32),
        }
    )


@pytest.mark.parametrize("memory_bytes", [0, 72, 150, 10_000])
def test_what_was_taken_comes_back_bit_for_bit_wherever_it_was_put(tmp_path, memory_bytes):
    given = [(update(seed, columns), seed + 1) for seed, columns in enumerate([2, 1, 2, 2])]
    with Held(tmp_path, memory_bytes=memory_bytes).take(iter(given)) as held:
        for _ in range(2):
            assert [one.digest() for one in held.updates()] == [one.digest() for one, _ in given]
        assert held.weights == [1, 2, 3, 4] and held.norms == [one.norm() for one, _ in given]


@pytest.mark.parametrize("memory_bytes", [0, 150])
def test_one_matrix_of_all_sites_is_read_without_the_others(tmp_path, memory_bytes):
    given = [(update(seed), 1) for seed in range(4)]
    with Held(tmp_path, memory_bytes=memory_bytes).take(given) as held:
        for name in held.names():
            expected = np.stack([one.arrays[name].reshape(-1) for one, _ in given])
            np.testing.assert_array_equal(held.matrix(name), expected)


def test_no_update_of_a_site_can_be_found_in_the_folder(tmp_path):
    with Held(tmp_path, memory_bytes=0).take([(update(1), 1), (update(2), 1)]) as held:
        assert len(held) == 2 and list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []
