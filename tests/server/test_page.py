"""The coordinator's page in a real browser: live, on a phone, by keyboard, and asking nobody but its own server."""

from pathlib import Path

import pytest

from federation import metrics
from server import page
from sim.browser import Browser, found

pytestmark = pytest.mark.skipif(found() is None, reason="needs Chromium")
HTML = (Path(page.__file__).parent / "page.html").read_bytes()


def a_round(number, **changes):
    both = ("harbour", "north")
    return {
        "round": number, "asked": list(both), "accepted": list(both), "refusals": {}, "failures": {},
        "epsilon": {"harbour": 0.5 * number, "north": 0.4 * number}, "uplink_bytes": dict.fromkeys(both, 90_000),
        "downlink_bytes": dict.fromkeys(both, 90_000), "seconds": 4.25, "outcome": "accepted", "closed": "",
        "adapter": "ab" * 32,
    } | changes  # fmt: skip


def overview(*rounds):
    run = {
        "run": "chest-0123456789ab", "plan": "cd" * 32, "state": "running", "detail": "", "planned_rounds": 3,
        "since": "2026-01-01T00:00:00Z", "target_epsilon": 8.0, "rounds": list(rounds), "evaluation": None,
    }  # fmt: skip
    sites = [{"site": "harbour", "online": True}, {"site": "north", "online": False}]
    return {"sites": sites, "superlink": True, "runs": [run]}


@pytest.fixture
def shown():
    """What the page will be told next."""
    return {"now": overview(a_round(1))}


@pytest.fixture
def address(shown):
    def look():
        if shown["now"] is None:
            raise ConnectionError
        return shown["now"]

    pages = {"/": lambda: ("text/html; charset=utf-8", HTML)}
    served = metrics.serve(0, pages, other=metrics.events("/events", look))
    yield f"http://127.0.0.1:{served.port}/"
    served.close()


@pytest.mark.parametrize("width", [1280, 360])
def test_a_round_that_ends_appears_by_itself_on_a_desk_and_on_a_phone(tmp_path, address, shown, width):
    refused = a_round(
        2, accepted=["harbour"], refusals={"north": ["budget_exhausted"]}, failures={"<b>x</b>": "no-answer"}
    )
    with Browser(tmp_path, width=width, height=740) as browser:
        browser.open(address)
        browser.until("document.body.innerText.includes('round 1 of 3')")
        shown["now"] = overview(a_round(1), refused)
        browser.until("document.body.innerText.includes('round 2 of 3')")
        words = browser.tell("document.body.innerText")

        assert "1 of 2 hospitals connected" in words and "epsilon 1.00 of 8" in words
        assert "north: budget_exhausted" in words and "<b>x</b>: no-answer" in words  # text, not markup
        assert browser.tell("document.documentElement.scrollWidth") <= width
        assert browser.complaints == []
        assert {request.removeprefix(address) for request in browser.requests} <= {"", "events", "data:,"}


def test_everything_on_the_page_can_be_reached_and_opened_by_keyboard(tmp_path, address):
    with Browser(tmp_path) as browser:
        browser.open(address)
        browser.until("document.querySelectorAll('summary').length == 1")
        seen = []
        for _ in range(3):
            browser.press("Tab")
            seen.append(
                browser.tell("document.activeElement.getAttribute('aria-label') || document.activeElement.tagName")
            )
        browser.tell("document.querySelector('summary').focus()")
        was_open = browser.tell("document.querySelector('details').open")
        browser.press("Enter")

        assert seen[0] == "hospitals in chest-0123456789ab" and "SUMMARY" in seen
        assert browser.tell("document.querySelector('details').open") is not was_open
        assert browser.tell("getComputedStyle(document.querySelector('summary')).outlineStyle") == "solid"


def test_a_coordinator_that_does_not_answer_is_said_to_be_away(tmp_path, address, shown):
    with Browser(tmp_path) as browser:
        browser.open(address)
        browser.until("document.body.innerText.includes('round 1 of 3')")
        shown["now"] = None
        browser.until("document.getElementById('live').textContent.includes('does not answer')")
