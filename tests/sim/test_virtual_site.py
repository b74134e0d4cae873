"""What a simulated hospital trains on is what was released: an interrupted run goes on with it, or not at all."""

import json
import shutil
import sqlite3
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from client.imaging.ingest import IngestCounts
from client.imaging.store import Store
from federation.errors import DataError
from sim.phantoms import write_hospital
from sim.sites import hospitals
from sim.virtual_site import prepare, releases_of


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites") / "north"
    write_hospital(replace(hospitals(1)[0], patients=6), folder, seed=1, truth=folder.parent / "truth.json")
    return folder


def prepared(folder: Path, source: Path, *, begun: bool = False) -> IngestCounts:
    make = partial(prepare, seed=1, held_out_share=0.2, workers=0, progress=lambda done, total: None)
    return make(folder, "north", source, begun=begun)


def digest(folder: Path) -> str:
    with Store.open(folder / "store") as store:
        return store.digest()


def released(folder: Path) -> list[str]:
    return [release.data_digest for release in releases_of(folder).all()]


@pytest.mark.parametrize("begun", [False, True])
def test_an_altered_store_is_not_released_again(tmp_path: Path, source: Path, begun: bool) -> None:
    prepared(tmp_path, source)
    before = released(tmp_path)
    index = sqlite3.connect(tmp_path / "store" / "index.sqlite")
    assert index.execute("UPDATE example SET turns = replace(turns, 'Yes.', 'Maybe')").rowcount > 0
    index.commit()
    index.close()

    for _ in range(2):
        with pytest.raises(DataError, match="is not as it was when this run released it") as refused:
            prepared(tmp_path, source, begun=begun)
        assert refused.value.code == "not-released" and released(tmp_path) == before


def test_a_run_that_has_begun_goes_on_with_the_data_it_began_with(tmp_path: Path, source: Path) -> None:
    first = prepared(tmp_path / "site", source)
    before, facts = digest(tmp_path / "site"), (tmp_path / "site" / "site.json").read_text()
    again = prepared(tmp_path / "site", tmp_path / "gone", begun=True)

    assert (again.accepted, again.already) == (0, first.accepted) and again.quarantined == first.quarantined
    assert digest(tmp_path / "site") == before and released(tmp_path / "site") == [before]
    assert (tmp_path / "site" / "site.json").read_text() == facts


def test_before_a_run_begins_repaired_sources_make_another_data_set_that_is_released(
    tmp_path: Path, source: Path
) -> None:
    repaired = tmp_path / "repaired"
    shutil.copytree(source, repaired)
    prepared(tmp_path / "site", repaired)
    reports = repaired / "reports.jsonl"
    row = json.loads(reports.read_text(encoding="utf-8").splitlines()[0])
    row["conversations"][0]["value"] = row["conversations"][0]["value"].count("<image>") * "<image>" + "Is it clear?"
    with reports.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    assert prepared(tmp_path / "site", repaired).accepted == 1

    assert released(tmp_path / "site")[-1] == digest(tmp_path / "site") and len(released(tmp_path / "site")) == 2
