"""Adapter and update: immutable, in one order, and started without data."""

import pickle

import numpy as np
import pytest

from federation.adapter import Adapter, AdapterUpdate, at_rank, check_update, factor, initial_adapter, rank_of
from federation.errors import FormatError, ModelError

SHAPES = {
    "m.q.lora_B.weight": (5, 2),
    "m.q.lora_A.weight": (2, 7),
    "m.k.lora_A.weight": (3, 4),
    "m.k.lora_B.weight": (1, 3),
}
BOTH = frozenset({"A", "B"})


def adapter(seed: int = 1, a_init: str = "orthonormal") -> Adapter:
    return initial_adapter(SHAPES, a_init=a_init, seed=seed)


def update(seed: int = 0) -> AdapterUpdate:
    rng = np.random.default_rng(seed)
    return AdapterUpdate({name: rng.standard_normal(shape, dtype=np.float32) for name, shape in SHAPES.items()})


def test_names_are_sorted_whatever_order_they_come_in():
    assert list(adapter().arrays) == sorted(SHAPES)
    assert adapter().digest() == Adapter(dict(reversed(adapter().arrays.items()))).digest()


def test_neither_the_value_nor_its_arrays_can_be_changed():
    mine = np.ones((2, 2), np.float32)
    kept = Adapter({"m.lora_A.weight": mine})
    mine[0, 0] = 9

    assert kept.arrays["m.lora_A.weight"][0, 0] == 1
    with pytest.raises(ValueError):
        kept.arrays["m.lora_A.weight"][0, 0] = 2
    with pytest.raises(AttributeError):
        kept.arrays = {}


def test_unflatten_is_the_opposite_of_flatten():
    vector = np.arange(adapter().size, dtype=np.float32)

    assert np.array_equal(adapter().unflatten(vector).flatten(), vector)
    with pytest.raises(ModelError):
        adapter().unflatten(vector[1:])


def test_minus_and_plus_meet_again():
    end = adapter().plus(update())

    assert end.minus(adapter()).shapes == update().shapes
    np.testing.assert_allclose(adapter().plus(end.minus(adapter())).flatten(), end.flatten(), atol=1e-6)


def test_an_update_of_one_factor_leaves_the_other_bit_for_bit():
    before = adapter(a_init="kaiming")
    after = before.plus(update().part(frozenset({"B"})))

    for name, array in before.arrays.items():
        assert (after.arrays[name] is array) == (factor(name) == "A")


def test_an_update_that_would_broadcast_is_refused():
    with pytest.raises(ModelError):
        adapter().plus(AdapterUpdate({"m.q.lora_B.weight": np.ones((1, 2), np.float32)}))


@pytest.mark.parametrize("name", ["m.q.weight", "m.lora_A.default.weight", "m.lora_C.weight", "é.lora_A.weight", ""])
def test_only_names_of_lora_matrices_are_taken(name):
    with pytest.raises(ModelError):
        Adapter({name: np.ones((2, 2), np.float32)})


@pytest.mark.parametrize("array", [np.ones((2, 2)), np.ones(2, np.float32), np.ones((0, 2), np.float32)])
def test_only_float32_matrices_are_taken(array):
    with pytest.raises(ModelError):
        Adapter({"m.lora_A.weight": array})


def test_the_first_adapter_is_the_base_b_is_zero_and_rows_of_a_are_orthonormal():
    for name, array in adapter().arrays.items():
        if factor(name) == "B":
            assert not array.any()
        else:
            np.testing.assert_allclose(array @ array.T, np.eye(len(array)), atol=1e-6)


def test_the_start_depends_on_seed_and_name_only():
    fewer = initial_adapter({"m.q.lora_A.weight": (2, 7)}, a_init="orthonormal", seed=1)

    assert np.array_equal(fewer.arrays["m.q.lora_A.weight"], adapter().arrays["m.q.lora_A.weight"])
    assert adapter(seed=2).digest() != adapter(seed=1).digest()


def test_kaiming_rows_stay_within_pefts_bound():
    a = adapter(a_init="kaiming").arrays["m.q.lora_A.weight"]

    assert np.abs(a).max() <= 1 / np.sqrt(7)


def test_a_rank_above_the_inputs_has_no_orthonormal_rows():
    with pytest.raises(ModelError, match="started"):
        initial_adapter({"m.lora_A.weight": (8, 4)}, a_init="orthonormal", seed=0)


def test_values_survive_a_worker_process():
    assert pickle.loads(pickle.dumps(update())).digest() == update().digest()


def test_a_huge_but_finite_update_is_finite_and_too_large():
    huge = AdapterUpdate({name: np.full(shape, 3e38, np.float32) for name, shape in SHAPES.items()})

    assert huge.is_finite()
    with pytest.raises(FormatError) as caught:
        check_update(huge, shapes=SHAPES, factors=BOTH, max_rms=1.0)
    assert caught.value.code == "update-norm"


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_found(wrong):
    arrays = {name: array.copy() for name, array in update().arrays.items()}
    arrays["m.q.lora_A.weight"][1, 3] = wrong

    with pytest.raises(FormatError) as caught:
        check_update(AdapterUpdate(arrays), shapes=SHAPES, factors=BOTH, max_rms=1e9)
    assert caught.value.code == "update-not-finite"


def test_a_factor_that_should_rest_is_refused():
    with pytest.raises(FormatError) as caught:
        check_update(update(), shapes=SHAPES, factors=frozenset({"B"}), max_rms=1e9)
    assert caught.value.code == "update-shape"


def test_an_adapter_cut_to_a_rank_keeps_its_first_components():
    shapes = {"m.lora_A.weight": (3, 7), "m.lora_B.weight": (5, 3)}
    whole = initial_adapter(shapes, a_init="kaiming", seed=1).plus(
        AdapterUpdate({"m.lora_B.weight": np.arange(15, dtype=np.float32).reshape(5, 3)})
    )
    cut = whole.cut(2)

    assert cut.shapes == at_rank(shapes, 2) == {"m.lora_A.weight": (2, 7), "m.lora_B.weight": (5, 2)}
    for name, array in cut.arrays.items():
        np.testing.assert_array_equal(array, whole.arrays[name][:2] if "lora_A" in name else whole.arrays[name][:, :2])
    assert whole.cut(3) is whole
    assert rank_of(cut.shapes) == 2 and rank_of(SHAPES) == 0 and rank_of({}) == 0
