"""A site's own rules end to end: what a privacy officer writes, what the commands then do, and who is told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from client import doctor
from client.folder import SiteFolder
from client.imaging.store import Store
from client.inspection.browse import Wanted
from client.inspection.view import Pages
from client.rules_view import rules_told, rules_view
from client.workplace import Workplace
from federation import canonical
from federation.errors import SettingsError
from sim.wardround import call

HEAD = 'format = "wardround-rules/1"\n'
ENDLESS = [f"x = {'[' * 3000}{']' * 3000}", f"x = {'9' * 5000}", f"x{'.x' * 3000} = 1"]
VOUCH = """
[[loosen]]
keep = "PatientSize"
by = "Dr. Panza <b>"
on = "2026-11-23"
because = "dose per size is what the study is about"
"""
Run = Callable[..., tuple[int, str, str]]
Ruled = Callable[[str], None]


def radiograph(number: int, modality: str = "CR") -> FileDataset:
    dataset = FileDataset("", Dataset(), file_meta=FileMetaDataset(), preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", f"1.2.3.4.{number}.1"
    dataset.StudyInstanceUID, dataset.AccessionNumber = f"1.2.3.4.{number}", f"ACC000{number}"
    dataset.StudyDate, dataset.PatientBirthDate, dataset.PatientSex = "20190304", "19500607", "F"
    dataset.PatientAge, dataset.PatientSize, dataset.PatientWeight = "068Y", "1.61", "58.5"
    dataset.PatientID, dataset.PatientName, dataset.Modality = f"MRN-{number}", "Quixano^Alonso", modality
    dataset.Manufacturer, dataset.Rows, dataset.Columns = "SIEMENS", 32, 32
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = np.arange(1024, dtype=np.uint8).tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


@pytest.fixture(autouse=True)
def right_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("client.intake", "client.imaging.export"):
        monkeypatch.setattr(f"{module}.cores", lambda: 0)


@pytest.fixture
def site(site: Path) -> Path:
    settings = (site / "site.toml").read_text()
    (site / "site.toml").write_text(settings.replace("[policy]", 'rules = "rules.toml"\n[policy]'))
    return site


@pytest.fixture
def ruled(site: Path) -> Ruled:
    def write(text: str) -> None:
        (site / "rules.toml").write_text(HEAD + text)
        (site / "rules.toml").chmod(0o600)

    return write


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A radiograph and an object that says to be of ultrasound, with a report each."""
    folder = tmp_path / "export"
    folder.mkdir()
    for number, modality in ((1, "CR"), (2, "US")):
        radiograph(number, modality).save_as(folder / f"{number}", enforce_file_format=True)
    rows = ["accession_number,report", *(f"ACC000{number},FINDINGS: Clear lungs." for number in (1, 2))]
    (folder / "reports.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def run(site: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def typed(*words: str | Path) -> tuple[int, str, str]:
        status = call(["site", words[0], *map(str, words[1:]), "--dir", str(site)])  # type: ignore[list-item]
        out, err = capfd.readouterr()
        assert not [word for word in ("Quixano", "MRN", "ACC000", "1.2.3.4", "Traceback") if word in out + err]
        return status, out, err

    return typed


def exported(run: Run, source: Path, *more: str) -> tuple[dict[str, Any], list[FileDataset]]:
    target = source.with_name("clean")
    status, out, err = run("deidentify", source, target, "--json", *more)
    assert status == 0, err
    return json.loads(out), [dcmread(path) for path in sorted(target.rglob("*.dcm"))]


def attestations(folder: Path) -> list[dict[str, Any]]:
    return [canonical.load(path.read_bytes()) for path in (folder / "attestations").iterdir()]  # type: ignore[misc]


def test_what_is_dropped_is_neither_stored_nor_exported(run: Run, ruled: Ruled, source: Path, site: Path) -> None:
    ruled('[tighten]\ndrop = ["Manufacturer", "PatientSex", "PatientAge"]\n')
    assert run("ingest", source)[0] == 0
    _, files = exported(run, source)
    with Store.open(site / "store") as store:
        [[sex, age, *_]] = set(store.rows("SELECT sex, age_years FROM example"))
        fields = [json.loads(text) for (text,) in store.rows("SELECT fields FROM picture")]

    assert (sex, age) == ("", None) and {each["manufacturer"] for each in fields} == {""}
    assert not any("Manufacturer" in each or "PatientAge" in each or each.PatientSex for each in files)
    assert [code.CodeValue for code in files[0].DeidentificationMethodCodeSequence] == ["113100", "113107"]
    [attested] = attestations(site / "store")
    assert attested["tightened"] == ["drop Manufacturer", "drop PatientAge", "drop PatientSex"]
    assert "113108" not in attested["options"] and attested["exceptions"] == []


def test_without_rules_all_of_it_is_there(run: Run, source: Path, site: Path) -> None:
    settings = (site / "site.toml").read_text()
    (site / "site.toml").write_text(settings.replace('rules = "rules.toml"\n', ""))
    counts, files = exported(run, source)

    assert counts["written"] == 2
    for each in files:
        assert each.Manufacturer == "SIEMENS" and each.PatientSex == "F" and each.StudyDate and each.PatientAge
        assert "PatientSize" not in each and "PatientWeight" not in each
    [attested] = attestations(site / "state")
    assert attested["exceptions"] == [] and attested["tightened"] == []


@pytest.mark.parametrize("workers", ["1", None])
def test_a_refused_modality_is_neither_stored_nor_exported(
    workers: str | None, run: Run, ruled: Ruled, source: Path
) -> None:
    ruled('[tighten]\nrefuse_modalities = ["US"]\n')
    more = ("--workers", workers) if workers else ()
    counts, files = exported(run, source, *more)
    stored = json.loads(run("ingest", source, "--json", *more)[1])

    assert counts["quarantined"] == {"site-refused": 1} and [each.Modality for each in files] == ["CR"]
    assert stored["accepted"] == 1 and stored["quarantined"] == {"site-refused": 1}
    assert "this site's own rules" in run("quarantine")[1]


def test_a_refused_class_is_neither_stored_nor_exported(run: Run, ruled: Ruled, source: Path) -> None:
    ruled('[tighten]\nrefuse_classes = ["1.2.840.10008.5.1.4.1.1.1"]\n')
    counts, files = exported(run, source)

    assert counts["quarantined"] == {"site-refused": 2} and not files
    assert run("ingest", source)[0] == 19


def test_removed_dates_are_empty_in_the_export(run: Run, ruled: Ruled, source: Path) -> None:
    ruled('[tighten]\ndates = "removed"\n')
    _, files = exported(run, source)

    for each in files:
        assert each.StudyDate == "" and each.LongitudinalTemporalInformationModified == "REMOVED"
        assert "113107" not in [code.CodeValue for code in each.DeidentificationMethodCodeSequence]


@pytest.mark.parametrize("workers", ["1", None])
def test_what_a_person_vouches_for_stays_and_is_attested(
    workers: str | None, run: Run, ruled: Ruled, source: Path, site: Path
) -> None:
    ruled(VOUCH)
    _, files = exported(run, source, *(("--workers", workers) if workers else ()))
    run("ingest", source)

    for each in files:
        assert each.PatientSize == 1.61 and "PatientWeight" not in each
        assert [code.CodeValue for code in each.DeidentificationMethodCodeSequence] == ["113100", "113107", "113108"]
    for [attested] in (attestations(site / "state"), attestations(site / "store")):
        [exception] = attested["exceptions"]
        assert exception == {
            "keep": "PatientSize", "by": "Dr. Panza <b>", "on": "2026-11-23",
            "because": "dose per size is what the study is about",
        }  # fmt: skip


def test_other_rules_do_not_enter_a_store_and_the_hint_says_what_to_do(
    run: Run, ruled: Ruled, source: Path, site: Path
) -> None:
    ruled("")
    assert run("ingest", source)[0] == 0
    ruled('[tighten]\ndrop = ["KVP"]\n')
    status, _, err = run("ingest", source)

    assert status == 17 and "other rules" in err and "data.rules" in err and "data.store" in err
    assert rules_view(Workplace.open(site)).differs
    ruled("# a remark changes nothing\n")
    assert run("ingest", source)[0] == 0 and not rules_view(Workplace.open(site)).differs


@pytest.mark.parametrize(
    "text",
    ["[tighten]\ndrp = []", "format", "\xff", '[[loosen]]\nkeep = "PatientName"', "[limits]\nframes = 9999", *ENDLESS],
)
@pytest.mark.parametrize("command", ["ingest", "deidentify"])
def test_wrong_rules_stop_the_command_before_it_begins(
    text: str, command: str, run: Run, site: Path, source: Path
) -> None:
    (site / "rules.toml").write_text(HEAD + text, encoding="latin-1")
    status, out, err = run(command, source, *([source.with_name("clean")] if command == "deidentify" else []))

    lines = [line for line in err.splitlines() if line.startswith("wardround: ")]
    assert status == 11 and not out and [line.split(": ")[1] for line in lines] == ["error", "hint"]
    assert "data.rules" in lines[0] and not (site / "store").exists() and not source.with_name("clean").exists()


def test_rules_that_are_named_and_not_there_stop_it_too(run: Run, site: Path, source: Path) -> None:
    assert run("ingest", source)[0] == 11
    (site / "rules.toml").mkdir()
    assert run("ingest", source)[0] == 11


@pytest.mark.parametrize("text", ENDLESS)
def test_endless_rules_are_a_line_of_the_doctor_and_no_release(
    text: str, run: Run, ruled: Ruled, source: Path, site: Path
) -> None:
    ruled("")
    digest = json.loads(run("ingest", source, "--json")[1])["data_digest"]
    (site / "rules.toml").write_text(HEAD + text)
    assert found(site)[0] == "fix" and "nests too deeply" in found(site)[1]

    status, out, err = run("release", digest, "--by", "Dr. Panza")
    assert (status, out) == (11, "") and "nests too deeply" in err and not (site / "state/releases.jsonl").exists()
    status, out, err = run("release")
    assert status == 0 and digest in out and "not to be trained on: data.rules: the file nests too deeply" in err


def test_with_other_rules_than_the_stores_nothing_is_released_and_a_release_does_not_look_valid(
    run: Run, ruled: Ruled, source: Path, site: Path
) -> None:
    ruled("")
    digest = json.loads(run("ingest", source, "--json")[1])["data_digest"]
    assert run("release", digest, "--by", "Dr. Panza")[0] == 0 and run("release")[2] == ""
    ruled('[tighten]\ndrop = ["KVP"]\n')

    status, out, err = run("release", digest, "--by", "Dr. Panza")
    assert (status, out) == (17, "") and "nothing trains on it" in err and "name a new folder in data.store" in err
    assert "not to be trained on: the store was made with other rules" in run("release")[2]
    [release] = [one for one in doctor.examine(SiteFolder(site)) if one.what == "release"]
    assert release.health == "fix" and "other rules" in release.says
    assert run("release", digest, "--revoke", "--by", "Dr. Panza")[0] == 0  # what a person takes back is taken back


def found(site: Path) -> tuple[str, str]:
    [one] = [each for each in doctor.examine(SiteFolder(site)) if each.what == "rules"]
    return one.health, one.says


def test_the_doctor_says_whose_rules_are_in_force(run: Run, ruled: Ruled, source: Path, site: Path) -> None:
    assert found(site)[0] == "fix"
    ruled("")
    assert found(site) == ("ok", "shipped")
    ruled('default_issuer = "NORTH"\n[tighten]\ndrop = ["KVP", "Grid"]\n[limits]\nframes = 100\n')
    assert found(site) == ("ok", "tightened 3, adjusted 1")
    ruled(VOUCH)
    assert found(site) == ("warn", "loosened 1 (PatientSize by Dr. Panza <b>)")
    run("ingest", source)
    assert found(site)[0] == "warn"
    ruled("")
    assert found(site)[0] == "fix" and "made with others" in found(site)[1]
    (site / "rules.toml").chmod(0o666)
    assert found(site)[0] == "fix" and "chmod" in found(site)[1]
    (site / "rules.toml").write_text("x")
    (site / "rules.toml").chmod(0o600)
    assert found(site)[0] == "fix" and "TOML" in found(site)[1]


def test_who_releases_sees_what_was_loosened_and_by_whom(run: Run, ruled: Ruled, source: Path, site: Path) -> None:
    ruled(VOUCH)
    run("ingest", source)
    page = Pages(Workplace.open(site))
    loose = page.overview(Wanted(), "")
    ruled("")
    changed = page.overview(Wanted(), "")
    ruled("x")
    broken = page.overview(Wanted(), "")

    assert "loosened 1" in loose and "Dr. Panza &lt;b&gt;, 2026-11-23" in loose and "what the study is about" in loose
    assert "have changed" in changed and "have changed" not in loose
    assert "cannot be read" in broken
    with pytest.raises(SettingsError):
        rules_view(Workplace.open(site))
    assert rules_told(Workplace.open(site)).unread


def test_a_new_site_is_told_of_rules_and_has_none(tmp_path: Path) -> None:
    from sim.keys import SeededKeys

    folder = SiteFolder.init(
        tmp_path / "new", site_id="north", declared_patients=100, coordinator="lung", keys=SeededKeys(0)
    )

    assert "# rules = " in (folder.path / "site.toml").read_text() and folder.settings().data.rules is None
