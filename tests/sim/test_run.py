"""A whole small federation through the command, with the shipped base: report, resume, engines, leaks, mistakes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sim.leaks import Truth
from sim.phantoms import find_leaks
from sim.sites import hospitals
from sim.wardround import call

PLAN = """
[run]
name = "small"
rounds = 2
[model]
path = "builtin:tiny-llama4"
[training]
local_steps = 1
sampling_rate = 0.5
learning_rate = 1.0
optimizer = "sgd"
examples_per_patient = 1
[privacy]
target_epsilon = 8.0
[aggregation]
server_optimizer = "adam"
server_learning_rate = 0.01
max_update_rms = 100.0
[evaluation]
held_out_share = 0.3
bootstrap = 20
minimum_count = 2
private_epsilon = 15.0
questions = [["Is there consolidation?", "Yes.", "No."]]
"""
LOG = Path("trust") / "log" / "log.jsonl"
SMALL = ("--sites", "3", "--patients", "36", "--threads", "1")


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


def wardround(*words: object) -> int:
    return call([str(word) for word in words])


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_a_federation_ends_with_a_report_an_adapter_and_nothing_of_any_patient(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert wardround("sim", "run", plan, *SMALL, "--out", out) == 0
    told = report(out)

    assert {"run_id", "plan_digest", "engine", "rounds", "sites", "evaluation", "privacy", "costs"} <= told.keys()
    assert set(told["evaluation"]) >= {"base", "federated", "local_only", "pooled", "per_site"}
    assert all(0 < site["epsilon"] <= 8.0 for site in told["sites"].values())
    assert sorted(told["evaluation"]["private"]["sites"]) == sorted(told["sites"])
    assert all("evaluation" in [message["kind"] for message in site["left"]] for site in told["sites"].values())
    assert told["costs"]["uplink_bytes_per_site_round"] > told["adapter"]["parameters"] * 2  # 16 bits a number
    for name in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "report.html", "run/HEAD"):
        assert (out / name).exists()
    for hospital in ("hospital-01", "hospital-02"):
        truth = Truth.load(out / "truth" / f"{hospital}.json")
        assert find_leaks(out / "hospitals" / hospital, truth)
        left = [leak for place in ("sites", "run", "adapter") for leak in find_leaks(out / place, truth)]
        assert not left
        page = tmp_path / "page"
        page.mkdir(exist_ok=True)
        for name in ("report.html", "report.json"):
            shutil.copy(out / name, page / name)
        assert not find_leaks(page, truth)
    logs = [word for site in ("hospital-01", "hospital-02") for word in ("--site-log", out / "sites" / site / LOG)]
    assert wardround("verify", out, *logs) == 0


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(plan: Path, tmp_path: Path) -> None:
    words = ("sim", "run", plan, *SMALL, "--no-compare", "--seed", 3)
    assert wardround(*words, "--out", tmp_path / "whole") == 0
    assert wardround(*words, "--out", tmp_path / "cut", "--fault", "hospital-01=drop@2") == 15
    assert not (tmp_path / "cut" / "report.json").exists()
    assert wardround(*words, "--out", tmp_path / "cut", "--resume") == 0

    assert report(tmp_path / "cut")["adapter"]["digest"] == report(tmp_path / "whole")["adapter"]["digest"]
    assert wardround("verify", tmp_path / "cut") == 0
    assert report(tmp_path / "cut")["sites"]["hospital-01"]["epsilon"] == pytest.approx(
        report(tmp_path / "whole")["sites"]["hospital-01"]["epsilon"]
    )


def test_without_privacy_the_report_says_so(plan: Path, tmp_path: Path) -> None:
    words = ("sim", "run", plan, *SMALL, "--no-compare", "--epsilon", "none", "--rounds", 1)
    assert wardround(*words, "--out", tmp_path / "out") == 0

    assert report(tmp_path / "out")["privacy"]["unit"] == "none"
    assert all(site["epsilon"] is None for site in report(tmp_path / "out")["sites"].values())


@pytest.mark.slow
def test_flowers_engine_gives_the_same_adapter_to_the_bit(plan: Path, tmp_path: Path) -> None:
    words = ("sim", "run", plan, *SMALL, "--no-compare")
    assert wardround(*words, "--out", tmp_path / "local") == 0
    assert wardround(*words, "--out", tmp_path / "flower", "--engine", "flower") == 0

    assert report(tmp_path / "flower")["adapter"]["digest"] == report(tmp_path / "local")["adapter"]["digest"]
    assert report(tmp_path / "flower")["engine"] == "flower"
    assert wardround("verify", tmp_path / "flower") == 0


@pytest.mark.slow
def test_eight_hospitals_share_the_noise_of_the_real_model_and_a_dropout_is_repaired(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    shared = 'noise = "shared"\nhonest_sites = 4\nnoise_multiplier = 3.0\ndelta = 0.01'
    plan.write_text(PLAN.replace("target_epsilon = 8.0", shared).replace("rounds = 2", "rounds = 2\nquorum = 6"))
    words = ("sim", "run", plan, "--sites", 8, "--patients", 80, "--threads", 1, "--no-compare", "--seed", 0)
    assert wardround(*words, "--out", tmp_path / "out", "--fault", "hospital-03=drop-masked@1") == 0
    told = report(tmp_path / "out")

    assert [one["accepted"] for one in told["rounds"]] == [True, True]
    assert told["rounds"][0]["refusals"] == {"hospital-03": ["no-answer"]}
    assert {site["honest_sites"] for site in told["sites"].values()} == {4}
    assert told["privacy"]["epsilon_for_m_sites"]["2"] > max(site["epsilon"] for site in told["sites"].values())
    assert "4 of them are counted on" in (tmp_path / "out" / "report.html").read_text()
    assert wardround("verify", tmp_path / "out") == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rolora", "stack"])
def test_the_other_methods_run_on_the_real_model_with_a_from_its_own_weights(tmp_path: Path, method: str) -> None:
    plan = tmp_path / "plan.toml"
    optimizer = 'server_optimizer = "mean"\nserver_learning_rate = 1.0\n'
    text = PLAN.replace('server_optimizer = "adam"\nserver_learning_rate = 0.01\n', optimizer + "secure = false\n")
    plan.write_text(text + f'[adapter]\nmethod = "{method}"\nrank = 4\na_init = "svd"\n')
    words = ("sim", "run", plan, "--sites", "2", "--patients", "64", "--rounds", "2", "--threads", "1", "--no-compare")
    assert wardround(*words, "--out", tmp_path / "out") == 0
    told = report(tmp_path / "out")

    assert [one["accepted"] for one in told["rounds"]] == [True, True]
    assert all(0 < one["gate"]["norm"] <= one["gate"]["bound"] for one in told["rounds"])
    assert all(one["gate"]["validation"] is None for one in told["rounds"])
    sent = [max(one["uplink_bytes"].values()) for one in told["rounds"]]
    assert sent[0] < sent[1] if method == "rolora" else abs(sent[0] - sent[1]) < 10  # B is smaller than A
    assert {path.name for path in (tmp_path / "out" / "adapter").iterdir()} >= {"adapter_model.safetensors"}


def site_folder(folder: Path, *, image: str = "a.png", row_image: str = "a.png") -> Path:
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / image)
    turns = [{"from": "human", "value": "<image>\nIs there pneumonia?"}, {"from": "gpt", "value": "No."}]
    (folder / "r.jsonl").write_text(json.dumps({"image": row_image, "patient_id": "p", "conversations": turns}) + "\n")
    return folder


MISTAKES = {
    "an unknown key": (10, "unknown key", lambda p, t: p.write_text(PLAN.replace("rounds = 2", "roundz = 2"))),
    "an absent plan": (10, "cannot be read", lambda p, t: p.unlink()),
    "another base than the pinned one": (
        18, "not the one that the plan names",
        lambda p, t: p.write_text(PLAN.replace("[training]", f'sha256 = "{"0" * 64}"\n[training]')),
    ),
    "an absent model folder": (
        16, "does not exist", lambda p, t: p.write_text(PLAN.replace("builtin:tiny-llama4", "no-such-model")),
    ),
    "an empty site folder": (19, "", lambda p, t: (t / "sites" / "north").mkdir(parents=True)),
    "a report for a missing image": (
        13, "", lambda p, t: site_folder(t / "sites" / "north", row_image="b.png"),
    ),
    "a site with too few patients": (19, "fewer than two patients", lambda p, t: site_folder(t / "sites" / "north")),
    "a site's folder with an impossible name": (19, "name", lambda p, t: site_folder(t / "sites" / "Nörth")),
    "two sites for a masked sum": (
        10, "needs three sites, and there are 2",
        lambda p, t: [(t / "sites" / name).mkdir(parents=True) for name in "ab"],
    ),
}  # fmt: skip

ONE_SITE = {"an empty site folder", "a report for a missing image", "a site with too few patients"}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_clear_error_and_a_hint(
    mistake: str, plan: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, words, make = MISTAKES[mistake]
    make(plan, tmp_path)
    where = ("--sites-dir", tmp_path / "sites") if (tmp_path / "sites").exists() else SMALL
    if mistake in ONE_SITE:
        plan.write_text(plan.read_text().replace("[aggregation]", "[aggregation]\nsecure = false"))
    assert wardround("sim", "run", plan, *where, "--out", tmp_path / "out") == status
    told = capfd.readouterr()

    lines = [line for line in told.err.splitlines() if line.startswith("wardround: ")]
    assert [line.split(": ")[1] for line in lines] == ["error", "hint"] and words in lines[0]
    assert "Traceback" not in told.err and str(tmp_path) not in told.err and not told.out
    assert not (tmp_path / "out" / "report.json").exists() and not (tmp_path / "out" / "run" / "HEAD").exists()


def test_one_nan_update_below_the_quorum_ends_the_run_and_keeps_the_last_whole_round(
    plan: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("sim", "run", plan, *SMALL, "--no-compare", "--fault", "hospital-02=nan@2")
    assert wardround(*words, "--out", tmp_path / "out") == 15
    told = capfd.readouterr().err

    assert "hospital-02: update-not-finite" in told and told.count("wardround: error: ") == 1
    assert not (tmp_path / "out" / "adapter").exists()


def test_usage_errors_are_two_lines_too(capfd: pytest.CaptureFixture[str]) -> None:
    assert wardround("sim", "run", "--rounds", "many") == 2
    assert wardround("sim", "nonsense") == 2

    assert "Traceback" not in capfd.readouterr().err


def test_an_output_folder_in_use_is_left_as_it_is(plan: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")

    assert wardround("sim", "run", plan, *SMALL, "--out", tmp_path / "out") == 17
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_every_made_site_has_a_name_that_a_site_can_have() -> None:
    assert [hospital.site_id for hospital in hospitals(3, 30, 0)] == ["hospital-01", "hospital-02", "hospital-03"]
    assert replace(hospitals(1, 12, 0)[0], patients=3).patients == 3
