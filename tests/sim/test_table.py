"""Privacy against utility: the cells, the page, the picture; a run that is there is not run again."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from federation.errors import PlanError
from federation.plan import parse_plan
from sim import table
from sim.cli import PACKAGE, _privacy
from sim.table import Cell, cells, known, losses, page, picture, row

PLAN = parse_plan((PACKAGE / "demo.toml").read_text(encoding="utf-8"))


def made(value: float | None) -> dict:
    figure = {"value": value, "ci95": None if value is None else [value - 0.05, value + 0.05]}
    return {
        "evaluation": {
            "base": {"macro": {"auroc": {"value": 0.67, "ci95": None}}},
            "federated": {"macro": {"auroc": figure}},
        },
        "sites": {"a": {"epsilon": 2.9}, "b": {"epsilon": None}},
    }


def test_there_are_sixteen_cells_and_each_is_a_plan_of_its_own() -> None:
    plans = {cell.plan(PLAN).digest() for cell in cells()}

    assert len(plans) == len(list(cells())) == 16


def test_a_cell_changes_the_privacy_the_method_and_the_rank() -> None:
    plan = Cell(3.0, "fedavg", 16).plan(PLAN)

    assert (plan.privacy.target_epsilon, plan.adapter.method, plan.adapter.rank) == (3.0, "fedavg", 16)
    assert plan.adapter.alpha / plan.adapter.rank == PLAN.adapter.alpha / PLAN.adapter.rank
    assert Cell(None, "ffa", 4).plan(PLAN).privacy.unit == "none"


def test_a_given_epsilon_means_noise_of_each_sites_own(tmp_path: Path) -> None:
    sharing = replace(PLAN.privacy, target_epsilon=None, noise_multiplier=2.0, noise="shared", honest_sites=3)
    with pytest.raises(PlanError) as caught:
        _privacy(sharing, "3")

    assert caught.value.code == "plan-combination" and "noise_multiplier" in caught.value.hint
    assert Cell(3.0, "ffa", 4).plan(replace(PLAN, privacy=sharing)).privacy.noise == "own"


def test_a_finished_run_of_the_same_plan_is_known_and_of_another_is_not(tmp_path: Path) -> None:
    plan = Cell(3.0, "fedavg", 16).plan(PLAN)
    assert known(tmp_path, plan) is None
    (tmp_path / "report.json").write_text(json.dumps({"plan_digest": plan.digest()}))

    assert known(tmp_path, plan) is not None
    assert known(tmp_path, Cell(3.0, "fedavg", 4).plan(PLAN)) is None


def test_the_page_says_what_each_epsilon_loses_and_the_picture_shows_it() -> None:
    rows = [row(cell, made(0.8 if cell.epsilon is None else 0.75)) for cell in cells()]

    told = page(PLAN, rows, "wardround sim table")

    assert told.count("+0.050") == 12 and "none: no privacy" in told and "wardround sim table" in told
    assert set(losses(rows).values()) == {0.8 - 0.75}
    assert ET.fromstring(picture(rows)).tag.endswith("svg")


def test_a_withheld_figure_is_said_to_be_one() -> None:
    rows = [row(cell, made(None)) for cell in cells()]

    assert "withheld" in page(PLAN, rows, "x") and losses(rows) == {}
    assert ET.fromstring(picture(rows)).tag.endswith("svg")


def test_a_new_cell_begins_with_what_the_first_one_has_de_identified_and_with_no_charge(tmp_path: Path) -> None:
    first, shared, next_cell = tmp_path / "first", tmp_path / "hospitals", tmp_path / "next"
    for name in ("hospitals/a/1.dcm", "truth/a.json", "sites/a/store/store.json", "sites/a/state/ledger/ledger.log"):
        (first / name).parent.mkdir(parents=True, exist_ok=True)
        (first / name).write_text(name)
    table._share(shared, next_cell)
    assert not next_cell.exists()  # nothing is there to be shared yet

    table._keep(first, shared)
    table._share(shared, next_cell)
    (first / "truth" / "a.json").write_text("changed later")
    table._keep(first, shared)

    kept = {str(path.relative_to(next_cell)) for path in next_cell.rglob("*") if path.is_file()}
    assert kept == {"hospitals/a/1.dcm", "truth/a.json", "sites/a/store/store.json"}
    assert (shared / "truth" / "a.json").read_text() == "truth/a.json"
