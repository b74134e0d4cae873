from datetime import date

import pytest

from client.imaging.identifiers import Identifiers
from client.imaging.spelled import needles


@pytest.mark.parametrize(
    ("kind", "text", "forms"),
    [
        ("id", "TB-80215/47", ["TB-80215/47", "tb8021547", "TB 80215 47", "TB_80215_47", "8021547"]),
        ("name", "Wöhler^Käthe^^Dr.", ["Wöhler", "WÖHLER", "Wohler", "Käthe Wöhler", "Wöhler, Käthe", "Wöhler^Käthe"]),
        ("name", "de la Vega^Ana=王^小东", ["de la Vega", "Ana de la Vega", "王^小东"]),
        ("place", "Haus  Ådal", ["Haus Ådal", "HAUS ÅDAL", "haus adal"]),
    ],
)
def test_an_identifier_is_looked_for_as_people_write_it(kind: str, text: str, forms: list[str]) -> None:
    made = needles(Identifiers(spelled=frozenset({(kind, text)})))

    for form in forms:
        assert made[form.encode().lower()] == made[form.encode("utf-16-le").lower()] == kind


@pytest.mark.parametrize("form", ["19570913", "13.09.1957", "09/13/1957", "1957-09-13", "13 Sep 1957", "Sep 13, 1957"])
def test_a_date_is_looked_for_in_its_usual_forms(form: str) -> None:
    made = needles(Identifiers(dates=frozenset({date(1957, 9, 13)})))

    assert made[form.lower().encode()] == "date"


@pytest.mark.parametrize("text", ["Lee", "4417", "11111", "1212121", "Dr.", "", "^^"])
def test_what_is_short_or_has_few_letters_is_left_out(text: str) -> None:
    for kind in ("id", "name", "place"):
        assert not needles(Identifiers(spelled=frozenset({(kind, text)})))


def test_a_name_beyond_ascii_is_looked_for_in_the_character_sets_of_a_header() -> None:
    made = needles(Identifiers(spelled=frozenset({("name", "Сидорова^Анна")})))

    for encoding in ("utf-8", "iso8859-5", "gb18030", "utf-16-be"):
        assert made["Сидорова".encode(encoding).lower()] == "name"
