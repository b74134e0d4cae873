import base64
import copy
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from federation.errors import FormatError
from server import report
from server.report import GalleryItem
from sim.browser import Browser, found

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
HOSTILE = "</bdi></style><script>alert(1)</script><img src=x onerror=alert(1)> {{ 7 * 7 }} \" onload='x'"


def measures(auroc: float) -> dict[str, Any]:
    def around(value: float) -> dict[str, Any]:
        return {"value": value, "ci95": [value - 0.03, value + 0.03], "n": 240}

    found = {name: around(auroc) for name in ("auroc", "sensitivity", "specificity", "kappa", "accuracy")}
    return {"questions": {"Is there pneumonia?": found, "Is the heart enlarged?": found}, "macro": found}


def run_report(sites: tuple[str, ...] = ("harbour", "north"), rounds: int = 3) -> dict[str, Any]:
    message = {"round": 1, "kind": "masked", "bytes": 1_400_000, "sha256": "5a" * 32}
    return {
        "format": report.FORMAT,
        "name": "Chest films",
        "run_id": "chest-1",
        "plan_digest": "ab" * 32,
        "engine": "local",
        "planned_rounds": rounds,
        "data": {"source": "phantom"},
        "base": {"digest": "cd" * 32, "family": "llama4", "parameters": 1_913_344},
        "adapter": {"method": "ffa", "rank": 8, "alpha": 16, "targets": ["q_proj"], "parameters": 178_432},
        "rounds": [
            {
                "round": n,
                "participants": list(sites),
                "refusals": {},
                "accepted": True,
                "loss": 2.0 / n,
                "seconds": 3.5,
                "uplink_bytes": dict.fromkeys(sites, 1_400_000),
                "downlink_bytes": dict.fromkeys(sites, 700_000),
                "macro_auroc": 0.6 + n / 20,
                "epsilon": dict.fromkeys(sites, 0.991 * n),
            }
            for n in range(1, rounds + 1)
        ],
        "sites": {
            site: {
                "epsilon": 2.971,
                "delta": 1e-5,
                "steps": 24,
                "noise_multiplier": 1.7,
                "sampling_rate": 0.1,
                "declared_patients": 600,
                "refusals": [],
                "left": [message],
            }
            for site in sites
        },
        "evaluation": {
            "base": measures(0.61),
            "federated": measures(0.84),
            "pooled": measures(0.86),
            "local_only": {"mean": measures(0.71)},
            "per_site": {site: {"local_only": measures(0.7), "federated": measures(0.83)} for site in sites},
            "text": {"base": {"rouge_l": {"value": 0.2}}, "federated": {"rouge_l": {"value": 0.4}}},
        },
        "privacy": {
            "unit": "patient",
            "target_epsilon": 3.0,
            "accountant": "PLD",
            "neighboring_relation": "ADD_OR_REMOVE_ONE",
            "epsilon_for_m_sites": {"2": 4.4},
        },
        "costs": {"wall_s": 75.2, "peak_rss_mb": 900.0, "uplink_bytes_per_site_round": 1_400_000,
                  "downlink_bytes_per_site_round": 700_000, "stages_s": {"training": 50.0}},
        "reproduce": {"command": "wardround sim run plan.toml", "seed": 7},
    }  # fmt: skip


def gallery() -> list[GalleryItem]:
    said = {"base": "No.", "federated": "Yes."}
    return [GalleryItem(PNG, "north", "Is there pneumonia?", "Yes.", said, {"base": 0.44, "federated": 0.93})]


class Reader(HTMLParser):
    """Collects what a browser would see: tags with attributes, words outside <style>, and unbalanced tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_refers_to_nothing_outside_itself():
    html = report.page(run_report(), gallery())
    page = Reader(html)

    assert not re.search(r"https?:|@import|@font-face|url\(|<script|<link|<iframe|<object|srcset", html)
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in page.named("img"))
    assert {a["href"] for a in page.named("a")} <= {f"#{a.get('id')}" for _, a in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "default-src 'none'; img-src data:" in html


def test_the_page_is_well_formed_and_named_for_those_who_cannot_see_it():
    page = Reader(report.page(run_report(), gallery()))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]

    assert page.open == []
    assert len(ids) == len(set(ids))
    assert len(page.named("table")) == len(page.named("caption"))
    assert len(page.named("desc")) == len([svg for svg in page.named("svg") if svg["class"] == "figure"]) == 9
    assert all(image.get("alt") for image in page.named("img"))


def test_report_json_holds_the_documented_keys_and_comes_back_as_it_went(tmp_path: Path):
    given = run_report()
    report.write(tmp_path / "out", given, gallery())
    data = (tmp_path / "out" / "report.json").read_bytes()

    assert json.loads(data) == given
    assert data == (json.dumps(given, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]
    assert {"run_id", "plan_digest", "engine", "rounds", "sites", "evaluation", "privacy", "costs"} <= set(
        json.loads(data)
    )


def test_the_same_report_gives_the_same_bytes_and_names_the_digest_of_its_json():
    first, second = report.page(run_report(), gallery()), report.page(run_report(), gallery())

    assert first == second
    assert hashlib.sha256(report.dump(run_report())).hexdigest() in first


def test_numbers_that_json_cannot_say_become_null():
    given = run_report()
    given["rounds"][0]["loss"] = math.nan
    given["sites"]["north"]["epsilon"] = math.inf

    plain = json.loads(report.dump(given))

    assert plain["rounds"][0]["loss"] is None and plain["sites"]["north"]["epsilon"] is None


@pytest.mark.parametrize("name", ["gradient_norm", "clip_fraction", "drawn", "patient_keys"])
def test_what_privacy_forbids_is_not_written(tmp_path: Path, name: str):
    given = run_report()
    given["sites"]["north"]["left"][0] = {"kind": "masked", name: 1}

    with pytest.raises(FormatError) as raised:
        report.write(tmp_path, given, [])

    assert raised.value.code == "report-private"
    assert list(tmp_path.iterdir()) == []


def poisoned(value: Any) -> Any:
    """The same report with every word replaced by a hostile one."""
    if isinstance(value, dict):
        return {name: poisoned(one) for name, one in value.items()}
    if isinstance(value, list):
        return [poisoned(one) for one in value]
    return HOSTILE if isinstance(value, str) else value


def test_hostile_words_are_shown_and_never_obeyed():
    given = poisoned(run_report())
    given["sites"] = {HOSTILE: given["sites"]["north"]}
    given["evaluation"]["base"]["questions"][HOSTILE] = measures(0.6)["macro"]
    given["evaluation"]["per_site"][HOSTILE] = {"federated": measures(0.6)}
    given["evaluation"]["text"][HOSTILE] = {HOSTILE: {"value": None, "withheld": HOSTILE}}
    given["rounds"][0]["refusals"] = {HOSTILE: [HOSTILE]}
    given["stopped"] = HOSTILE
    film = GalleryItem(PNG, HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE, "base": HOSTILE}, {"base": 0.5}, HOSTILE)
    html = report.page(given, [film])
    page = Reader(html)

    assert page.open == []
    assert not page.named("script") and len(page.named("img")) == 1 and len(page.named("style")) == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "{{ 7 * 7 }}" in page.words and "49" not in re.findall(r"\b49\b", page.words)


@pytest.mark.parametrize("name", [name for name in run_report() if name != "run_id"])
def test_any_part_may_be_missing_or_null(name: str):
    without, null = run_report(), run_report() | {name: None}
    del without[name]

    for given in (without, null):
        page = Reader(report.page(given, gallery()))
        assert page.open == [] and "nan" not in page.words.lower().split()


def test_a_report_of_nothing_but_a_name_is_still_a_page():
    page = Reader(report.page({"run_id": "chest-1"}))

    assert "No round was completed" in page.words and "No row was evaluated" in page.words


@pytest.mark.parametrize("row", ["base", "local_only", "pooled", "federated"])
def test_a_row_that_was_not_evaluated_is_named_as_missing(row: str):
    given = run_report()
    del given["evaluation"][row]
    words = Reader(report.page(given)).words

    assert f"Not evaluated in this run: {report.ROWS[row]}" in words
    assert ("makes no claim about its quality" in words) == (row == "federated")


def test_one_site_and_twenty_sites_both_fit():
    for sites in (("north",), tuple(f"hospital-{n:02d}" for n in range(20))):
        page = Reader(report.page(run_report(sites, 30)))

        assert f"{len(sites)} hospital" in page.words
        assert all(f"{site} — 1 message, 1.4 MB" in page.words for site in sites)


def test_a_withheld_metric_is_shown_as_withheld():
    given = run_report()
    given["evaluation"]["per_site"]["north"]["federated"] = {
        "macro": {"auroc": {"value": 0.123, "withheld": "fewer than 20 patients"}}
    }
    words = Reader(report.page(given)).words

    assert "fewer than 20 patients" in words and "0.123" not in words


def test_a_run_that_ended_early_says_so_and_why():
    given = run_report() | {"planned_rounds": 10, "stopped": "quorum-answers"}
    words = Reader(report.page(given)).words

    assert "The run ended early: 3 of 10 rounds" in words and "quorum-answers" in words
    assert "ended early" not in Reader(report.page(run_report())).words


def test_a_rejected_round_says_why_and_the_gate_what_it_could_not_check():
    given = run_report()
    measured = {"norm": 3.0, "bound": 2.0, "energy_cut": None, "validation": None}
    given["rounds"][1] |= {"accepted": False, "reason": "gate-bound", "gate": measured}
    given["rounds"][2] |= {"accepted": True, "reason": None, "gate": {**measured, "norm": 1.0, "energy_cut": 0.012}}
    words = Reader(report.page(given)).words

    assert "rejected: the sum is longer than clipping and noise of these sites allow" in words
    assert "length 50% of what is allowed; 1.2% of the energy cut; not checked on held-out patients" in words

    looked = {"change": -0.0126, "noise": 0.0041, "sites": {"site-a": -0.0126}}
    given["rounds"][2]["gate"] |= {"energy_cut": None, "validation": looked}
    words = Reader(report.page(given)).words
    assert "length 50% of what is allowed; score of held-out patients -0.013, noise 0.004" in words


def test_a_round_that_too_few_answered_says_so():
    given = run_report()
    given["rounds"][1] |= {"accepted": False, "reason": "too-few-answers", "gate": None}

    assert "rejected: too few sites gave a usable update" in Reader(report.page(given)).words


def off(given: dict[str, Any]) -> None:
    given["privacy"] = {"off": True}


def silent(given: dict[str, Any]) -> None:
    del given["privacy"]


def infinite(given: dict[str, Any]) -> None:
    for site in given["sites"].values():
        site["epsilon"] = math.inf


def noiseless(given: dict[str, Any]) -> None:
    for site in given["sites"].values():
        site["noise_multiplier"] = 0.0


@pytest.mark.parametrize("turn", [off, silent, infinite, noiseless])
def test_a_run_without_privacy_says_so_loudly_and_never_shows_an_epsilon(turn: Any):
    given = run_report()
    turn(given)
    page = report.page(given)

    assert report.privacy_state(json.loads(report.dump(given)))["state"] == "off"
    assert "Privacy was off in this run" in page and "There is none" in page
    assert "2.98" not in Reader(page).words and "2.97" not in Reader(page).words


def test_one_site_without_a_guarantee_is_named():
    given = run_report()
    given["sites"]["north"]["epsilon"] = None
    words = Reader(report.page(given)).words

    assert "1 hospital trained without a privacy guarantee" in words
    assert "It does not cover the patients of north" in words


def test_a_site_that_refused_from_the_start_needs_no_guarantee():
    given = run_report()
    given["sites"]["north"] = {"epsilon": None, "steps": 0, "refusals": ["budget-exhausted"], "left": []}

    assert report.privacy_state(given)["state"] == "on"


def test_epsilon_is_rounded_up_in_figure_table_and_statement():
    words = Reader(report.page(run_report())).words

    assert words.count("2.98") >= 4 and "2.97" not in words


def test_pictures_not_known_to_be_phantoms_raise_an_alarm():
    assert "This file shows patients’ pictures" not in report.page(run_report(), gallery())
    assert "This file shows patients’ pictures" in report.page(
        run_report() | {"data": {"source": "hospital"}}, gallery()
    )
    assert "This file shows patients’ pictures" not in report.page(run_report() | {"data": None}, [])


def test_a_picture_that_is_no_png_is_left_out():
    film = GalleryItem(b"<svg onload=alert(1)>", "north", "q", "r", {})
    page = Reader(report.page(run_report(), [film]))

    assert not page.named("img") and "cannot be shown" in page.words


def test_findings_claim_a_difference_only_where_the_intervals_allow_it():
    given = run_report()
    close = copy.deepcopy(given)
    close["evaluation"]["federated"] = measures(0.62)

    assert report.findings(given)[0] == (
        "Training together moved the macro AUROC by +0.23 against the base model; their intervals do not overlap."
    )
    assert report.findings(close)[0].endswith("their intervals overlap, so the difference may be chance.")
    assert "0.09 below what a hospital reaches alone" in report.findings(close)[1]


def test_a_private_evaluation_stands_with_its_interval_beside_the_exact_value_that_is_marked():
    macro = {"auroc": {"value": 0.7654, "ci95": [0.6, 0.9], "n": None}}
    withheld = {"auroc": {"value": None, "ci95": None, "n": None, "withheld": "too few cases for the noise"}}
    private = {
        "epsilon_of_release": 1.0,
        "sites": {"harbour": {"macro": macro, "questions": {"clear?": macro, "rare?": withheld}}},
        "macro": macro,
        "exact_in_simulation_only": {"sites": {"harbour": 0.7811}, "macro_auroc": 0.7811},
    }
    whole = run_report()
    whole["evaluation"]["private"] = private

    page = report.page(whole)

    assert "What the hospitals would say" in page
    assert "0.765" in page and "[0.60–0.90]" in page
    assert "1 of 2" in page
    assert "0.781" in page and "exact (simulation only)" in page
    assert "What the hospitals would say" not in report.page(run_report())


@pytest.mark.skipif(found() is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 360])
def test_a_real_browser_shows_it_whole_and_asks_nobody(tmp_path, width):
    path = tmp_path / "report.html"
    path.write_text(report.page(run_report()))
    with Browser(tmp_path, width=width) as browser:
        browser.open(path.as_uri())

        assert "Chest films" in browser.tell("document.querySelector('h1').innerText")
        assert browser.tell("document.documentElement.scrollWidth") <= width
        assert browser.complaints == []
        assert {address for address in browser.requests if not address.startswith("data:")} == {path.as_uri()}


def test_noise_that_the_hospitals_share_is_said_with_whom_it_rests_on():
    given = run_report()
    alone = report.page(given)
    for site in given["sites"].values():
        site["honest_sites"] = 4
    shared = report.page(given)

    assert "made by each hospital alone" in alone and "made by each hospital alone" not in shared
    assert "4 of them are counted on" in shared and "as long as 4 of the hospitals" in shared
