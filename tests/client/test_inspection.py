"""The inspection page: only its own browser gets in, everything is shown, nothing is loaded from elsewhere."""

import http.client
import re
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client.imaging.png import encode_png
from client.imaging.profile import DeidProfile
from client.imaging.record import CleanExample, CleanPicture, CleanStudy, PictureFields, Turn
from client.imaging.store import Store
from client.inspection.browse import rate_bound
from client.inspection.looking import Looking
from client.inspection.server import Inspection
from client.releases import Release
from client.workplace import Workplace
from federation.errors import DataError, FormatError, StoreError
from sim.browser import Browser as RealBrowser
from sim.browser import found

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def place(site: Path) -> Workplace:
    """A site with three examples: of patients 1, 1 and 2."""
    place = Workplace.open(site)
    profile = DeidProfile.shipped()
    with place.store_for(profile, place.keys()) as store:
        for number, patient, answer in ((1, 1, "Seen [DATE] by [NAME]."), (2, 1, EVIL), (3, 2, "100% clear_lungs")):
            picture = CleanPicture(
                f"{number:032x}", encode_png(np.full((8, 9), number, np.uint8)), 8, 9,
                PictureFields(modality="CT" if number == 3 else "CR", view="PA", kvp=80.0),
            )  # fmt: skip
            example = CleanExample(f"{number + 100:032x}", (Turn("What is there?", answer),))
            store.add(CleanStudy(f"{patient:032x}", "s", (picture,), (example,), "F", 90, profile.digest))
        store.hold("1", "burned-in")
    return place


@pytest.fixture
def page(place: Workplace) -> Iterator[Inspection]:
    inspection = Inspection(place, 0)
    thread = threading.Thread(target=inspection.serve)
    thread.start()
    yield inspection
    inspection.close()
    thread.join()


class Browser:
    def __init__(self, page: Inspection) -> None:
        self._port, self.cookie = page.port, ""

    def get(
        self, path: str, *, method: str = "GET", body: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        cookie = {"Cookie": self.cookie} if self.cookie else {}
        connection.request(
            method, path, body, headers=cookie | {name.replace("_", "-"): one for name, one in headers.items()}
        )
        answer = connection.getresponse()
        data = answer.read().decode("utf-8", "replace")
        connection.close()
        return answer.status, dict(answer.getheaders()), data


@pytest.fixture
def browser(page: Inspection) -> Browser:
    """A browser that came with the token."""
    browser = Browser(page)
    status, headers, _ = browser.get(page.address.partition(str(page.port))[2])
    assert status == 303 and "HttpOnly; SameSite=Strict" in headers["Set-Cookie"]
    browser.cookie = headers["Set-Cookie"].partition(";")[0]
    return browser


def test_the_address_works_once_and_for_one_browser(page: Inspection, browser: Browser) -> None:
    stranger = Browser(page)

    assert browser.get("/")[0] == 200
    assert stranger.get(page.address.partition(str(page.port))[2])[0] == 403
    for path in ("/", "/held", "/style.css", f"/picture/{1:032x}.png", "/?token=guess"):
        assert stranger.get(path)[0] == 403
    stranger.cookie = "wardround=guess"
    assert stranger.get("/")[0] == 403


@pytest.mark.parametrize(
    "header",
    [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}],
)
def test_requests_that_another_page_makes_are_refused(browser: Browser, header: dict[str, str]) -> None:
    assert browser.get("/", **header)[0] == 403


def test_a_browser_that_hangs_up_or_writes_nonsense_leaves_no_traceback(
    page: Inspection, browser: Browser, capfd: pytest.CaptureFixture[str]
) -> None:
    rest = f" HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nCookie: {browser.cookie}\r\n\r\n".encode()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", page.port)) as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() says RST
            line.sendall(b"GET /" + rest)
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as line:
        line.sendall(b"GET http://[::1/x" + rest)
        assert line.recv(100).startswith(b"HTTP/1.1 400")

    assert browser.get("/")[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed_without_a_name(browser: Browser, method: str) -> None:
    for path in ("/", f"/example/{101:032x}/hold"):
        assert browser.get(path, method=method)[0] in (405, 501)
    for path in ("/queue", f"/example/{101:032x}", f"/example/{101:032x}?ask=leak"):
        text = browser.get(path)[2]
        assert "<button" not in text and "site inspect --by" in text


@pytest.fixture
def named(place: Workplace) -> Iterator[tuple[Inspection, Browser]]:
    """A page of a person with a name, and their browser."""
    inspection = Inspection(place, 0, "Dr. Panza")
    thread = threading.Thread(target=inspection.serve)
    thread.start()
    browser = Browser(inspection)
    browser.cookie = browser.get(inspection.address.partition(str(inspection.port))[2])[1]["Set-Cookie"].split(";")[0]
    yield inspection, browser
    inspection.close()
    thread.join()


def pressed(page: Inspection, browser: Browser, path: str, *, form: str = "", **headers: str) -> tuple[int, str]:
    """What a form of the page answers: its status, and where it leads."""
    sent = {
        "Origin": f"http://127.0.0.1:{page.port}", "Sec_Fetch_Site": "same-origin",
        "Content_Type": "application/x-www-form-urlencoded", **headers,
    }  # fmt: skip
    status, told, _ = browser.get(
        path, method="POST", body=form or f"token={page.pages.looking.form_token}&queue=1",
        **{name: one for name, one in sent.items() if one},
    )  # fmt: skip
    return status, told.get("Location", "")


def test_what_leaks_is_held_in_the_page(named: tuple[Inspection, Browser], place: Workplace) -> None:
    page, browser = named
    asked = browser.get(f"/example/{102:032x}?queue=1&ask=leak")[2]
    assert "Hold this example?" in asked and "1 example with 1 picture" in asked and "autofocus" in asked

    assert pressed(page, browser, f"/example/{102:032x}/hold") == (303, f"/example/{101:032x}?queue=1")
    with place.open_store() as store:
        assert store.count() == 2 and store.held()["leak-found"] == 1
    assert "Held: 1 example. This is another data set now." in browser.get("/queue")[2]
    assert "Held: 1" not in browser.get("/queue")[2] and browser.get(f"/picture/{2:032x}.png")[0] == 404
    assert browser.get(f"/example/{102:032x}")[0] == pressed(page, browser, f"/example/{102:032x}/hold")[0] == 404
    [text] = [path.read_text() for path in (place.store_folder / "attestations").iterdir()]
    assert '"person":"Dr. Panza"' in text and '"kind":"hold"' in text


def test_a_device_group_is_held_and_the_release_is_void(named: tuple[Inspection, Browser], place: Workplace) -> None:
    page, browser = named
    with place.open_store() as store:
        place.releases().append(Release("release", store.digest(), "ab" * 32, "P", "2026-01-01T00:00:00Z"))
    assert "2 examples with 2 pictures" in browser.get(f"/example/{101:032x}?ask=group")[2]
    form = f"token={page.pages.looking.form_token}"
    status, where = pressed(page, browser, f"/example/{101:032x}/hold-group", form=form)

    assert (status, where) == (303, f"/example/{103:032x}?")
    assert "its release is void" in browser.get(where)[2] and "Not released" in browser.get("/")[2]


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"form": "token=guess"}, 403), ({"form": "x=1"}, 403), ({"form": "token=" + "x" * 5000}, 403),
        ({"Origin": ""}, 403), ({"Origin": "null"}, 403), ({"Origin": "http://evil.example"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403), ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "none"}, 403), ({"Host": "evil.example"}, 403), ({"Content_Type": "text/plain"}, 403),
        ({"Cookie": "wardround=guess"}, 403), ({"Content_Length": "-1"}, 403), ({"Content_Length": "x"}, 403),
    ],
)  # fmt: skip
def test_a_form_that_is_not_of_this_page_changes_nothing(
    named: tuple[Inspection, Browser], place: Workplace, how: dict[str, str], status: int
) -> None:
    page, browser = named

    assert pressed(page, browser, f"/example/{101:032x}/hold", **how)[0] == status
    with place.open_store() as store:
        assert store.count() == 3


@pytest.mark.parametrize(
    "path",
    ["/", "/queue", "/held?x=1", "/example/x/hold", f"/example/{999:032x}/hold", f"/example/{101:032x}",
     f"/example/{101:032x}/erase", f"/example/{101:032x}/hold/x"],
)  # fmt: skip
def test_a_form_for_something_that_is_not_there_changes_nothing(
    named: tuple[Inspection, Browser], place: Workplace, path: str
) -> None:
    assert pressed(*named, path)[0] == 404
    with place.open_store() as store:
        assert store.count() == 3


def test_a_hold_that_fails_says_why_on_the_page(
    named: tuple[Inspection, Browser], place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.imaging.store._LOCK_PAUSE_S", 0.0)
    page, browser = named
    with place.open_store() as other, other.batch():
        _, where = pressed(page, browser, f"/example/{101:032x}/hold")

        assert where == f"/example/{101:032x}?queue=1"
    assert "Not held: another process is writing to the store. Wait" in browser.get(where)[2]


def test_what_was_looked_at_is_counted_in_the_order_of_the_queue(
    named: tuple[Inspection, Browser], place: Workplace
) -> None:
    """101 and 102 are of one device group, 103 of another; 104, with a blanked part, comes before all of them."""
    profile = DeidProfile.shipped()
    with place.open_store() as store:
        shown = CleanPicture(
            f"{4:032x}", encode_png(np.full((8, 9), 4, np.uint8)), 8, 9, PictureFields("CR", blanked_share=0.1)
        )
        said = (CleanExample(f"{104:032x}", (Turn("q", "a"),)),)
        store.add(CleanStudy(f"{4:032x}", "s", (shown,), said, profile_digest=profile.digest))
    page, browser = named
    order, where = [], "/example/" + browser.get("/queue")[2].partition("queue=1")[0].rpartition("/example/")[2]
    assert "0 looked at" in browser.get("/queue")[2]
    while where != "/queue":
        order.append(int(where.removeprefix("/example/").partition("?")[0], 16))
        where = pressed(page, browser, f"/example/{order[-1]:032x}/clean")[1]
        if order[-1] == 103:
            assert "3 looked at" not in browser.get("/held")[2] and "<b>3 looked at</b>" in browser.get("/queue")[2]

    assert order == [104, 101, 103, 102]
    assert "4 looked at" in browser.get("/queue")[2] and "You have looked at every example" in browser.get("/queue")[2]
    assert "You looked at this one." in browser.get(f"/example/{101:032x}")[2]


def test_only_a_gapless_beginning_of_the_rest_proves_something(place: Workplace) -> None:
    profile = DeidProfile.shipped()
    with place.open_store() as store:
        for number in range(200, 210):
            shown = CleanPicture(f"{number:032x}", encode_png(np.full((8, 9), 4, np.uint8)), 8, 9, PictureFields("CR"))
            said = (CleanExample(f"{number:032x}", (Turn("q", "a"),)),)
            store.add(CleanStudy(f"{number:032x}", "s", (shown,), said, profile_digest=profile.digest))
        looking = Looking("P")
        rest = looking.queue(store).totals[2]
        for number in (102, 200, 201, 205):
            looking.mark_clean(store, f"{number:032x}")
        progress = looking.progress(store)

        assert rest == 11 and progress.looked == 4 and progress.sample == 3
        assert looking.next(store, f"{201:032x}") == f"{202:032x}" and looking.next(store) == f"{101:032x}"
        assert looking.beside(store, f"{202:032x}") == (f"{201:032x}", f"{203:032x}")
        assert looking.beside(store, "f" * 32) == ("", "")


@pytest.mark.parametrize(("looked_at", "bound"), [(0, "100 %"), (3, "100 %"), (7, "43 %"), (300, "1 %")])
def test_what_was_looked_at_bounds_the_rate_of_leaks(looked_at: int, bound: str) -> None:
    assert rate_bound(looked_at) == bound


def test_a_page_computes_the_digest_once_until_somebody_writes(
    place: Workplace, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, compute = list[int](), Store._computed_digest

    def counted(store: Store) -> str:
        computed.append(1)
        return compute(store)

    monkeypatch.setattr(Store, "_computed_digest", counted)
    for path in ("/", "/held", "/queue", f"/example/{101:032x}", f"/picture/{1:032x}.png", "/"):
        assert browser.get(path)[0] == 200
    assert len(computed) == 1
    with place.open_store() as store:
        store.erase(f"{2:032x}")
        digest = store.digest()

    assert digest in browser.get("/")[2] and len(computed) == 3


def test_a_name_that_no_record_can_hold_opens_no_page(place: Workplace) -> None:
    with pytest.raises(FormatError):
        Inspection(place, 0, "a\nb")


@pytest.mark.parametrize("path", ["/", "/held", "/queue", f"/example/{101:032x}"])
def test_every_page_forbids_what_it_does_not_need_and_loads_nothing_from_elsewhere(browser: Browser, path: str) -> None:
    status, headers, text = browser.get(path)

    assert status == 200 and headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "same-origin"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert not re.findall(r'(?:src|href|action)="(?!/|data:,|#)', text) and " style=" not in text
    assert not re.search(r"https?://", text + browser.get("/style.css")[2] + browser.get("/keys.js")[2])


def test_the_overview_says_what_there_is(place: Workplace, browser: Browser) -> None:
    _, _, text = browser.get("/")

    assert "Not released" in text and text.count('class="card"') == 3
    with place.open_store() as store:
        digest = store.digest()
    assert digest in text and f"site release {digest[:12]}" in text
    place.releases().append(Release("release", digest, "ab" * 32, "Dr. <Panza>", "2026-01-01T00:00:00Z"))
    assert "Released by Dr. &lt;Panza&gt;" in browser.get("/")[2]


@pytest.mark.parametrize(
    ("query", "found"),
    [("q=clear_l", 1), ("q=clearxl", 0), ("q=100%25", 1), ("q=%25", 1), ("modality=CR", 2), ("only=marked", 1),
     ("modality=CT&q=clear", 1), ("only=blanked", 0), ("q=%27%22%5C%00", 0), (f"after={101:032x}", 2), ("after=x", 3)],
)  # fmt: skip
def test_the_search_finds_words_and_kinds(browser: Browser, query: str, found: int) -> None:
    assert browser.get("/?" + query)[2].count('class="card"') == found


def test_an_example_shows_its_words_fields_and_neighbours(browser: Browser) -> None:
    _, _, text = browser.get(f"/example/{101:032x}")
    second = browser.get(f"/example/{102:032x}")[2]

    assert "<mark>DATE</mark>" in text and "<dd>80.0</dd>" in text and "90 or more" in text
    assert "1 more of this patient" in text and 'rel="next"' in text and 'rel="prev"' not in text
    assert EVIL not in second and "&lt;script&gt;" in second
    assert browser.get(f"/example/{999:032x}")[0] == browser.get("/example/../../secret")[0] == 404


def test_pictures_are_those_of_the_store_and_a_changed_one_is_not_shown(place: Workplace, browser: Browser) -> None:
    assert browser.get(f"/picture/{1:032x}.png")[0] == browser.get(f"/thumb/{1:032x}.png")[0] == 200
    [path] = place.store_folder.rglob(f"{1:032x}.png")
    path.write_bytes(encode_png(np.full((8, 9), 77, np.uint8)))

    assert browser.get(f"/picture/{1:032x}.png")[0] == 500
    assert browser.get(f"/picture/{999:032x}.png")[0] == browser.get("/picture/../secret.png")[0] == 404


def test_what_was_held_back_has_its_reason_and_what_to_do(browser: Browser) -> None:
    _, _, text = browser.get("/held")

    assert "burned-in" in text and "text may be burned into the pixels" in text


def test_what_was_held_back_is_listed_a_page_at_a_time(place: Workplace, browser: Browser) -> None:
    with place.open_store() as store, store.batch():
        for number in range(60):
            store.hold(f"{number:016x}", "truncated", kind="file", modality="CR")
    _, _, first = browser.get("/held")
    following = re.search(r"/held\?after=([0-9a-f]+)", first)
    assert following is not None and "report row with its images" not in first and "file, CR" in first
    _, _, second = browser.get(following[0])

    found = re.findall(r"<code>([0-9a-f]{16})</code>", first + second)
    assert found == [f"{number:016x}" for number in range(60)] and "Next page" not in second
    assert browser.get("/held?after=%27%20OR%201=1")[2].count("<code>0000") == 48


def test_without_a_store_or_with_a_taken_port_there_is_one_error(
    tmp_path: Path, page: Inspection, place: Workplace
) -> None:
    with pytest.raises(DataError) as taken:
        Inspection(place, page.port)
    shutil.rmtree(place.store_folder)
    with pytest.raises(StoreError) as absent:
        Inspection(place, 0)

    assert (taken.value.code, absent.value.code) == ("receiver", "store-damaged")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser here")
def test_a_real_browser_shows_the_page(page: Inspection, tmp_path: Path) -> None:
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, "--dump-dom", page.address], capture_output=True, timeout=300)
    text = done.stdout.decode()

    assert "Nothing trains on this yet" in text and text.count('class="card"') == 3


@pytest.mark.skipif(found() is None, reason="needs Chromium")
def test_a_person_looks_through_it_in_a_real_browser_by_keyboard(page: Inspection, tmp_path: Path) -> None:
    with RealBrowser(tmp_path, width=1000) as browser:
        browser.open(page.address)
        browser.until("document.querySelectorAll('a.card img').length == 3")
        browser.until("[...document.querySelectorAll('a.card img')].every(one => one.naturalWidth > 0)")
        browser.press("ArrowRight")
        first = browser.tell("document.activeElement.href")
        browser.press("ArrowRight")
        second = browser.tell("document.activeElement.href")
        browser.press("Enter")
        browser.until(f"location.href == {second!r} && document.readyState == 'complete'")
        words = browser.tell("document.body.innerText")
        browser.press("Escape")
        browser.until("document.querySelectorAll('a.card').length == 3")

        assert first != second and "What is there?" in words
        assert browser.tell("typeof window.alerted") == "undefined" and browser.complaints == []
        own = f"http://127.0.0.1:{page.port}/"
        assert all(request.startswith((own, "data:")) for request in browser.requests)


@pytest.mark.skipif(found() is None, reason="needs Chromium")
def test_a_person_marks_and_holds_by_keyboard_and_is_asked_once_more(
    named: tuple[Inspection, Browser], place: Workplace, tmp_path: Path
) -> None:
    page, _ = named
    page._token = "again"  # the other browser has used the first
    with RealBrowser(tmp_path, width=1000) as browser:

        def arrives(at: str) -> None:
            browser.until(
                f"(location.pathname + location.search).includes({at!r}) && document.readyState == 'complete'"
            )

        browser.open(f"http://127.0.0.1:{page.port}/queue?token=again")
        browser.press("n")
        arrives(f"{101:032x}?queue=1")
        browser.press("j")
        arrives(f"{103:032x}?queue=1")
        browser.press("k")
        arrives(f"{101:032x}?queue=1")
        browser.press("n")
        arrives(f"{103:032x}?queue=1")
        browser.press("l")
        arrives("ask=leak")
        browser.press("Escape")
        arrives(f"{103:032x}?queue=1")
        browser.until("!location.search.includes('ask')")
        browser.press("l")
        arrives("ask=leak")
        with place.open_store() as store:
            assert store.count() == 3
        browser.press("Enter")
        arrives(f"{102:032x}?queue=1")
        browser.until("document.querySelector('.notice') !== null")

        with place.open_store() as store:
            assert store.count() == 2 and store.held()["leak-found"] == 1
        assert browser.complaints == []
