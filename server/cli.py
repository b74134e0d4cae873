"""`wardround coordinator …`: what the people who run a federation type."""

import json
import os
import time
from pathlib import Path
from typing import Annotated

import click
import typer

from federation.terminal import Talk

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="The coordinator of a federation.")
Folder = Annotated[Path, typer.Option("--dir", help="the federation's folder")]


@app.callback()
def _coordinator() -> None:
    """Keep `wardround coordinator` a group, however few commands it has."""


@app.command("officer", epilog="Example: wardround coordinator officer anna.key --name 'Dr Anna Berg'")
def officer(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the new key; its public half goes beside it as .pub")],
    name: Annotated[str, typer.Option(help="as it will stand on the roster")],
) -> None:
    """Make an officer's key, on the officer's own machine. Send FILE.pub to the coordinator, keep FILE."""
    from federation.trust.enrolment import key_words
    from server.federation_folder import make_officer

    print(key_words(make_officer(file, name).key))


@app.command("init", epilog="Example: wardround coordinator init fed --name lung --address fed.example.org:443")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a new folder")],
    name: Annotated[str, typer.Option(help="of the federation: a-z, 0-9, -")],
    address: Annotated[str, typer.Option(help="host:port that the sites will reach")],
    officer: Annotated[list[Path] | None, typer.Option(help="an officer's .pub; repeat. Without: a trial")] = None,
    threshold: Annotated[int, typer.Option(min=1, help="how many officers must sign a roster")] = 2,
) -> None:
    """Make a federation: keys, private CA, server certificate, and the draft of its first roster."""
    from server.federation_folder import FederationFolder, read_officer

    officers = [read_officer(path) for path in officer or ()]
    if officers and threshold > len(officers):
        raise click.UsageError("the threshold is above the number of officers")
    made = FederationFolder.init(
        folder, consortium=name, address=address, officers=officers, threshold=threshold, now_s=time.time()
    )
    found = made.draft() or made.current()
    if not officers:
        Talk().line("one officer's key was made here, for a trial: hospitals need officers on machines of their own")
    print(found.roster.officers_words())


@app.command("invite", epilog="Example: wardround coordinator invite north > north.invite")
def invite(
    site: Annotated[str, typer.Argument(metavar="SITE")],
    folder: Folder = Path("."),
    hours: Annotated[int, typer.Option(min=1, max=168, help="until it expires")] = 24,
) -> None:
    """Print an invitation: send it to the hospital. It permits the submission of one key, once."""
    from federation.trust.enrolment import TOKEN_BYTES, dump_invitation
    from server.federation_folder import FederationFolder

    opened = FederationFolder.open(folder)
    made = opened.invite(site, token=os.urandom(TOKEN_BYTES), now_s=time.time(), hours=hours)
    print(dump_invitation(made))
    Talk().line(f"for {site}, until {made.expires}; the hospital answers with `wardround site enrol`")


@app.command("admit", epilog="Example: wardround coordinator admit north.submission --words 'apple brave …'")
def admit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="what the hospital sent back")],
    words: Annotated[str, typer.Option(help="the site's twelve words, as heard on the telephone")],
    folder: Folder = Path("."),
) -> None:
    """Put a site's key on the next roster (or a new key of a known site), once its words were heard from it."""
    from federation.errors import TrustError
    from federation.trust.enrolment import load_submission
    from server.federation_folder import FederationFolder

    try:
        data = file.read_bytes()
    except OSError:
        raise TrustError("enrolment-damaged", "the submission cannot be read", hint="check the path") from None
    submission = load_submission(data)
    after = FederationFolder.open(folder).admit(submission, heard=words, now_s=time.time())
    _next(folder, after.roster.version, f"{submission.site_id} is on roster {after.roster.version}")


@app.command("revoke", epilog="Example: wardround coordinator revoke north")
def revoke(site: Annotated[str, typer.Argument(metavar="SITE")], folder: Folder = Path(".")) -> None:
    """Take a site off the next roster; it is asked no more once officers have signed that."""
    from server.federation_folder import FederationFolder

    after = FederationFolder.open(folder).revoke(site, now_s=time.time())
    _next(folder, after.roster.version, f"{site} is revoked on roster {after.roster.version}")


@app.command("renew", epilog="Example: wardround coordinator renew")
def renew(folder: Folder = Path(".")) -> None:
    """A new server certificate (30 days), and the same roster for another 90 days."""
    from server.federation_folder import FederationFolder

    after = FederationFolder.open(folder).renew(now_s=time.time())
    _next(folder, after.roster.version, f"roster {after.roster.version} lasts until {after.roster.expires}")


@app.command("sign", epilog="Example: wardround coordinator sign draft.json --key anna.key")
def sign(
    draft: Annotated[Path, typer.Argument(metavar="DRAFT", help="draft.json, or a copy of it")],
    key: Annotated[Path, typer.Option(help="the officer's key")],
) -> None:
    """Add an officer's signature to a draft, in its file; prints what is being signed."""
    from federation.trust.keys import SigningKey
    from server.federation_folder import sign_draft, told

    signed = sign_draft(draft, SigningKey.load(key))
    told(signed.roster, line=print)
    signers = signed.signers(signed.roster.officers)
    Talk().line(f"signed by {', '.join(signers)}; {signed.roster.threshold} needed")


@app.command("publish", epilog="Example: wardround coordinator publish signed-by-anna.json")
def publish(
    signed: Annotated[Path | None, typer.Argument(metavar="[DRAFT]", help="a copy that came back signed")] = None,
    folder: Folder = Path("."),
) -> None:
    """Put the draft in force, once enough officers have signed it."""
    from server.federation_folder import FederationFolder, read_roster

    after = FederationFolder.open(folder).publish(None if signed is None else read_roster(signed))
    Talk().line(f"roster {after.roster.version} is in force until {after.roster.expires}")


@app.command("roster", epilog="Example: wardround coordinator roster --out roster.json")
def roster(
    folder: Folder = Path("."),
    out: Annotated[Path | None, typer.Option(help="write it here, for a site to accept")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Show the roster in force: officers, sites, their words, until when."""
    from federation import durable
    from federation.trust import roster as rosters
    from server.federation_folder import FederationFolder, told

    versions = FederationFolder.open(folder).rosters()
    current = FederationFolder.open(folder).current()
    if out is not None:  # all of them: a site that was away follows one after the other
        durable.write(out, [rosters.dump(one) + b"\n" for one in versions])
    if as_json:
        print(
            json.dumps(
                {"digest": current.roster.digest(), "words": current.roster.officers_words(), **_plain(current.value())}
            )
        )
    else:
        told(current.roster, line=print)


def _plain(value: object) -> dict[str, object]:
    from federation import canonical

    plain = json.loads(canonical.dump(value))  # type: ignore[arg-type]
    assert isinstance(plain, dict)
    return plain


def _next(folder: Path, version: int, done: str) -> None:
    """One line of state, and what to do next."""
    from server.federation_folder import FederationFolder

    opened = FederationFolder.open(folder)
    waiting = opened.draft()
    Talk().line(done)
    if waiting is not None:
        needed = waiting.roster.threshold
        Talk().line(f"draft.json waits for {needed} officers: `wardround coordinator sign`, then `publish`")
    else:
        Talk().line(f"roster {version} is in force: `wardround coordinator roster --out FILE` writes it for the sites")
