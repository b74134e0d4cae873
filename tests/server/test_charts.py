import xml.etree.ElementTree as ElementTree

import pytest
from markupsafe import Markup

from server import charts

HOSTILE = "</title><script>alert(1)</script>\" onload='x' & <b>"


def whole(figure: Markup) -> ElementTree.Element:
    """Parse as XML: a figure that is not well formed fails here."""
    return ElementTree.fromstring(figure)


def words(figure: Markup) -> list[str]:
    return ["".join(element.itertext()) for element in whole(figure).iter("text")]


def whisker_figure(*bands: charts.Band) -> Markup:
    return charts.whiskers(
        bands, [("federated", "federated")], name="f", title="title", description="description", chance=0.5
    )


def curve_figure(*series: charts.Series, limit: tuple[float, str, str] | None = None) -> Markup:
    return charts.curves(series, say=lambda v: f"{v:.2f}", name="c", title="t", description="d", limit=limit)


def test_every_figure_has_a_title_and_a_description_that_it_points_to():
    root = whole(whisker_figure(charts.Band("pneumonia", (charts.Mark("federated", 0.8, 0.7, 0.9, "0.80"),))))

    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "f-t f-d"
    assert [(e.tag, e.get("id"), e.text) for e in root[:2]] == [
        ("title", "f-t", "title"),
        ("desc", "f-d", "description"),
    ]


def test_words_from_outside_are_escaped_in_every_figure():
    figures = [
        whisker_figure(charts.Band(HOSTILE, (charts.Mark("federated", 0.8, None, None, HOSTILE),))),
        curve_figure(charts.Series(HOSTILE, (1.0, 2.0)), limit=(2.0, HOSTILE, "budget")),
        charts.columns([charts.Series("s", (1.0,))], lambda v: HOSTILE, name="n", title=HOSTILE, description=HOSTILE),
        charts.bars([(HOSTILE, 1.0, HOSTILE)], name="n", title=HOSTILE, description=HOSTILE),
        charts.attendance([HOSTILE], [""], [["took"]], name="n", title=HOSTILE, description=HOSTILE),
        charts.meter(0.5, row="federated", title=HOSTILE),
    ]

    for figure in figures:
        assert not list(whole(figure).iter("script")) and not list(whole(figure).iter("b"))


def test_each_row_has_a_shape_of_its_own():
    shapes = {row: charts.marker(row, 0, 0) for row in ("base", "local_only", "federated", "pooled")}
    forms = {(shape.split()[0], len(whole(shape).get("points", "").split())) for shape in shapes.values()}

    assert forms == {("<circle", 0), ("<polygon", 3), ("<polygon", 4), ("<rect", 0)}


def test_a_withheld_mark_shows_its_reason_and_no_dot():
    root = whisker_figure(charts.Band("north", (charts.Mark("federated", None, words="fewer than 20 patients"),)))

    assert "fewer than 20 patients" in words(root)
    assert root.count("<polygon") == 1  # the one in the legend


def test_better_values_lie_further_right():
    marks = tuple(charts.Mark("base", value) for value in (0.6, 0.7, 0.9))
    places = [float(e.get("cx", "")) for e in whole(whisker_figure(charts.Band("q", marks))).iter("circle")]

    assert places == sorted(places) and len(set(places)) == 3


def test_a_curve_breaks_where_a_round_has_no_value():
    path = next(whole(curve_figure(charts.Series("loss", (3.0, None, 2.0, 1.0)))).iter("path")).get("d", "")

    assert path.count("M") == 2 and path.count("L") == 1


@pytest.mark.parametrize(
    "values", [(), (1.0,), (1.0, 1.0), (None, None), (0.0, 0.0), tuple(float(i) for i in range(200))]
)
def test_a_curve_of_any_length_can_be_drawn(values: tuple[float | None, ...]):
    whole(curve_figure(charts.Series("loss", values)))
    whole(charts.columns([charts.Series("s", values)], str, name="n", title="t", description="d"))


def test_end_labels_never_cover_each_other():
    placed = charts.spread([180.0, 181.0, 182.0, 183.0], 12, 0, 186)

    assert all(b - a >= 12 for a, b in zip(placed, placed[1:], strict=False)) and max(placed) <= 186


def test_attendance_tells_three_things_apart_without_colour():
    root = whole(
        charts.attendance(["north"], ["", "", "x"], [["took", "refused", ""]], name="a", title="t", description="d")
    )
    kinds = [element.get("class") for element in root]

    assert kinds.count("cell took") == 2 and kinds.count("cross") == 4 and kinds.count("absent") == 2  # with the legend
    assert "aggregate rejected" in words(ElementTree.tostring(root, encoding="unicode"))


def test_ticks_are_round_and_inside():
    assert charts.ticks(0.37, 0.92, 5) == [0.4, 0.6, 0.8]
    assert charts.ticks(2, 2, 5) == [2]
    assert charts.round_ticks(100) == [1, 20, 40, 60, 80, 100]
