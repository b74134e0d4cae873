import numpy as np
import pytest

from client.imaging.chance import Words

NOISE = np.random.default_rng(8)
ROUGH = np.clip(NOISE.normal(52, 4, 1 << 17), 0, 255).astype(np.uint8)
WAVY = (128 + 100 * np.sin(np.arange(1 << 17) / 300) + NOISE.normal(0, 1, 1 << 17)).astype(np.uint8)


def spelled(values: bytes, letters: bytes, length: int) -> list[bytes]:
    """Words of these letters that the values spell by themselves."""
    fitting = np.isin(np.frombuffer(values, np.uint8), list(letters))
    runs = np.flatnonzero(np.convolve(fitting, np.ones(length)) == length)
    return [values[end - length + 1 : end + 1] for end in runs[:: max(len(runs) // 50, 1)]]


@pytest.mark.parametrize("length", [5, 6, 8])
@pytest.mark.parametrize(
    "values",
    [ROUGH.tobytes(), ROUGH.repeat(2).tobytes(), ROUGH.astype("<u2").tobytes(), WAVY.tobytes(),
     np.stack([ROUGH, ROUGH + 9, WAVY], 1).tobytes(), (np.arange(1 << 17) // 7 % 256).astype(np.uint8).tobytes()],
    ids=["rough", "doubled", "16 bits", "wavy", "colours", "steps"],
)  # fmt: skip
def test_what_numbers_spell_by_themselves_is_no_word(values: bytes, length: int) -> None:
    digits = spelled(values, b"0123456789", length)
    taken = sum(Words({word: "id"}).kind_in(values) is not None for word in digits)

    assert taken <= len(digits) // 50


@pytest.mark.parametrize("repeats", [1, 40])
@pytest.mark.parametrize("values", [WAVY.tobytes(), NOISE.integers(0, 256, 1 << 17, dtype=np.uint8).tobytes()])
@pytest.mark.parametrize("word", [b"60731", b"604417", b"19570913", b"wohler", b"13.09.1957"])
def test_a_word_that_somebody_wrote_is_found_once_and_in_every_frame(word: bytes, values: bytes, repeats: int) -> None:
    data = bytearray(values)
    for number in range(repeats):
        at = 1000 + number * 3001
        data[at : at + len(word)] = word.upper()

    assert Words({word: "id", b"elsewhere": "name"}).kind_in(bytes(data)) == "id"
    assert Words({b"elsewhere": "name"}).kind_in(bytes(data)) is None


@pytest.mark.parametrize("at", [0, (1 << 22) - 3, (1 << 22), (1 << 22) + 5000])
def test_a_word_is_found_at_either_end_and_across_two_chunks(at: int) -> None:
    data = bytearray(at + 7)
    data[at:] = b"604-417"

    assert Words({b"604-417": "id"}).kind_in(bytes(data)) == "id"


def test_of_no_words_and_no_bytes_nothing_is_found() -> None:
    assert Words({}).kind_in(b"123456") is None
    assert Words({b"123456": "id"}).kind_in(b"") is None
