"""Seeded keys: the same everywhere, different for every use."""

from sim.keys import SeededKeys


def test_keys_follow_from_seed_and_label():
    assert SeededKeys(1).key("noise") == SeededKeys(1).key("noise")
    assert len({SeededKeys(1).key("noise"), SeededKeys(2).key("noise"), SeededKeys(1).key("sampling")}) == 3
    assert len(SeededKeys(1).key("noise")) == 32


def test_children_are_independent():
    assert SeededKeys(1).child("a").key("noise") != SeededKeys(1).child("b").key("noise")
    assert SeededKeys(1).child("a").key("noise") != SeededKeys(1).key("noise")
