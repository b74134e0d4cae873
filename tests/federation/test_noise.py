import copy
import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

import federation
from federation.errors import FormatError
from federation.privacy.keystream import KeyStream, OperatingSystemKeys
from federation.privacy.noise import discrete_gaussian, gaussian

KEY = bytes(range(32))


def test_the_stream_is_aes_256_in_counter_mode_from_zero():
    # NIST SP 800-38A F.5 gives CTR its meaning: block i is the encryption of the counter i.
    block = Cipher(algorithms.AES256(KEY), modes.ECB()).encryptor()
    counters = [i.to_bytes(16, "big") for i in range(4)]

    assert KeyStream(KEY).bytes(64) == b"".join(block.update(counter) for counter in counters)


@given(st.lists(st.integers(0, 70), max_size=8))
def test_pieces_of_a_stream_are_the_stream_and_nothing_comes_twice(sizes):
    stream = KeyStream(KEY)

    assert b"".join(stream.bytes(size) for size in sizes) == KeyStream(KEY).bytes(sum(sizes))


def test_the_operating_system_gives_a_new_key_every_time():
    keys = OperatingSystemKeys()
    seen = {keys.key("noise") for _ in range(100)}

    assert len(seen) == 100
    assert {len(key) for key in seen} == {32}


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(31), bytes(33)])
def test_a_key_of_another_length_is_refused(key):
    with pytest.raises(FormatError, match="32 bytes"):
        KeyStream(key)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_stream_cannot_be_copied(clone):
    with pytest.raises(FormatError, match="never copied"):
        clone(KeyStream(KEY))


def test_a_forked_process_cannot_go_on_with_the_stream():
    program = """
import os
from federation.errors import FormatError
from federation.privacy.keystream import KeyStream
stream = KeyStream(bytes(32))
if os.fork() == 0:
    try:
        stream.bytes(1)
    except FormatError:
        os._exit(7)
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    root = Path(federation.__file__).parent.parent

    assert subprocess.run([sys.executable, "-c", program], cwd=root, timeout=60).returncode == 7


def test_a_stream_inherited_from_another_process_refuses_by_its_number():
    stream = KeyStream(KEY)
    stream._process += 1  # what a forked process sees: a number that is not its own

    with pytest.raises(FormatError, match="fork"):
        stream.bytes(1)


def test_a_stream_shows_nothing():
    assert repr(KeyStream(KEY)) == "<KeyStream: hidden>"


def test_a_negative_length_is_refused():
    with pytest.raises(FormatError, match="negative"):
        KeyStream(KEY).bytes(-1)


def test_uniform_numbers_are_multiples_of_two_to_the_minus_53_below_one():
    numbers = KeyStream(KEY).uniform(100_000)

    assert numbers.min() >= 0.0 and numbers.max() < 1.0
    assert np.array_equal(numbers * 2.0**53, np.floor(numbers * 2.0**53))
    # Mean 1/2 with standard deviation 1 / sqrt(12 n): five of them.
    assert abs(numbers.mean() - 0.5) < 5 / math.sqrt(12 * 100_000)


@given(below=st.one_of(st.integers(1, 300), st.integers(1, 2**63)), size=st.integers(0, 50))
def test_integers_stay_in_their_range(below, size):
    numbers = KeyStream(KEY).integers(size, below)

    assert numbers.size == size
    assert all(0 <= int(number) < below for number in numbers)


def test_integers_have_no_modulo_bias():
    # With 3 * 2^62 a plain remainder would give numbers below 2^62 twice as often: a share of 1/2 instead of 1/3.
    size = 30_000
    low = (KeyStream(KEY).integers(size, 3 * 2**61) < 2**61).sum()
    small = np.bincount(KeyStream(KEY).integers(size, 6), minlength=6)

    assert abs(low - size / 3) < 5 * math.sqrt(size * 2 / 9)
    assert ((small - size / 6) ** 2 / (size / 6)).sum() < 25.7  # chi-square, 5 degrees of freedom, p = 1e-4


@pytest.mark.parametrize("below", [0, -1, 2**63 + 1])
def test_an_empty_or_too_wide_range_is_refused(below):
    with pytest.raises(FormatError, match="range"):
        KeyStream(KEY).integers(3, below)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 65_535, 65_536, 65_537, 200_001])
def test_noise_has_every_size_and_is_finite(size):
    noise = gaussian(np.zeros(size), noise_std=2.0, stream=KeyStream(KEY))

    assert noise.shape == (size,) and noise.dtype == np.float32
    assert np.isfinite(noise).all()


def test_noise_has_the_stated_mean_and_standard_deviation():
    size = 1_000_000
    noise = gaussian(np.zeros(size), noise_std=3.0, stream=KeyStream(KEY)).astype(np.float64) / 3.0

    # Standard errors: mean 1/sqrt(n), variance sqrt(2/n), third moment sqrt(15/n), fourth sqrt(96/n). Five of each.
    assert abs(noise.mean()) < 5 / math.sqrt(size)
    assert abs(noise.var() - 1.0) < 5 * math.sqrt(2 / size)
    assert abs((noise**3).mean()) < 5 * math.sqrt(15 / size)
    assert abs((noise**4).mean() - 3.0) < 5 * math.sqrt(96 / size)


def test_noise_has_the_shape_of_the_normal_distribution():
    size, edges = 500_000, np.linspace(-4.0, 4.0, 41)
    noise = gaussian(np.zeros(size), noise_std=1.0, stream=KeyStream(KEY))
    cumulative = np.array([0.0, *(0.5 * math.erfc(-edge / math.sqrt(2)) for edge in edges), 1.0])
    expected = size * np.diff(cumulative)
    counts = np.bincount(np.searchsorted(edges, noise), minlength=42)

    # Chi-square with 41 degrees of freedom exceeds 85 with probability 7e-5.
    assert ((counts - expected) ** 2 / expected).sum() < 85


def test_neighbouring_normals_are_uncorrelated():
    noise = gaussian(np.zeros(200_000), noise_std=1.0, stream=KeyStream(KEY)).astype(np.float64)
    half = 65_536 // 2  # cosine and sine of one pair lie this far apart

    for lag in (1, 2, half, 65_536):
        assert abs((noise[:-lag] * noise[lag:]).mean()) < 5 / math.sqrt(200_000 - lag)


def test_two_keys_make_unrelated_noise():
    one, other = (gaussian(np.zeros(100_000), noise_std=1.0, stream=KeyStream(bytes([key]) * 32)) for key in (1, 2))

    assert abs(float((one.astype(np.float64) * other).mean())) < 5 / math.sqrt(100_000)


def test_two_steps_on_one_stream_share_no_noise():
    stream = KeyStream(KEY)
    one, other = (
        gaussian(np.zeros(1000), noise_std=1.0, stream=stream),
        gaussian(np.zeros(1000), noise_std=1.0, stream=stream),
    )

    assert not np.isin(one, other).any()


def test_no_noise_is_zeros():
    assert not gaussian(np.zeros(1000), noise_std=0.0, stream=KeyStream(KEY)).any()


@pytest.mark.parametrize("scale", [-1.0, math.inf, math.nan])
def test_noise_of_no_scale_is_refused(scale):
    with pytest.raises(FormatError, match="scale"):
        gaussian(np.zeros(10), noise_std=scale, stream=KeyStream(KEY))


def probabilities(variance, reach):
    """The discrete Gaussian by its definition, on [-reach, reach]."""
    raw = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * variance))
    return raw / raw.sum()


@pytest.mark.parametrize("variance", [1.0, 8.0, 52.3])
def test_whole_noise_has_the_probabilities_of_the_discrete_gaussian(variance):
    count, reach = 200_000, round(4 * math.sqrt(variance))
    drawn = discrete_gaussian(count, variance=variance, stream=KeyStream(KEY))
    seen = np.bincount(np.clip(drawn, -reach, reach) + reach, minlength=2 * reach + 1)
    expected = count * probabilities(variance, 12 * reach)
    tails = expected[: 11 * reach + 1].sum()  # all that lies at the end or beyond
    expected = np.array([tails, *expected[11 * reach + 1 : 13 * reach], tails])
    distance = float(((seen - expected) ** 2 / expected).sum())

    # Chi-square with 2·reach degrees of freedom: mean 2·reach, deviation 2·sqrt(reach); five of them.
    assert distance < 2 * reach + 10 * math.sqrt(reach)


@pytest.mark.parametrize("variance", [8.0, 1e4, 3.7e9])
def test_whole_noise_has_its_mean_its_variance_and_the_fourth_moment_of_a_bell_curve(variance):
    count = 400_000
    drawn = discrete_gaussian(count, variance=variance, stream=KeyStream(KEY)) / math.sqrt(variance)

    # Of n standard normals: the mean has deviation 1/sqrt(n), the mean square sqrt(2/n), the fourth power sqrt(96/n).
    assert abs(drawn.mean()) < 5 / math.sqrt(count)
    assert abs((drawn**2).mean() - 1) < 5 * math.sqrt(2 / count)
    assert abs((drawn**4).mean() - 3) < 5 * math.sqrt(96 / count)


def test_whole_noise_comes_in_any_size_and_equal_keys_give_equal_noise():
    long = discrete_gaussian(100_000, variance=99.0, stream=KeyStream(KEY))

    assert long.dtype == np.int64
    assert discrete_gaussian(0, variance=99.0, stream=KeyStream(KEY)).size == 0
    np.testing.assert_array_equal(long, discrete_gaussian(100_000, variance=99.0, stream=KeyStream(KEY)))


@pytest.mark.parametrize("variance", [0.0, 0.99, -1.0, math.nan, math.inf, 2.0**62])
def test_whole_noise_of_an_impossible_variance_is_refused(variance):
    with pytest.raises(FormatError, match="whole noise"):
        discrete_gaussian(3, variance=variance, stream=KeyStream(KEY))
