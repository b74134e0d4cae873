"""The test vectors of docs/spec/trust-1.md: what another implementation has to come to."""

import re
from pathlib import Path

from federation import canonical
from federation.trust import enrolment, translog
from federation.trust.envelope import LogHead
from federation.trust.keys import SigningKey
from federation.trust.merkle import EMPTY
from federation.trust.roster import Member, Officer, Roster, SignedRoster

OFFICER, COORDINATOR, LOG, SITE = (SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3, 4))
STATEMENTS = {
    "question": (COORDINATOR, {
        "version": "wardround-envelope/1", "direction": "question", "site": "north", "run": "run-1", "round": 3,
        "plan": "cc" * 32, "message": "aa" * 32, "roster": "bb" * 32, "issued": 1767225600, "expires": 1767225660,
        "log": {"size": 0, "root": EMPTY.hex()}, "along": canonical.digest({"rosters": [], "proofs": {}}),
    }),
    "answer": (SITE, {
        "version": "wardround-envelope/1", "direction": "answer", "site": "north", "run": "run-1", "round": 3,
        "plan": "cc" * 32, "message": "dd" * 32, "roster": "bb" * 32, "question": "aa" * 32,
    }),
}  # fmt: skip


def vectors() -> dict[str, str]:
    roster = Roster(
        "lung", 1, "2026-01-01T00:00:00Z", "2026-01-31T00:00:00Z", None, (Officer("anna", OFFICER.public),), 1,
        COORDINATOR.public, LOG.public, (Member("north", "North Hospital", "it@north.example", SITE.public, "none"),),
    )  # fmt: skip
    made = {
        "key of seed 04*32": SITE.public.text,
        "its words": enrolment.key_words(SITE.public),
        "roster": roster.digest(),
        "words of the federation": roster.officers_words(),
        "signature of officer 01*32": SignedRoster(roster).signed_by(OFFICER).signatures[OFFICER.public.text],
    }
    for direction, (key, statement) in STATEMENTS.items():
        made[direction] = key.sign(direction, canonical.dump(statement)).hex()
    note = translog.note(LogHead(0, EMPTY.hex()), "lung/run-1", LOG).decode()
    return made | {"last line of an empty log's head": note.splitlines()[-1]}


def test_the_vectors_of_the_spec_are_those_of_the_code():
    text = (Path(__file__).parents[2] / "docs" / "spec" / "trust-1.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| ([^|]+) \| `([^`|]+)` \|$", text[text.index("## 10. Test vectors") :], re.M))

    assert told == vectors()


def test_the_statements_of_the_spec_are_those_that_were_signed():
    text = (Path(__file__).parents[2] / "docs" / "spec" / "trust-1.md").read_text(encoding="utf-8")
    joined = re.sub(r"\n\s+", "", text[text.index("## 10. Test vectors") :])

    for _, statement in STATEMENTS.values():
        assert canonical.dump(statement).decode() in joined
