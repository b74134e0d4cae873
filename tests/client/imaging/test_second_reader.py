"""What the second reader does with report text; how it is trained is in tests/sim/test_second_reader.py."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.imaging import report_text
from client.imaging.identifiers import Identifiers
from client.imaging.report_text import scrub, scrub_by_rules
from client.imaging.second_reader import WEIGHTS, SecondReader, second_reader, tokens
from client.imaging.vocabulary import PLACEHOLDER, Span
from federation.errors import DeidError

LEFT_BY_RULES = [
    ("Injured at the Hope Street fair.", "fair"),
    ("Rides for the Golden Spur on weekends; fell at the second fence.", "Golden Spur"),
    ("he drives a van for bright and sons", "bright"),
]
CLINICAL = [
    "Yes.", "No.", "Normal.", "Left.", "Is there a pneumothorax?", "Describe the findings.", "Small left effusion.",
    "The heart is enlarged with a cardiothoracic ratio of 0.58. No pneumothorax.",
    "LUNGS ARE CLEAR. HEART SIZE IS NORMAL. NO PLEURAL EFFUSION OR PNEUMOTHORAX.",
    "There is a 2.5 x 3.0 cm mass in the right upper lobe, 12 mm larger, with an SUVmax of 8.4.",
    "Mild degenerative changes of the thoracic spine at T8-T9. No acute fracture.",
    "liver, spleen and pancreas are normal. the gallbladder contains two stones of 8 mm.",
    "Engaging Hill-Sachs lesion, Kellgren–Lawrence 3. Budd-Chiari syndrome is unlikely.",
    "Stable since [DATE]. Findings were discussed with [NAME] at [DATE].",
]  # fmt: skip


@pytest.mark.parametrize(("text", "identifier"), LEFT_BY_RULES)
def test_it_doubts_what_no_rule_knows(text: str, identifier: str) -> None:
    assert identifier in scrub_by_rules(text, Identifiers())
    assert not any(word in scrub(text, Identifiers()) for word in identifier.split())


@pytest.mark.parametrize("text", CLINICAL)
def test_it_lets_clinical_sentences_and_short_answers_pass(text: str) -> None:
    assert list(second_reader().doubts(text)) == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("The Koerner septum is intact.", "Koerner"),
        ("Perkin line and Shenton arc are intact.", "Shenton"),
        ("No Kohler changes, no Freiberg infraction.", "Kohler"),
        ("Vancouver B2 periprosthetic fracture of the left femur.", "Vancouver"),
        ("The 4th and 5th ribs are fractured, the 6th is not.", "4th and 5th ribs"),
    ],
)
def test_it_clears_words_that_stand_where_eponyms_do(text: str, word: str) -> None:
    assert word in scrub(text, Identifiers())


def test_it_clears_nothing_that_is_a_name_elsewhere_or_stands_where_names_do() -> None:
    assert scrub_by_rules("The Koerner septum is intact.", Identifiers()) == "The [NAME] septum is intact."
    assert (
        scrub("Mr. Koerner fell. The Koerner septum is intact.", Identifiers())
        == "[NAME] fell. The [NAME] septum is intact."
    )
    assert scrub("Koerner called the ward.", Identifiers()) == "[NAME] called the ward."


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Her aunt lived to be 93.", "Her aunt lived to be 90+."),
        ("Her aunt lived to be 83.", "Her aunt lived to be 83."),
        ("A woman of 97 with a hip fracture.", "A woman of 90+ with a hip fracture."),
        ("A woman of 67 with a hip fracture.", "A woman of 67 with a hip fracture."),
        ("Father is ninety-four and well.", "Father is 90+ and well."),
        ("Heart rate 93, saturation 96, a mass of 102 mm.", "Heart rate 93, saturation 96, a mass of 102 mm."),
        ("Window level 90, kV 95, slice 96 of 120.", "Window level 90, kV 95, slice 96 of 120."),
    ],
)
def test_it_knows_ages_over_89_by_where_they_stand(text: str, clean: str) -> None:
    assert scrub(text, Identifiers()) == clean


def test_many_doubts_hold_a_text_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubtful:
        def not_cleared(self, _: str, spans: Iterable[Span]) -> list[Span]:
            return list(spans)

        def doubts(self, text: str) -> Iterator[Span]:
            yield from (Span(token.start, token.end, "[NAME]") for token in tokens(text)[::4])

    monkeypatch.setattr(report_text, "second_reader", Doubtful)
    few = "The lungs are clear and the heart is normal in size."

    assert scrub(few, Identifiers()) == "[NAME] lungs are clear [NAME] the heart is [NAME] in size."
    with pytest.raises(DeidError) as refused:
        scrub(f"{few} {few}", Identifiers())
    assert refused.value.code == "text-residual"


@pytest.mark.parametrize("damage", ["absent", "cut", "other"])
def test_without_its_weights_nothing_is_read(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "second_reader.npz"
    if damage == "cut":
        path.write_bytes(WEIGHTS.read_bytes()[:100_000])
    if damage == "other":
        np.savez(path, known=np.zeros(3, dtype=np.uint8))

    with pytest.raises(DeidError) as refused:
        SecondReader.open(path)
    assert refused.value.code == "reader-missing"


@given(st.text(max_size=200))
def test_it_marks_whole_words_outside_of_placeholders(text: str) -> None:
    ends = {(token.start, token.end) for token in tokens(text)}
    held = [match.span() for match in PLACEHOLDER.finditer(text)]

    for span in second_reader().doubts(text):
        assert (span.start, span.end) in ends
        assert not any(start < span.end and span.start < end for start, end in held)
        assert text[span.start].isalnum()
