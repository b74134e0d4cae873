import time
from itertools import product

import pytest

from client.imaging.identifiers import Identifiers
from client.imaging.report_listed import NOBODY, Listed
from client.imaging.report_text import scrub, scrub_by_rules

LISTED = Listed.of(
    ["Kvothe, Ana", "Hope Long", "Dr. Rao", "Manning, Rose", "Meyer-Lühr", "Wei Ng", "Swan", "Ray Hill", "王 明"],
    ["Toboso General Hospital", "Daisy", "Bath", "St. Mary's", "North Wing", "Oak Street", "Sanchoville", "東京病院"],
)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("images shown to kvothe.", "images shown to [NAME]."),
        ("Kvothe's read, KVOTHE agrees", "[NAME] read, [NAME] agrees"),
        ("There is no hope of long term gain, says Hope Long.", "There is no hope of long term gain, says [NAME]."),
        ("as Long, Hope and Hope A. Long wrote", "as [NAME] and [NAME] wrote"),
        ("SEEN BY HOPE LONG. THERE IS A LONG SCAR.", "SEEN BY [NAME]. THERE IS A LONG SCAR."),
        ("The RAO view, as told by Rao.", "The RAO view, as told by [NAME]."),
        ("It was Manning again, manning the pump.", "It was [NAME] again, manning the pump."),
        ("meyer-luehr and Luhr", "[NAME] and [NAME]"),
        ("Swan-Ganz catheter in place.", "Swan-Ganz catheter in place."),
        ("An X-RAY, a Hill-Sachs defect.", "An X-RAY, a Hill-Sachs defect."),
        ("From toboso general\nhospital to the north wing.", "From [PLACE] to the [PLACE]."),
        ("Sanchoville's ward. Manning was told.", "[PLACE] ward. [NAME] was told."),
        ("at sanchoville, from St Marys", "at [PLACE], from [PLACE]"),
        ("in oak street and Oak St", "in [PLACE] and [PLACE]"),
        ("A daisy, a bath. Came from Daisy, to Daisy Ward.", "A daisy, a bath. Came from [PLACE], to [PLACE]."),
        ("BATH FROM DAISY WARD, A WATER BATH", "BATH FROM [PLACE], A WATER BATH"),
        ("東京病院で王明が撮影した。", "[PLACE]で[NAME]が撮影した。"),
    ],
)
def test_listed_names_and_places_go_and_plain_words_stay(text: str, clean: str) -> None:
    out = scrub_by_rules(text, Identifiers(), listed=LISTED)

    assert out.replace("[NAME] Ward", "[PLACE]").replace("[PLACE] Ward", "[PLACE]") == clean
    assert LISTED.residue(out) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("shown to kvothe", "name"),
        ("shown to KVOTHE's team", "name"),
        ("in north\nwing", "place"),
        ("near Sanchoville", "place"),
        ("東京病院", "place"),
        ("写真は王明", "name"),
        ("a long scar, no hope, a rose, RAO view, Swan-Ganz catheter, manning", None),
    ],
)
def test_the_check_finds_what_is_left(text: str, kind: str | None) -> None:
    assert LISTED.residue(text) == kind and NOBODY.residue(text) is None


def test_a_listed_name_is_not_cleared_by_the_second_reader() -> None:
    text = "A Koerner septum is seen. Discussed with the Koerner team."

    assert "Koerner" not in scrub(text, Identifiers(), listed=Listed.of(["Koerner, Ida"], [])).replace(
        "Koerner sept", ""
    )


def test_thousands_of_names_cost_a_report_little() -> None:
    syllables = ["ba", "ke", "lo", "mi", "nu", "ra", "si", "to", "vu", "xe"]
    made = ["".join(each).title() for each in product(syllables, repeat=4)]
    many = Listed.of([f"{one}, {two}" for one, two in zip(made, reversed(made), strict=True)], made[:5000])
    text = "FINDINGS: The heart is enlarged with a small left effusion of 12 mm, as before. " * 20

    def seconds(listed: Listed) -> float:
        began = time.process_time()
        scrub_by_rules(text, Identifiers(), listed=listed)
        return time.process_time() - began

    seconds(many)
    assert min(seconds(many) for _ in range(5)) < 2 * min(seconds(NOBODY) for _ in range(5))
    assert "hidden" in repr(many)
