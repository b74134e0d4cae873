"""The pages of the inspection: templates filled with what `browse` found. Everything is escaped by default."""

import io
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from client.imaging.png import decode_png
from client.imaging.store import Picture, Store
from client.inspection import browse
from client.inspection.browse import PAGE, Wanted
from client.inspection.looking import Looking
from client.intake import hold_examples
from client.quarantine import KINDS
from client.rules_view import rules_told
from client.workplace import Workplace
from federation.errors import FedError

_HERE = Path(__file__).parent
_KEY = re.compile(r"[0-9a-f]{32}")
_ITEM = re.compile(r"[0-9a-f]{1,32}")
_THUMB_SIDE = 360
STATIC = {"/style.css": "text/css; charset=utf-8", "/keys.js": "text/javascript; charset=utf-8"}


class Pages:
    """One site's pages. Opens the store anew for every request, so that the page shows what is there now; its digest is
    computed again only after somebody has written, or a page of a large store would take seconds."""

    def __init__(self, place: Workplace, person: str = "") -> None:
        self._place = place
        self.looking = Looking(person)
        self._lock = Lock()
        self._watch: tuple[int, sqlite3.Connection] | None = None
        self._digest: tuple[tuple[int, int], str] | None = None
        self._templates = Environment(
            loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self._overview: tuple[str, browse.Overview] | None = None

    def close(self) -> None:
        if self._watch is not None:
            self._watch[1].close()

    def static(self, path: str) -> bytes:
        return (_HERE / path.removeprefix("/")).read_bytes()

    def overview(self, wanted: Wanted, after: str) -> str:
        with self._store() as store:
            found = browse.cards(store, wanted, after if _KEY.fullmatch(after) else "")
            shown = found[:PAGE]
            seen = browse.position(store, shown[-1].example_key) if shown and wanted == Wanted() else 0
            return self._filled(
                "overview.html.j2", store, cards=shown, wanted=wanted, after=after, query=_query(wanted),
                next=_query(wanted, after=shown[-1].example_key) if len(found) > PAGE else "",
                seen=seen, bound=browse.rate_bound(seen), rules=rules_told(self._place),
            )  # fmt: skip

    def example(self, key: str, wanted: Wanted, *, queued: bool = False, ask: str = "") -> str | None:
        """One example; `ask` `leak` or `group` asks whether it shall be held, and says what would go."""
        with self._store() as store:
            patient = browse.owner(store, key) if _KEY.fullmatch(key) else None
            if patient is None:
                return None
            everything = store.examples(patient)
            [example] = [one for one in everything if one.example_key == key]
            before, behind = self.looking.beside(store, key) if queued else browse.beside(store, wanted, key)
            asked = ask if self.looking.person and ask in ("leak", "group") else ""
            return self._filled(
                "example.html.j2", store, example=example, wanted=wanted, query=_query(wanted, queued), before=before,
                behind=behind, others=[one for one in everything if one.example_key != key][:24], queued=queued,
                others_total=len(everything) - 1, number=browse.position(store, key), ask=asked,
                reach=store.reach(key, group=asked == "group") if asked else None,
                progress=self.looking.progress(store) if queued else None, is_clean=self.looking.is_clean(key),
                devices=browse.devices(store, key),
                fields=[browse.shown_fields(picture.fields) for picture in example.images],
                blanked=[round(100 * getattr(one.fields, "blanked_share", 0.0), 1) for one in example.images],
                turns=[(browse.parts(turn.question), browse.parts(turn.answer)) for turn in example.turns],
            )  # fmt: skip

    def queue(self) -> str:
        """What there is to look at, how far it was looked at, and what that proves."""
        with self._store() as store:
            return self._filled("queue.html.j2", store, progress=self.looking.progress(store))

    def decide(self, key: str, act: str, wanted: Wanted, *, queued: bool) -> str | None:
        """Do what a person pressed: `clean`, `hold` or `hold-group`. Returns where to go on; None if it cannot be."""
        with self._store() as store:
            if _KEY.fullmatch(key) is None or browse.owner(store, key) is None:
                return None
            if act == "clean":
                self.looking.mark_clean(store, key)
        if act in ("hold", "hold-group"):
            if not self._hold(key, group=act == "hold-group"):
                return f"/example/{key}?{_query(wanted, queued)}"
        elif act != "clean":
            return None
        with self._store() as store:
            behind = self.looking.next(store, after=key) if queued else browse.beside(store, wanted, key)[1]
        if behind:
            return f"/example/{behind}?{_query(wanted, queued)}"
        return "/queue" if queued else f"/?{_query(wanted)}"

    def _hold(self, key: str, *, group: bool) -> bool:
        """The same as `wardround site hold`; what it says stands on the next page."""
        try:
            taken, was_released = hold_examples(self._place, [key], self.looking.person, group=group)
        except FedError as error:
            self.looking.notice(f"Not held: {error.message}. {error.hint[:1].upper()}{error.hint[1:]}.")
            return False
        self.looking.mark_held(taken.examples)
        said = f"Held: {taken.examples:,} example{'s' * (taken.examples != 1)}. This is another data set now"
        self.looking.notice(said + ("; its release is void." if was_released else "."))
        return True

    def held(self, after: str) -> str:
        with self._store() as store:
            found = store.held_items(after=after if _ITEM.fullmatch(after) else "", most=PAGE + 1)
            shown = found[:PAGE]
            return self._filled(
                "held.html.j2", store, items=shown, kinds=KINDS, after=after,
                next=_query(Wanted(), after=shown[-1].item) if len(found) > PAGE else "",
            )  # fmt: skip

    def picture(self, key: str, *, small: bool) -> bytes | None:
        """The stored PNG, checked against its digest, or a smaller one."""
        if _KEY.fullmatch(key) is None:
            return None
        with self._store() as store:
            picture: Picture | None = store.picture(key)
            if picture is None:
                return None
            data = picture.png()
        if not small:
            return data
        image = Image.fromarray(decode_png(data))
        image.thumbnail((_THUMB_SIDE, _THUMB_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    @contextmanager
    def _store(self) -> Iterator[Store]:
        with self._place.open_store() as store:
            with self._lock:
                version = self._version(store)
                if self._digest is not None and self._digest[0] == version:
                    store.take_digest(self._digest[1])
                else:
                    self._digest = (version, store.digest())
            yield store

    def _version(self, store: Store) -> tuple[int, int]:
        """Changes whenever somebody writes to the index: SQLite tells a connection that stays open."""
        path = store.folder / "index.sqlite"
        inode = path.stat().st_ino
        if self._watch is None or self._watch[0] != inode:
            self._watch = (inode, sqlite3.connect(path, check_same_thread=False))
        return inode, int(self._watch[1].execute("PRAGMA data_version").fetchone()[0])

    def _filled(self, name: str, store: Store, **values: object) -> str:
        digest = store.digest()
        if self._overview is None or self._overview[0] != digest or self._overview[1].held_total != sum(
            store.held().values()
        ):  # fmt: skip
            self._overview = (digest, browse.overview(store))
        return self._templates.get_template(name).render(
            site=self._place.settings.site.id, digest=digest, release=self._place.releases().of(digest),
            about=self._overview[1], person=self.looking.person, form_token=self.looking.form_token,
            notice=self.looking.take_notice(), **values,
        )  # fmt: skip


def _query(wanted: Wanted, queued: bool = False, **more: str) -> str:
    """The part of an address behind the question mark that repeats what is wanted."""
    given = {"q": wanted.text, "modality": wanted.modality, "only": wanted.only, **more}
    if queued:
        return "queue=1"
    return urlencode({name: value for name, value in given.items() if value})
