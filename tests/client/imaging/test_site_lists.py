import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest

from client.imaging import workers
from client.imaging.ingest import _cleaned, ingest
from client.imaging.joined import Join
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.site_lists import SiteLists, read_joins
from client.imaging.store import Store
from federation.errors import DataError, FedError, SettingsError


@dataclass(frozen=True)
class Names:
    staff: str | None = None
    places: str | None = None
    patients: str | None = None


def read(folder: Path, which: str, data: bytes) -> SiteLists:
    (folder / "list").write_bytes(data)
    return SiteLists.read(folder, Names(**{which: "list"}))


def test_a_site_without_lists_has_none(tmp_path: Path, keys: SiteKeys) -> None:
    lists = SiteLists.read(tmp_path, Names())

    assert lists.entries == {} == lists.attested(keys) and lists.joined.current("", "a") == "a"


def test_comments_blank_lines_windows_ends_and_a_mark_of_order_are_no_entries(tmp_path: Path, keys: SiteKeys) -> None:
    one = read(tmp_path, "staff", b"\xef\xbb\xbf# nurses\r\n\r\nVance, Ana\r\n  Kvothe  \r\n")
    other = read(tmp_path, "staff", b"Kvothe\nVance,  Ana\nKvothe")

    assert one.entries["staff"].count == 2 and one.listed.rare == other.listed.rare >= {"vance", "kvothe"}
    assert one.attested(keys) == other.attested(keys) and "hidden" in repr(one)
    assert one.attested(keys) != one.attested(SiteKeys.from_secret(bytes(32)))


def test_joined_records_are_read_by_their_columns(tmp_path: Path) -> None:
    lists = read(tmp_path, "patients", b'Issuer, current_id,old_id\nNorth,"A,1",  b2 \n,,\n,C,D\n')

    assert lists.joined.current("north", "b2") == "a,1" and lists.joined.current("", "d") == "c"
    assert lists.entries["patients"].count == 2


@pytest.mark.parametrize(
    ("which", "data", "says"),
    [
        ("staff", b"Vance\nLuc\xedo\n", "line 2 of the file of data.staff is not UTF-8"),
        ("staff", "Vance\n".encode("utf-16"), "line 1 of the file of data.staff is not UTF-8"),
        ("staff", b"Vance\n" + b"Quixano " * 30, "line 2 of the file of data.staff has more than 200"),
        ("staff", b"Vance\n\nQ", "line 3 of the file of data.staff has no word of two letters"),
        ("staff", b"Q. X.", "line 1 of the file of data.staff has no word of two letters"),
        ("staff", b"pleural effusion", "line 1 of the file of data.staff has plain words only"),
        ("staff", b"Vance\n\nleft lung", "line 3 of the file of data.staff has plain words only"),
        ("staff", b"4711;Quixano;Ana", "line 1 of the file of data.staff has more than a name"),
        ("staff", b"Quixano # left in May", "line 1 of the file of data.staff has more than a name"),
        ("staff", b"Quix\0ano", "line 1 of the file of data.staff has a character"),
        ("staff", b"Vance\n" * 200_001, "the file of data.staff has more than 200000 names"),
        ("places", b"Toboso\n4", "line 2 of the file of data.places has no word of two letters"),
        ("places", b"Toboso # closed", "line 1 of the file of data.places has a comment"),
        ("patients", b"", "line 1 of the file of data.patients has another header"),
        ("patients", b"old_id;current_id\n", "line 1 of the file of data.patients has another header"),
        ("patients", b"old_id,current_id,name\nQ1,Q2,Quixano", "line 1 of the file of data.patients has another"),
        ("patients", b"old_id,old_id\nQ1,Q2", "line 1 of the file of data.patients has another header"),
        ("patients", b"old_id,current_id\nQ1", "line 2 of the file of data.patients has not as many cells"),
        ("patients", b"old_id,current_id\nQ1,", "line 2 of the file of data.patients has no id"),
        ("patients", b'old_id,current_id\nQ1,Q2\n"Q3,Q4\n', "line 3 of the file of data.patients has a quote"),
        (
            "patients",
            b"old_id,current_id\nQ1,Q2\nq2, Q1\n",
            "line 3 of the file of data.patients joins an id to itself",
        ),
        (
            "patients",
            b"old_id,current_id\nQ1,Q2\nQ1,Q3\n",
            "line 3 of the file of data.patients joins the id of line 2",
        ),
    ],
)
def test_what_is_wrong_is_told_by_its_line_and_never_repeated(
    tmp_path: Path, which: str, data: bytes, says: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, which, data)

    assert caught.value.code == "site-list" and caught.value.message.startswith(says) and caught.value.hint
    assert not [word for word in ("Quix", "Q1", "Q2", "Q3", "4711", "effusion") if word in caught.value.message]


@pytest.mark.parametrize("staff", ["absent", ".", "pipe", "x" * 300])
def test_a_file_that_is_none_is_said_to_be_absent(tmp_path: Path, staff: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError) as caught:
        SiteLists.read(tmp_path, Names(staff=staff))

    assert caught.value.code == "settings-absent" and "data.staff" in caught.value.message


@pytest.mark.parametrize(
    "name", ["Hope Long", "Rose Ward", "Rose White", "Mark Brown", "Ng", "O'Brien, Una", "王明", "Ян Ли"]
)
def test_a_name_of_words_that_may_be_names_is_taken(tmp_path: Path, name: str) -> None:
    try:
        assert read(tmp_path, "staff", name.encode()).entries["staff"].count == 1
    except FedError as error:
        pytest.fail(error.message)


def test_rows_of_joined_records_hold_where_they_stand(tmp_path: Path) -> None:
    assert read_joins('old_id,current_id\r\n"A",B\r\n') == [Join(2, "", "a", "b")]


def test_a_worker_is_sent_the_lists_once_and_not_with_every_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hospital: Path, store: Store, profile: DeidProfile, keys: SiteKeys
) -> None:
    lists = read(tmp_path, "staff", b"Quixanoa, Ana\n")
    sent = list[object]()
    give = workers._Crew._send
    monkeypatch.setattr(workers._Crew, "_send", lambda crew, hand, told: (sent.append(told), give(crew, hand, told))[1])

    counts = ingest(hospital, store, profile, keys, workers=1, listed=lists.listed)
    assert counts.accepted == 3
    taught = [each for each in sent if isinstance(each, tuple) and getattr(each[0], "func", None) is _cleaned]
    assert len(taught) == 1 and b"quixanoaana" in pickle.dumps(taught)
    assert not [each for each in sent if each is not taught[0] and b"quixanoaana" in pickle.dumps(each)]
