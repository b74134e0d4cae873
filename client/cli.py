"""`wardround site …`: what a hospital's operator types."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from federation.terminal import Talk

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="One hospital's site.")
Folder = Annotated[Path, typer.Option("--dir", help="the site's folder")]
Words = Annotated[str | None, typer.Option(help="the federation's twelve words, as heard from an officer")]


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


@app.command("ledger", epilog="Example: wardround site ledger --dir /srv/wardround --json")
def ledger(
    folder: Folder = Path("."),
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Show what privacy was spent, by whom, when and for what, and what is left."""
    from client.ledger_view import lines, view

    account = view(folder)
    if as_json:
        print(json.dumps(account, indent=2, sort_keys=True))
        return
    for line in lines(account):
        print(line)
