"""`wardround site …`: what a hospital's operator types. Parse, call one function, print."""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from federation.terminal import Talk

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="One hospital's site.")
Folder = Annotated[Path, typer.Option("--dir", help="the site's folder, with site.toml in it")]
Words = Annotated[str | None, typer.Option(help="the federation's twelve words, as heard from an officer")]
Workers = Annotated[int | None, typer.Option(min=1, help="processes; without: one per core")]


class Because(StrEnum):
    """Why a person holds an example."""

    LEAK = "leak"
    UNCLEAR = "unclear"


AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]


@app.callback()
def _site() -> None:
    """Keep `wardround site` a group, however few commands it has."""


@app.command("init", epilog="Example: wardround site init /srv/wardround --id north --patients 5000")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a new folder")],
    site_id: Annotated[str, typer.Option("--id", help="the hospital's name in the federation: a-z, 0-9, -")],
    patients: Annotated[int, typer.Option(min=1, help="a rounded, public number of patients; never the exact count")],
    coordinator: Annotated[str, typer.Option(help="the federation's name")] = "coordinator",
) -> None:
    """Make the site's folder: keys that never leave it, secrets, and site.toml to be read and edited."""
    from client.folder import SiteFolder
    from federation.privacy.keystream import OperatingSystemKeys

    made = SiteFolder.init(
        folder, site_id=site_id, declared_patients=patients, coordinator=coordinator, keys=OperatingSystemKeys()
    )
    print(made.words())
    Talk().line(f"read and edit {folder / 'site.toml'}, then `wardround site enrol`")


@app.command(
    "enrol", epilog="Example: wardround site enrol north.invite --organisation 'North Hospital' --contact it@…"
)
def enrol(
    invitation: Annotated[str, typer.Argument(metavar="INVITE", help="the invitation, or the file that holds it")],
    organisation: Annotated[str, typer.Option(help="as it will stand on the roster")],
    contact: Annotated[str, typer.Option(help="whom officers may ask")],
    folder: Folder = Path("."),
    words: Words = None,
    out: Annotated[Path | None, typer.Option(help="where the submission goes; default SITE.submission")] = None,
) -> None:
    """Answer an invitation: write a file for the coordinator, print the words that people compare. Works offline."""
    from client.folder import SiteFolder
    from federation import durable
    from federation.trust.enrolment import PREFIX, dump_submission, load_invitation

    text = invitation
    if not invitation.strip().startswith(PREFIX):
        try:
            text = Path(invitation).read_text(encoding="ascii")
        except (OSError, ValueError):
            text = ""
    invited = load_invitation(text)
    opened = SiteFolder(folder)
    submission = opened.enrol(invited, organisation=organisation, contact=contact, heard=words, now_s=time.time())
    path = out or Path(f"{submission.site_id}.submission")
    durable.write(path, [dump_submission(submission)])
    print(f"words of this site:       {submission.words()}")
    print(f"words of the federation:  {invited.words()}")
    talk = Talk()
    talk.line(
        f"send {path} to the coordinator; then an officer telephones, you read the first line and hear the second"
    )
    if words is None:
        talk.line("when you have heard them: `wardround site roster FILE --words '…'` with the roster that you get")


@app.command("roster", epilog="Example: wardround site roster roster.json --words 'apple brave …'")
def roster(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="a roster to accept; without: show it")] = None,
    folder: Folder = Path("."),
    words: Words = None,
) -> None:
    """Accept the first roster, or the next ones, and show this site's place in it."""
    from client.folder import SiteFolder
    from federation.errors import TrustError
    from federation.trust import roster as rosters

    opened = SiteFolder(folder)
    if file is not None:
        try:
            data = file.read_bytes()
        except OSError:
            raise TrustError("roster-absent", "the roster cannot be read", hint="check the path") from None
        *earlier, last = [rosters.load(line) for line in data.splitlines() or [b""]]
        opened.accept_roster(last, heard=words, now_s=time.time(), earlier=earlier)
    current = opened.roster().current.roster
    current.require_current(time.time())
    opened.signing_key()
    print(f"roster {current.version} of {current.consortium}, until {current.expires}")
    print(f"{opened.settings().site.id} is an active member; sites: {', '.join(current.active())}")


@app.command("rotate", epilog="Example: wardround site rotate")
def rotate(
    folder: Folder = Path("."),
    out: Annotated[Path | None, typer.Option(help="where the submission goes; default SITE.submission")] = None,
) -> None:
    """Make a new key, endorsed by the present one. It is used from the roster on that names it."""
    from client.folder import SiteFolder
    from federation import durable
    from federation.trust.enrolment import dump_submission

    submission = SiteFolder(folder).rotate()
    path = out or Path(f"{submission.site_id}.submission")
    durable.write(path, [dump_submission(submission)])
    print(submission.words())
    Talk().line(f"send {path} to the coordinator, who runs `wardround coordinator admit` with the words")
    Talk().line("when the roster names the new key, release the data set again: the record is signed by the old one")


@app.command("ingest", epilog="Example: wardround site ingest /data/export --dir /srv/wardround")
def ingest(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", readable=False, help="a folder, a DICOMDIR or a zip, with reports in it")
    ],
    folder: Folder = Path("."),
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """De-identify DICOM files and reports into the store; what cannot be proven clean is held back with its reason."""
    from client.intake import ingest_folder
    from client.workplace import Workplace

    told = ingest_folder(Workplace.open(folder), source, Talk(), workers=workers)
    if as_json:
        print(json.dumps(told, sort_keys=True))
        return
    _counts(told, ("accepted", "already", "rejected", "unreported"))
    if told["erased"]:
        Talk().line(f"wardround: erased {_some(told['erased'], 'example')} of patients who were withdrawn meanwhile")
    print(f"data set     {told['data_digest']}")
    if not told["released"]:
        Talk().line("wardround: not released yet: wardround site inspect, then wardround site release")


@app.command("deidentify", epilog="Example: wardround site deidentify /data/export /data/clean --dir /srv/wardround")
def deidentify(
    source: Annotated[Path, typer.Argument(metavar="SRC", readable=False, help="a folder, a DICOMDIR or a zip")],
    target: Annotated[
        Path, typer.Argument(metavar="DST", readable=False, help="a new folder, or one of an earlier run to go on with")
    ],
    held_file: Annotated[
        Path | None,
        typer.Option("--held", metavar="FILE", readable=False, help="a new file: which files of SRC are held back"),
    ] = None,
    folder: Folder = Path("."),
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Write de-identified DICOM files (PS3.15) for people who need files, under names made of pseudonyms."""
    from client.intake import deidentify_folder
    from client.workplace import Workplace

    told = deidentify_folder(Workplace.open(folder), source, target, Talk(), workers=workers, held=held_file)
    if as_json:
        print(json.dumps(told, sort_keys=True))
    else:
        _counts(told, ("written", "already", "rejected"))
    if held_file is not None:
        _say_table(bool(told["quarantined"]))


@app.command("receive", epilog="Example: wardround site receive --port 11112 --dir /srv/wardround")
def receive(
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 lets the system choose")],
    folder: Folder = Path("."),
) -> None:
    """Be a DICOM storage provider (C-STORE, C-ECHO) for the callers in site.toml, and ingest what comes."""
    from client.intake import receive_objects
    from client.workplace import Workplace

    receive_objects(Workplace.open(folder), port, Talk())


held = typer.Typer(pretty_exceptions_enable=False)
app.add_typer(held, name="quarantine")
_HELD = ("list", "show", "find", "discard")


@held.callback(invoke_without_command=True, epilog="Example: wardround site quarantine --dir /srv/wardround")
def quarantine(
    context: typer.Context,
    folder: Folder = Path("."),
    minimum: Annotated[int, typer.Option(min=1, help="leave out counts below this, to show it to others")] = 1,
    as_json: AsJson = False,
) -> None:
    """Count what was held back, by reason, with what each reason means and what to do."""
    if context.invoked_subcommand is not None:  # options may stand before the command, too
        context.default_map = {name: {"folder": folder, "as_json": as_json} for name in _HELD}
        return
    from client.intake import quarantine as held_back
    from client.workplace import Workplace

    told = held_back(Workplace.open(folder), minimum=minimum)
    if as_json:
        print(json.dumps(told, sort_keys=True))
        return
    for row in told["reasons"]:
        print(f"{row['count']:>7}  {row['reason']:<22} {row['means']}\n{'':>7}  {'':<22} -> {row['do']}")
    if not told["reasons"]:
        Talk().line("wardround: nothing is held back")


@held.command("list", epilog="Example: wardround site quarantine list --reason burned-in --dir /srv/wardround")
def quarantine_list(
    folder: Folder = Path("."),
    reason: Annotated[str, typer.Option(help="only what is held for this reason")] = "",
    as_json: AsJson = False,
) -> None:
    """One line per item: opaque id, reason, kind, modality if it has one, since when."""
    from client.quarantine import KINDS, items
    from client.workplace import Workplace

    def lines() -> Iterator[str]:
        for item in items(Workplace.open(folder), reason=reason):
            told = f"{item['item']}  {item['reason']:<22} {KINDS.get(item['kind'], item['kind']):<27}"
            yield json.dumps(item, sort_keys=True) if as_json else f"{told} {item['modality']:<10} {item['since']}"

    _stream(lines(), as_json)


@held.command("show", epilog="Example: wardround site quarantine show 3f9a0c --dir /srv/wardround")
def quarantine_show(
    item: Annotated[str, typer.Argument(metavar="ITEM", help="its id, or the first six letters or more")],
    folder: Folder = Path("."),
    as_json: AsJson = False,
) -> None:
    """One item: what its reason means and what to do."""
    from client.quarantine import KINDS, show
    from client.workplace import Workplace

    told = show(Workplace.open(folder), item)
    if as_json:
        print(json.dumps(told, sort_keys=True))
        return
    for name in ("item", "reason", "means", "do", "kind", "modality", "since"):
        if told[name]:
            print(f"{name:<9} {KINDS.get(told[name], told[name]) if name == 'kind' else told[name]}")


@held.command("find", epilog="Example: wardround site quarantine find /data/export repair.csv --dir /srv/wardround")
def quarantine_find(
    source: Annotated[Path, typer.Argument(metavar="SRC", readable=False, help="what was ingested")],
    target: Annotated[Path, typer.Argument(metavar="FILE", readable=False, help="a new file, outside of SRC")],
    item: Annotated[
        list[str] | None, typer.Argument(metavar="[ITEM]...", help="ids; without: all that lie there")
    ] = None,
    folder: Folder = Path("."),
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Write into FILE which files and rows of SRC are held back, for whoever repairs them. It names patients' files."""
    from client.quarantine import find_items
    from client.workplace import Workplace

    told = find_items(Workplace.open(folder), source, target, item or [], Talk(), workers=workers)
    print(json.dumps(told, sort_keys=True) if as_json else "\n".join(f"{name:<10} {n}" for name, n in told.items()))
    _say_table(told["items"] > 0)


def _say_table(is_there: bool) -> None:
    Talk().line(
        "wardround: the table names files of patients: it stays on this machine, and goes when they are repaired"
        if is_there
        else "wardround: nothing that is held back lies there; no table was written"
    )


@held.command(
    "discard", epilog="Example: wardround site quarantine discard 3f9a0c --by 'Dr. Panza' --dir /srv/wardround"
)
def quarantine_discard(
    item: Annotated[list[str] | None, typer.Argument(metavar="[ITEM]...", help="ids, of six letters or more")] = None,
    folder: Folder = Path("."),
    reason: Annotated[str, typer.Option(help="all that are held for this reason")] = "",
    everything: Annotated[bool, typer.Option("--all", help="all that are held")] = False,
    by: Annotated[str, typer.Option(help="who forgets them: a person's name, recorded")] = "",
    as_json: AsJson = False,
) -> None:
    """Forget items. The originals are not touched; an ingest of the same source holds them again."""
    from client.quarantine import discard
    from client.workplace import Workplace

    if [bool(item), bool(reason), everything].count(True) != 1:
        raise typer.BadParameter("give items, --reason or --all: one of the three", param_hint="ITEM")
    if not by.strip():
        raise typer.BadParameter("say who forgets them, with --by", param_hint="--by")
    told = discard(Workplace.open(folder), item or [], reason=reason, person=by.strip())
    if as_json:
        print(json.dumps(told, sort_keys=True))
        return
    print(f"{'discarded':<12} {sum(told['discarded'].values())}")
    for code, count in told["discarded"].items():
        print(f"  {code:<22} {count}")


@app.command("erase", epilog="Example: wardround site erase --by 'Dr. Panza' --dir /srv/wardround < ids.txt")
def erase(
    folder: Folder = Path("."),
    by: Annotated[str, typer.Option(help="who withdraws them: a person's name, recorded")] = "",
    issuer: Annotated[str, typer.Option(help="of the ids, if the images name one")] = "",
    key: Annotated[
        list[str] | None, typer.Option(help="a patient's pseudonym instead, as site inspect shows it")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="take a withdrawal back")] = False,
    as_json: AsJson = False,
) -> None:
    """Withdraw patients, for good: their ids come on standard input, one a line, or are asked for."""
    from client import erasure
    from client.workplace import Workplace

    if not by.strip():
        raise typer.BadParameter("say who withdraws them, with --by", param_hint="--by")
    talk, place = Talk(), Workplace.open(folder)
    ids = [] if key else erasure.ids_from(sys.stdin)
    if undo:
        told = erasure.take_back(place, ids, key or [], person=by.strip(), issuer=issuer)
        line = f"took back {_some(told['undone'], 'withdrawal')}"
        after = "wardround: what was erased is gone: ingest their images again" if told["undone"] else ""
    else:
        told = erasure.erase(place, ids, key or [], talk, person=by.strip(), issuer=issuer)
        line = f"erased {_some(told['patients'], 'patient')}, {_some(told['examples'], 'example')}"
        after = (
            "wardround: the data set is another one now, and no release is of it: site inspect, then site release"
            if told["examples"]
            else ""
        )
    print(json.dumps(told, sort_keys=True) if as_json else line, flush=True)
    if told.get("received"):
        talk.line(f"wardround: {_some(told['received'], 'received object')} of theirs went from the spool, too")
    if after:
        talk.line(after)
    erasure.require_known(told)


def _some(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _stream(lines: Iterator[str], as_json: bool) -> None:
    """Lines as they come; as one JSON object with `--json`. Somebody who has seen enough may close the pipe."""
    try:
        first = next(lines, None)
        if as_json:
            print('{"items": [', end="")
        elif first is None:
            Talk().line("wardround: no such item is held back")
        if first is not None:
            print(first, end="" if as_json else "\n")
        for line in lines:
            print(f", {line}" if as_json else line, end="" if as_json else "\n")
        print("]}" if as_json else "", end="\n" if as_json else "", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@app.command("inspect", epilog="Example: wardround site inspect --by 'Dr. Panza' --dir /srv/wardround")
def inspect(
    folder: Folder = Path("."),
    port: Annotated[int, typer.Option(min=0, max=65535, help="port on 127.0.0.1; 0 lets the system choose")] = 0,
    by: Annotated[str, typer.Option(help="who looks: with a name, what is found wanting can be held in the page")] = "",
) -> None:
    """Show what will be trained on and what was held back, as a page for this machine's browser. Ctrl-C ends it."""
    from client.inspection.server import inspect_store
    from client.workplace import Workplace

    inspect_store(Workplace.open(folder), port, by.strip(), lambda url: print(url, flush=True), Talk())


@app.command("hold", epilog="Example: wardround site hold 3f9a0c51 --by 'Dr. Panza' --dir /srv/wardround")
def hold(
    examples: Annotated[
        list[str] | None, typer.Argument(metavar="[EXAMPLE]...", help="keys that the page shows; 8 letters will do")
    ] = None,
    folder: Folder = Path("."),
    by: Annotated[str, typer.Option(help="who looked: a person's name, recorded")] = "",
    because: Annotated[Because, typer.Option(help="what was seen")] = Because.LEAK,
    group: Annotated[
        bool, typer.Option("--group", help="everything of the same manufacturer, modality and size, now and later")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="let the next ingest bring them back")] = False,
    as_json: AsJson = False,
) -> None:
    """Take examples out of the data set; no ingest brings them back. Without EXAMPLE: list what is held."""
    from client import intake
    from client.workplace import Workplace

    if not examples and (by or group or undo):
        raise typer.BadParameter("say which examples, by their keys", param_hint="EXAMPLE")
    if examples and not by.strip():
        raise typer.BadParameter("say who looked, with --by", param_hint="--by")
    place = Workplace.open(folder)
    if not examples:
        _print_held(intake.held_examples(place), intake.held_groups(place), as_json=as_json)
    elif undo:
        count = intake.undo_hold(place, examples, by.strip(), group=group)
        print(json.dumps({"examples": count}) if as_json else f"forgot {_some(count, 'example')}")
        Talk().line("wardround: to bring them back, ingest their source again; then look at them again")
    else:
        taken, was_released = intake.hold_examples(place, examples, by.strip(), because=because.value, group=group)
        counted = [_some(count, name.removesuffix("s")) for name, count in taken._asdict().items()]
        print(
            json.dumps(taken._asdict(), sort_keys=True)
            if as_json
            else "held {}, {}; nothing left of {}".format(*counted)
        )
        if not taken.examples:
            Talk().line("wardround: that was held already")
        if was_released:
            Talk().line(
                "wardround: the release is void: this is another data set now; look, then wardround site release"
            )


def _print_held(held: Iterable[tuple[Any, str]], groups: list[tuple[str, str]], *, as_json: bool) -> None:
    if as_json:
        kept_out = [{"device": device, "reason": reason} for device, reason in groups]
        print(json.dumps({"held": [{**vars(one), "device": device} for one, device in held], "groups": kept_out}))
        return
    nothing = True
    for one, device in held:
        nothing = False
        print(f"{one.example_key}  {one.reason:<10}  {device}")
    for device, reason in groups:
        print(f"{'whatever comes of':<32}  {reason:<10}  {device}")
    if nothing and not groups:
        Talk().line("wardround: no example is held")


@app.command("release", epilog="Example: wardround site release 3f9a0c51d2e7 --by 'Dr. Panza' --dir /srv/wardround")
def release(
    digest: Annotated[str, typer.Argument(metavar="[DIGEST]", help="of the data set you looked at")] = "",
    folder: Folder = Path("."),
    by: Annotated[str, typer.Option(help="who releases it: a person's name, recorded")] = "",
    revoke: Annotated[bool, typer.Option("--revoke", help="take the release back")] = False,
    as_json: AsJson = False,
) -> None:
    """Record that a person releases this data set for training. Without DIGEST: show what there is to release."""
    from client.intake import data_set, decide_release, hindrance
    from client.workplace import Workplace

    if not digest and (revoke or by):
        raise typer.BadParameter("say which data set, by its digest", param_hint="DIGEST")
    place = Workplace.open(folder)
    if digest:
        if not by.strip():
            raise typer.BadParameter("say who releases it, with --by", param_hint="--by")
        decided = decide_release(place, digest, by.strip(), revoke=revoke)
        told: dict[str, Any] = vars(decided)
    else:
        now = data_set(place)
        if why := hindrance(place):
            Talk().line(f"wardround: not to be trained on: {why}")
        told = vars(now) | {"release": None if now.release is None else vars(now.release)}
    if as_json:
        print(json.dumps(told, sort_keys=True))
        return
    for name, value in told.items():
        shown = (f"by {value['person']}, {value['time_utc']}" if value else "none") if name == "release" else value
        print(f"{name.replace('_', ' '):<15} {'none' if shown == '' else shown}")


def _counts(told: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        print(f"{name:<12} {told[name]}")
    print(f"{'quarantined':<12} {sum(told['quarantined'].values())}")
    for reason, count in told["quarantined"].items():
        print(f"  {reason:<22} {count}")


@app.command("ledger", epilog="Example: wardround site ledger --dir /srv/wardround --json")
def ledger(
    folder: Folder = Path("."),
    as_json: AsJson = False,
) -> None:
    """Show what privacy was spent, by whom, when and for what, and what is left."""
    from client.ledger_view import lines, view

    account = view(folder)
    if as_json:
        print(json.dumps(account, indent=2, sort_keys=True))
        return
    for line in lines(account):
        print(line)


@app.command("run", epilog="Example: wardround site run --dir /srv/wardround")
def run(folder: Folder = Path(".")) -> None:
    """The site's daemon: loads the model, connects to the coordinator, answers what policy and ledger allow."""
    from client.desk import daemon
    from client.folder import SiteFolder

    talk = Talk()
    with daemon(SiteFolder(folder.resolve())) as made:
        talk.line(f"{made.site.site_id}: ready; its log is {folder / 'logs' / 'site.jsonl'}")
        made.run_until_signal()


@app.command("status", epilog="Example: wardround site status --dir /srv/wardround --json")
def status(
    folder: Folder = Path("."),
    as_json: AsJson = False,
) -> None:
    """What the daemon is doing, what was answered last, and what is spent."""
    from client import desk

    told = desk.status(folder.resolve())
    print(json.dumps(told, indent=2) if as_json else "\n".join(desk.status_lines(told)))


@app.command("approve", epilog="Example: wardround site approve plan.toml --dir /srv/wardround")
def approve(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="the plan.toml that the coordinator sent you")],
    folder: Folder = Path("."),
) -> None:
    """Consent to this very plan, as a person of this hospital. Another plan, even a little other, needs another."""
    from client import desk
    from federation.plan import load_plan

    plan = load_plan(plan_file)
    print(desk.approve_plan(folder.resolve(), plan))
    Talk().line("approved by you; the coordinator's `check` prints the same digest")


@app.command("policy", epilog="Example: wardround site policy --dir /srv/wardround")
def policy(folder: Folder = Path(".")) -> None:
    """This site's rules as they are in force. They are changed in site.toml only."""
    from client import desk
    from client.folder import SiteFolder

    for line in desk.policy_lines(SiteFolder(folder).settings().policy):
        print(line)


@app.command("doctor", epilog="Example: wardround site doctor --dir /srv/wardround")
def doctor(
    folder: Folder = Path("."),
    as_json: AsJson = False,
) -> None:
    """Is everything as it should be? Keys, disk, ledger, roster, network, clock: one line each, ok or what to do."""
    from client.doctor import examine, worst
    from client.folder import SiteFolder

    findings = examine(SiteFolder(folder.resolve()))
    if as_json:
        print(json.dumps({"worst": worst(findings), "findings": [vars(finding) for finding in findings]}, indent=2))
    else:
        for finding in findings:
            word = {"ok": "ok  ", "warn": "warn", "fix": "fix "}[finding.health]
            print(f"{word}  {finding.what:<12} {finding.says}")
    raise typer.Exit({"ok": 0, "warn": 0, "fix": 3}[worst(findings)])
