"""Both doors together: what a hostile carrier does is refused by code and logged, and honest words pass unchanged."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from client.signed_site import RosterFile, SignedSite
from federation import messages
from federation.errors import TrustError
from federation.messages import Answer, Payload, Question, answer_to
from federation.trust import entries, times
from federation.trust import roster as rosters
from federation.trust.envelope import CLOCK_TOLERANCE_S
from federation.trust.keys import SigningKey
from federation.trust.roster import Member, Officer, Roster, SignedRoster
from federation.trust.translog import TransLog
from server.signed_link import SignedLink

NOW = times.seconds("2026-01-01T00:00:00Z")
OFFICER, COORDINATOR, LOG, NORTH, SOUTH, STRANGER = (SigningKey.from_seed(bytes([n]) * 32) for n in range(1, 7))
KEYS = {"north": NORTH, "south": SOUTH}


def signed(roster: Roster) -> SignedRoster:
    return SignedRoster(roster).signed_by(OFFICER)


ROSTER = Roster(
    "lung", 1, times.text(NOW), times.text(NOW + 30 * times.DAY_S), None, (Officer("anna", OFFICER.public),), 1,
    COORDINATOR.public, LOG.public,
    tuple(Member(site, site, site, key.public, "none") for site, key in KEYS.items()),
)  # fmt: skip
SECOND = rosters.successor(ROSTER, issued_s=NOW + 5)


class Plain:
    """A site behind its door: it remembers what it was asked."""

    def __init__(self, site_id: str) -> None:
        self.site_id = site_id
        self.asked: list[Question] = []

    def answer(self, question: Question) -> Answer:
        self.asked.append(question)
        return answer_to(question, "update", {}, Payload(b"update of " + self.site_id.encode()))


class Federation:
    """Two sites, a coordinator, and a carrier between them that does what it is told."""

    def __init__(self, folder, *, site_rosters=(ROSTER,), rosters_=(ROSTER,)) -> None:
        self.folder, self.now = folder, float(NOW)
        self.plain = {site: Plain(site) for site in KEYS}
        self.on_the_way: Callable[[Question], Question] = lambda question: question
        self.on_the_way_back: Callable[[Answer], list[Answer]] = lambda answer: [answer]
        self.doors = {}
        for site in KEYS:
            RosterFile.create(folder / f"{site}.roster.json", signed(site_rosters[-1]))
            self.doors[site] = self.open_door(site)
        self.log = TransLog.open(folder / "log", "lung/run", LOG)
        self.link = SignedLink(self, COORDINATOR, [signed(one) for one in rosters_], self.log, clock=self.clock)

    def open_door(self, site: str, **options) -> SignedSite:
        log = TransLog.open(self.folder / f"{site}.log", f"lung/{site}", KEYS[site])
        roster = RosterFile.open(self.folder / f"{site}.roster.json")
        return SignedSite(self.plain[site], KEYS[site], roster, log, clock=self.clock, **options)

    def clock(self) -> float:
        return self.now

    def site_ids(self):
        return ("north", "south", "west")

    def ask(self, questions, *, deadline_s):
        for question in questions:
            sent = self.on_the_way(messages.read(question.header, question.payload, question.seal))
            yield from self.on_the_way_back(self.doors[sent.site_id].answer(sent))

    def close(self):
        self.log.close()
        for door in self.doors.values():
            door.log.close()


@pytest.fixture
def federation(tmp_path):
    opened = []

    def make(**options):
        opened.append(Federation(tmp_path, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def question(site="north", round_number=1, kind="train", body=None) -> Question:
    return Question(kind, "run", round_number, site, "cc" * 32, body or {}, Payload(b"adapter"))


def heard(federation: Federation, *asked: Question) -> list[tuple[str, str]]:
    """Site and kind of every answer; of a failure, its code."""
    answers = federation.link.ask(asked or [question("north"), question("south")], deadline_s=60)
    return [(answer.site_id, str(answer.body.get("code", answer.kind))) for answer in answers]


def logged(log: TransLog) -> list[str]:
    return [str(entry.get("code", entry["type"])) for entry in log.entries]


BOTH = [("north", "update"), ("south", "update")]


def test_honest_words_pass_and_both_sides_write_them_down(federation):
    whole = federation()

    assert heard(whole) == BOTH
    assert logged(whole.log) == ["question", "question", "answer", "answer"]
    assert logged(whole.doors["north"].log) == ["question", "answer"]


def test_only_active_members_are_asked(federation):
    assert federation().link.site_ids() == ("north", "south")


def test_asked_again_the_bytes_are_the_same(federation):
    whole = federation()
    first = list(whole.link.ask([question()], deadline_s=60))
    again = list(whole.link.ask([question()], deadline_s=60))

    assert [messages.dump(answer) + answer.seal for answer in first] == [
        messages.dump(answer) + answer.seal for answer in again
    ]


def resealed(question: Question, key: SigningKey) -> Question:
    from federation.trust import envelope

    head = entries.LogHead(0, "0" * 64)
    return envelope.seal_question(
        replace(question, seal=b""), key, roster_digest=ROSTER.digest(), issued_s=NOW, expires_s=NOW + 60, head=head
    )


ON_THE_WAY = {
    "unsigned": lambda question: replace(question, seal=b""),
    "signature": lambda question: resealed(question, STRANGER),
    "wrong-message": lambda question: replace(question, payload=Payload(b"another adapter")),
    "wrong-round": lambda question: replace(question, round_number=9),
    "wrong-run": lambda question: replace(question, run_id="other"),
    "wrong-plan": lambda question: replace(question, plan_digest="dd" * 32),
    "envelope-damaged": lambda question: replace(question, seal=question.seal + b" "),
}


@pytest.mark.parametrize("code", ON_THE_WAY)
def test_what_a_carrier_does_to_a_question_is_refused_before_the_site_hears_it(federation, code):
    whole = federation()
    whole.on_the_way = lambda question: ON_THE_WAY[code](question) if question.site_id == "north" else question
    told = dict(heard(whole))

    assert whole.plain["north"].asked == [] and told["south"] == "update"
    assert logged(whole.doors["north"].log) == [code]
    assert told["north"] != "update"


ON_THE_WAY_BACK = {
    "unsigned": lambda answer: [replace(answer, seal=b"")],
    "signature": lambda answer: [
        replace(answer, seal=answer.seal.replace(b'"signature":"', b'"signature":"0', 1)[:-1])
    ],
    "wrong-message": lambda answer: [replace(answer, payload=Payload(b"another update"))],
    "wrong-question": lambda answer: [replace(answer, question_digest="0" * 64)],
}


@pytest.mark.parametrize("code", ON_THE_WAY_BACK)
def test_what_a_carrier_does_to_an_answer_is_refused_and_the_site_is_named(federation, code):
    whole = federation()
    whole.on_the_way_back = lambda answer: ON_THE_WAY_BACK[code](answer) if answer.site_id == "north" else [answer]
    told = heard(whole)

    assert told[0] == ("south", "update") and told[1][0] == "north" and told[1][1] != "update"
    assert code in (told[1][1], "signature") and told[1][1] in logged(whole.log)


def test_junk_before_the_true_answer_does_not_displace_it(federation):
    whole = federation()
    whole.on_the_way_back = lambda answer: [replace(answer, seal=b""), answer]

    assert heard(whole) == BOTH
    assert logged(whole.log).count("unsigned") == 2


def test_one_sites_answer_is_not_anothers(federation):
    whole = federation()
    whole.on_the_way_back = lambda answer: [replace(answer, site_id="south" if answer.site_id == "north" else "north")]

    assert sorted(heard(whole)) == [("north", "signature"), ("south", "signature")]


def test_an_answer_of_the_round_before_is_refused(federation):
    whole = federation()
    [early] = whole.link.ask([question()], deadline_s=60)
    whole.on_the_way_back = lambda answer: [early]

    assert heard(whole, question(round_number=2)) == [("north", "wrong-round")]


def test_a_question_of_an_earlier_round_is_refused_even_after_a_restart(federation):
    whole = federation()
    sent = []
    whole.on_the_way = lambda question: sent.append(question) or question
    assert heard(whole, question(round_number=1)) and heard(whole, question(round_number=2))

    assert whole.doors["north"].answer(sent[0]).body["code"] == "replayed"
    whole.doors["north"].log.close()
    whole.doors["north"] = whole.open_door("north")
    assert whole.doors["north"].answer(sent[0]).body["code"] == "replayed"
    assert whole.doors["north"].answer(sent[1]).kind == "update"  # this round's: the same answer, nothing new
    assert len(whole.plain["north"].asked) == 3


def test_a_late_question_is_refused_and_so_is_one_from_the_future(federation):
    whole = federation()
    sent = []
    whole.on_the_way = lambda question: sent.append(question) or question
    assert heard(whole, question()) == [("north", "update")]

    whole.now = NOW + 60 + CLOCK_TOLERANCE_S + 1
    assert whole.doors["north"].answer(sent[0]).body["code"] == "late"
    whole.now = NOW - CLOCK_TOLERANCE_S - 1
    assert whole.doors["north"].answer(sent[0]).body["code"] == "clock"


def test_a_question_for_another_site_is_refused_and_not_signed(federation):
    whole = federation()
    sent = []
    whole.on_the_way = lambda question: sent.append(question) or question
    heard(whole, question("north"))
    answer = whole.doors["south"].answer(sent[0])

    assert (answer.kind, answer.body["code"], answer.seal) == ("failure", "wrong-site", b"")


def test_an_oversized_question_is_refused_unread(federation):
    whole = federation()
    whole.doors["north"].log.close()
    whole.doors["north"] = whole.open_door("north", message_bytes_max=100)

    assert heard(whole, question()) == [("north", "oversized")]


def test_a_site_with_an_older_roster_is_sent_the_later_ones_and_answers(federation):
    whole = federation(rosters_=(ROSTER, SECOND))

    assert heard(whole) == BOTH
    assert RosterFile.open(whole.folder / "north.roster.json").current == signed(SECOND)
    assert logged(whole.log)[:4] == ["question", "question", "wrong-roster", "wrong-roster"]


def test_a_coordinator_with_an_older_roster_is_refused(federation):
    whole = federation(site_rosters=(ROSTER, SECOND))

    assert heard(whole, question()) == [("north", "wrong-roster")]
    assert whole.plain["north"].asked == []


def test_rosters_sent_along_need_their_officers(federation):
    whole = federation()
    whole.link = SignedLink(
        whole, COORDINATOR, [signed(ROSTER), SignedRoster(SECOND).signed_by(STRANGER)], whole.log, clock=whole.clock
    )

    assert heard(whole, question()) == [("north", "wrong-roster")]
    assert RosterFile.open(whole.folder / "north.roster.json").current == signed(ROSTER)


def test_an_expired_roster_stops_both_sides_with_a_hint(federation):
    whole = federation()
    sent = []
    whole.on_the_way = lambda question: sent.append(question) or question
    heard(whole, question())
    whole.now = NOW + 31 * times.DAY_S

    assert whole.doors["north"].answer(sent[0]).body["code"] == "roster-expired"
    with pytest.raises(TrustError, match="roster 1 expired on 2026-01-31") as caught:
        heard(whole, question())
    assert "wardround coordinator renew" in caught.value.hint


def test_a_revoked_site_is_not_asked_and_would_not_be_heard(federation):
    revoked = rosters.successor(ROSTER, issued_s=NOW, sites=rosters.without_member(ROSTER, "north"))
    whole = federation(rosters_=(ROSTER, revoked))

    assert whole.link.site_ids() == ("south",)
    with pytest.raises(TrustError) as caught:
        heard(whole, question("north"))
    assert caught.value.code == "roster-site"


def test_a_log_that_shrank_or_changed_is_a_fork(federation, tmp_path):
    whole = federation()
    heard(whole)
    heard(whole)
    (tmp_path / "second").mkdir()
    other = TransLog.open(tmp_path / "second" / "log", "lung/run", LOG)
    whole.link = SignedLink(whole, COORDINATOR, [signed(ROSTER)], other, clock=whole.clock)

    assert heard(whole, question(round_number=2)) == [("north", "log-fork")]
    other.close()


def test_a_second_log_that_grew_longer_is_found_too(federation, tmp_path):
    """A split view: what the site saw is not in it, however many entries it has."""
    whole = federation()
    heard(whole)
    heard(whole)
    (tmp_path / "second").mkdir()
    with TransLog.open(tmp_path / "second" / "log", "lung/run", LOG) as other:
        other.append(*({"type": "note", "number": number} for number in range(50)))
        whole.link = SignedLink(whole, COORDINATOR, [signed(ROSTER)], other, clock=whole.clock)
        assert heard(whole, question(round_number=2)) == [("north", "log-fork")]


def test_a_site_that_missed_questions_or_whose_coordinator_restarted_still_gets_its_proof(federation):
    whole = federation()
    heard(whole)
    whole.on_the_way_back = lambda answer: []  # heard by the site, lost on the way back
    assert heard(whole) == []
    whole.on_the_way = lambda question: replace(question, seal=b"")  # not heard
    for round_number in (2, 3):
        assert heard(whole, question(round_number=round_number)) == []
    whole.log.close()
    whole.log = TransLog.open(whole.folder / "log", "lung/run", LOG)
    whole.link = SignedLink(whole, COORDINATOR, [signed(ROSTER)], whole.log, clock=whole.clock)
    whole.on_the_way, whole.on_the_way_back = lambda question: question, lambda answer: [answer]

    assert heard(whole, question(round_number=4)) == [("north", "update")]
    assert heard(whole, question("south", round_number=4)) == [("south", "update")]


def test_another_key_than_the_rosters_is_refused_at_once(federation):
    whole = federation()
    with pytest.raises(TrustError) as caught:
        SignedLink(whole, STRANGER, [signed(ROSTER)], whole.log, clock=whole.clock)

    assert caught.value.code == "roster-key"


def test_a_flood_of_junk_does_not_fill_the_disk(federation, monkeypatch):
    monkeypatch.setattr("client.signed_site.REFUSED_LINES_MAX", 3)
    whole = federation()
    for _ in range(10):
        assert whole.doors["north"].answer(question()).body["code"] == "unsigned"

    assert logged(whole.doors["north"].log) == ["unsigned"] * 3


def test_repetitions_on_the_way_do_not_fill_the_disk(federation):
    whole = federation()
    sent = []
    whole.on_the_way = lambda question: sent.append(question) or question
    whole.on_the_way_back = lambda answer: [answer] * 5
    assert heard(whole, question()) == [("north", "update")] * 5
    first = whole.doors["north"].answer(sent[0])
    again = [whole.doors["north"].answer(sent[0]) for _ in range(5)]

    assert all(answer == first and answer.seal == first.seal for answer in again)
    assert logged(whole.doors["north"].log) == logged(whole.log) == ["question", "answer"]


def test_a_seal_nested_without_end_is_refused_on_both_sides(federation):
    deep = b'{"along":{},"signature":"","statement":' + b'{"a":' * 200 + b"0" + b"}" * 200 + b"}"
    whole = federation()
    whole.on_the_way_back = lambda answer: [replace(answer, seal=deep)]

    assert whole.doors["north"].answer(replace(question(), seal=deep)).kind == "failure"
    assert [kind not in ("update", "internal") for _, kind in heard(whole)] == [True, True]


def test_a_door_that_cannot_write_its_log_answers_so_and_asks_nobody(federation):
    whole = federation()
    whole.doors["north"].log.close()

    assert heard(whole, question()) == [("north", "log-write")]
    assert whole.plain["north"].asked == []


def test_a_door_takes_the_new_key_when_a_roster_names_it_and_a_roster_that_a_person_put_there(federation):
    new = SigningKey.from_seed(bytes([9]) * 32)
    member = replace(ROSTER.member("north"), identity=new.public, retiring=NORTH.public)
    during = rosters.successor(ROSTER, issued_s=NOW, sites=rosters.with_member(ROSTER, member))
    after = rosters.successor(during, issued_s=NOW)
    whole = federation(rosters_=(ROSTER, during))
    whole.doors["north"].log.close()
    whole.doors["north"] = whole.open_door("north", new_key=lambda: new)
    assert heard(whole, question()) == [("north", "update")]

    (whole.folder / "north.roster.json").write_bytes(rosters.dump(signed(after)))
    whole.link = SignedLink(
        whole, COORDINATOR, [signed(one) for one in (ROSTER, during, after)], whole.log, clock=whole.clock
    )

    assert heard(whole, question(round_number=2)) == [("north", "update")]
    assert whole.doors["north"].roster.current.roster.version == 3
    (whole.folder / "north.roster.json").write_bytes(b"half a ros")
    assert heard(whole, question(round_number=3)) == [("north", "update")]


def test_a_rotated_key_loses_no_round(federation):
    new = SigningKey.from_seed(bytes([9]) * 32)
    member = replace(ROSTER.member("north"), identity=new.public, retiring=NORTH.public)
    during = rosters.successor(ROSTER, issued_s=NOW, sites=rosters.with_member(ROSTER, member))
    whole = federation(rosters_=(ROSTER, during))
    assert heard(whole, question()) == [("north", "update")]  # still the old key

    after = rosters.successor(during, issued_s=NOW)
    whole.link = SignedLink(
        whole, COORDINATOR, [signed(one) for one in (ROSTER, during, after)], whole.log, clock=whole.clock
    )
    assert heard(whole, question(round_number=2))[0][1] in ("roster-key", "signature")
    whole.doors["north"].log.close()
    KEYS_BEFORE = KEYS["north"]
    try:
        KEYS["north"] = new
        log = TransLog.open(whole.folder / "north.new.log", "lung/north", new)
        roster = RosterFile.open(whole.folder / "north.roster.json")
        whole.doors["north"] = SignedSite(whole.plain["north"], new, roster, log, clock=whole.clock)
        assert heard(whole, question(round_number=2)) == [("north", "update")]
    finally:
        KEYS["north"] = KEYS_BEFORE
