"""The doctor of a site: one line per question, and the first wrong thing is named."""

import time

import pytest

from client import doctor
from client.doctor import Finding, examine, worst
from client.folder import IDENTITY, SiteFolder
from sim.keys import SeededKeys


@pytest.fixture
def folder(tmp_path):
    return SiteFolder.init(
        tmp_path / "site", site_id="north", declared_patients=100, coordinator="lung", keys=SeededKeys(0)
    )


def of(findings, what):
    return next(finding for finding in findings if finding.what == what)


def test_a_new_site_is_told_what_is_missing(folder):
    findings = examine(folder)

    assert worst(findings) == "fix"
    assert of(findings, "settings").health == "fix" and "model.path" in of(findings, "settings").says
    assert of(findings, "permissions").health == "ok"
    assert of(findings, "ledger") == Finding("ledger", "ok", "nothing is spent yet")
    assert "roster" in of(findings, "roster").says
    assert "enrol" in of(findings, "coordinator").says


def test_a_key_that_others_may_read_is_named(folder):
    (folder.path / IDENTITY).chmod(0o644)

    told = of(examine(folder), "permissions")

    assert told.health == "fix" and IDENTITY in told.says


@pytest.mark.parametrize(
    ("ahead_s", "health"), [(0, "ok"), (0.9, "ok"), (3, "warn"), (-3, "warn"), (10, "fix"), (-3600, "fix")]
)
def test_the_clock_is_compared_no_finer_than_the_date_tells(ahead_s, health):
    now = 1_800_000_000.0
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now))

    assert doctor._clock(date, now + ahead_s, now + ahead_s + 0.1).health == health


@pytest.mark.parametrize(("days", "health"), [(20.0, "ok"), (13.9, "warn"), (2.9, "fix"), (-1.0, "fix")])
def test_a_certificate_is_warned_of_14_and_3_days_before_its_end(days, health):
    assert doctor._days("certificate", days, doctor.CERTIFICATE_DAYS)[0] == health
