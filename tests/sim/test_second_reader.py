"""The training of the second reader: what it learns from, and that its weights are what the sentences give."""

from random import Random

import numpy as np
import torch

from client.imaging import second_reader as reading
from client.imaging.second_reader import SecondReader, tokens
from sim.second_reader import (
    Exchange,
    Network,
    Word,
    after_rules,
    as_read,
    digest,
    marked,
    read_sentences,
    stacked,
    train,
)

SENTENCES = read_sentences()


def test_the_weights_in_the_wheel_come_from_these_sentences() -> None:
    with np.load(reading.WEIGHTS) as stored:
        assert stored["sentences"].tobytes().decode() == digest(SENTENCES), "train again: python -m sim.second_reader"


def test_the_marks_of_all_sentences_are_closed_and_name_a_kind() -> None:
    kinds = {"NAME", "DATE", "ID", "PLACE", "AGE", "OPT"}

    for sentence in SENTENCES:
        assert sentence.count("{{") == sentence.count("}}")
        assert {part.partition("|")[0] for part in sentence.split("{{")[1:]} <= kinds, sentence


def test_what_the_rules_leave_of_an_identifier_keeps_its_kind() -> None:
    left = after_rules("Discussed with Dr {{NAME|Vance}}. Plays for the {{PLACE|Golden Spur}} on weekends.")

    assert left is not None
    assert Word("[NAME]", 0) in left
    assert {word.text for word in left if word.kind == 4} == {"Golden", "Spur"}
    assert after_rules("No pneumothorax.") is None


def test_an_exchanged_identifier_keeps_its_place_and_kind() -> None:
    words = marked("Seen by {{NAME|Ada Vance}} on {{DATE|3/4}}. Small effusion.")
    exchange = Exchange([words], Random(0))
    varied = [exchange.varied(words) for _ in range(200)]

    assert all(each[-1] == Word(".", 0) for each in varied)
    assert {word.kind for each in varied for word in each} == {0, 1, 2, -1}
    assert len({word.text for each in varied for word in each if word.kind == 1}) > 50
    assert any(word.text == "[NAME]" for each in varied for word in each)


def test_the_reader_computes_what_was_trained_and_averages_it() -> None:
    torch.manual_seed(0)
    networks = [Network(known=2).eval() for _ in range(2)]
    arrays = {name: array.astype(np.float32) for name, array in stacked(networks).items()}
    reader = SecondReader(arrays, ["effusion", "seen"])
    texts = [token.text for token in tokens("Small effusion, seen by [NAME] on 3/4 in Sage View.\nStable.")]
    of = [torch.from_numpy(part)[None] for part in reading.features(texts, {"effusion": 1, "seen": 2})]
    with torch.no_grad():
        one, other = (torch.softmax(network(of)[0], -1).numpy() for network in networks)

    np.testing.assert_allclose(reader.probabilities(texts), (one + other) / 2, atol=2e-3)


def test_the_same_seed_gives_the_same_weights_and_learns() -> None:
    some = as_read(SENTENCES[:80])
    one, known = train(some, epochs=1, seed=3)
    same, _ = train(some, epochs=1, seed=3)
    other, _ = train(some, epochs=1, seed=4)

    assert all(np.array_equal(array, same.arrays()[name]) for name, array in one.arrays().items())
    assert not np.array_equal(one.arrays()["outer"], other.arrays()["outer"])
    assert "the" in known
