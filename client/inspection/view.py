"""The pages of the inspection: templates filled with what `browse` found. Everything is escaped by default."""

import io
import re
from pathlib import Path
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from client.imaging.png import decode_png
from client.imaging.store import Picture, Store
from client.inspection import browse
from client.inspection.browse import PAGE, Wanted
from client.rules_view import rules_told
from client.workplace import Workplace

_HERE = Path(__file__).parent
_KEY = re.compile(r"[0-9a-f]{32}")
_THUMB_SIDE = 360
STATIC = {"/style.css": "text/css; charset=utf-8", "/keys.js": "text/javascript; charset=utf-8"}


class Pages:
    """One site's pages. Opens the store anew for every request, so that the page shows what is there now."""

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._templates = Environment(
            loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self._overview: tuple[str, browse.Overview] | None = None

    def static(self, path: str) -> bytes:
        return (_HERE / path.removeprefix("/")).read_bytes()

    def overview(self, wanted: Wanted, after: str) -> str:
        with self._place.open_store() as store:
            found = browse.cards(store, wanted, after if _KEY.fullmatch(after) else "")
            shown = found[:PAGE]
            seen = browse.position(store, shown[-1].example_key) if shown and wanted == Wanted() else 0
            return self._filled(
                "overview.html.j2", store, cards=shown, wanted=wanted, after=after, query=_query(wanted),
                next=_query(wanted, after=shown[-1].example_key) if len(found) > PAGE else "",
                seen=seen, bound=browse.rate_bound(seen), rules=rules_told(self._place),
            )  # fmt: skip

    def example(self, key: str, wanted: Wanted) -> str | None:
        with self._place.open_store() as store:
            patient = browse.owner(store, key) if _KEY.fullmatch(key) else None
            if patient is None:
                return None
            everything = store.examples(patient)
            [example] = [one for one in everything if one.example_key == key]
            before, behind = browse.beside(store, wanted, key)
            return self._filled(
                "example.html.j2", store, example=example, wanted=wanted, query=_query(wanted), before=before,
                behind=behind, others=[one for one in everything if one.example_key != key][:24],
                others_total=len(everything) - 1, number=browse.position(store, key),
                fields=[browse.shown_fields(picture.fields) for picture in example.images],
                blanked=[round(100 * getattr(one.fields, "blanked_share", 0.0), 1) for one in example.images],
                turns=[(browse.parts(turn.question), browse.parts(turn.answer)) for turn in example.turns],
            )  # fmt: skip

    def held(self) -> str:
        with self._place.open_store() as store:
            return self._filled("held.html.j2", store)

    def picture(self, key: str, *, small: bool) -> bytes | None:
        """The stored PNG, checked against its digest, or a smaller one."""
        if _KEY.fullmatch(key) is None:
            return None
        with self._place.open_store() as store:
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

    def _filled(self, name: str, store: Store, **values: object) -> str:
        digest = store.digest()
        if self._overview is None or self._overview[0] != digest or self._overview[1].held_total != sum(
            store.held().values()
        ):  # fmt: skip
            self._overview = (digest, browse.overview(store))
        return self._templates.get_template(name).render(
            site=self._place.settings.site.id, digest=digest, release=self._place.releases().of(digest),
            about=self._overview[1], **values,
        )  # fmt: skip


def _query(wanted: Wanted, **more: str) -> str:
    """The part of an address behind the question mark that repeats what is wanted."""
    given = {"q": wanted.text, "modality": wanted.modality, "only": wanted.only, **more}
    return urlencode({name: value for name, value in given.items() if value})
