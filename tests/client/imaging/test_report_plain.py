"""Words that are no names, though they stand or are written like some."""

import pytest

from client.imaging.identifiers import Identifiers
from client.imaging.report_plain import is_slip, is_surely_plain, spared, without_plain
from client.imaging.report_text import scrub, scrub_by_rules
from client.imaging.second_reader import tokens
from client.imaging.vocabulary import Span, listed_words, may_be_names_or_towns


@pytest.mark.parametrize("word", ["progresive", "fractuer", "effussion", "hemidiaphram", "atelectasis", "Degenerativ"])
def test_a_frequent_word_with_a_slip_is_known(word: str) -> None:
    assert is_slip(word)


@pytest.mark.parametrize("word", ["Kvothe", "Mercal", "Lateran", "Antonio", "Ventura", "Collins", "Marginal", "hart"])
def test_a_name_is_no_slip(word: str) -> None:
    assert not is_slip(word)


def test_a_slip_stays_where_case_tells_of_no_name() -> None:
    assert scrub("Opinion: progresive fibrosis. Efusion of 4 cm.", Identifiers()) == (
        "Opinion: progresive fibrosis. Efusion of 4 cm."
    )
    assert scrub_by_rules("NO EFUSION. SEEN BY KVOTHE.", Identifiers()) == "NO EFUSION. SEEN BY [NAME]."
    assert scrub_by_rules("the Efusion film", Identifiers()) == "the [NAME] film"


def test_a_header_name_is_no_slip() -> None:
    known = Identifiers(names=frozenset({"efusion"}))

    assert scrub_by_rules("Efusion seen again.", known) == "[NAME] seen again."


def test_no_list_of_names_holds_a_word_of_grammar_or_a_frequent_one_of_pictures() -> None:
    names = may_be_names_or_towns() | listed_words("everyday")

    assert not listed_words("grammar") & names
    assert all(len(word) > 6 for word in listed_words("frequent"))


@pytest.mark.parametrize(
    ("word", "plain"),
    [
        ("mammogram", True),
        ("favored", True),
        ("long", False),
        ("kvothe", False),
        ("reading", False),
        ("Harding", False),
    ],
)
def test_a_plain_word_is_known_and_on_no_list_of_names(word: str, plain: bool) -> None:
    assert is_surely_plain(word) is plain


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("NOTIFIED ANA KVOTHE", ["ANA KVOTHE"]),
        ("DR. KVOTHE FAVORED", ["DR. KVOTHE"]),
        ("DR. FRACTURE EFFUSION KVOTHE", ["DR. FRACTURE", "KVOTHE"]),
        ("NURSE PRACTITIONER ANA", ["ANA"]),
        ("CONSENT", []),
    ],
)
def test_a_name_in_capitals_is_cut_at_plain_words(text: str, left: list[str]) -> None:
    found = without_plain(text, [Span(0, len(text), "[NAME]")], caseless=True)

    assert [text[start:end] for start, end, _ in found] == left


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("[NAME] is in the office of [NAME].", ["is", "in", "office"]),
        ("[PLACE] of the [PLACE]", []),
        ("D/w O&G. [NAME] R, e-signed", ["D", "w", "O", "G", "e"]),
        ("At Hope, images 14-19 of 4 cm", ["At", "images", "14", "19", "4"]),
        ("SEEN AT THE MILL SURGERY BY THE PHYSICIAN", ["AT", "BY", "PHYSICIAN"]),
        ("nurse Ana, Office Ana, SHO Ana", ["nurse", "SHO"]),
    ],
)
def test_words_of_grammar_roles_sides_and_counts_are_spared(text: str, plain: list[str]) -> None:
    found = tokens(text)
    at = spared(text, found, [True] * len(found))

    assert [word for word, start, _ in found if start in at and word.isalnum()] == plain
