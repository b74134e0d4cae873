"""`wardround`: the one command, and what all of its groups share.

stdout is data, stderr is talk: lower case, no full stop, `wardround: error: …` and then `wardround: hint: …`. A command
that fails ends with the number of its error's class (docs/errors.md).
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

# Nothing is fetched and nothing is reported, whatever these libraries do by default. Set before their first import.
for _name, _value in {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1",
    "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}.items():  # fmt: skip
    os.environ[_name] = _value

import click  # noqa: E402
import typer  # noqa: E402

import client.cli  # noqa: E402
import server.cli  # noqa: E402
import sim.cli  # noqa: E402
from federation import durable  # noqa: E402
from federation.errors import FedError, printable  # noqa: E402
from federation.terminal import Talk  # noqa: E402

_INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False,
    help="Federated fine-tuning of vision-language models between hospitals, with patient-level privacy.",
)  # fmt: skip
for _group, _name in ((client.cli.app, "site"), (server.cli.app, "coordinator"), (sim.cli.app, "sim")):
    app.add_typer(_group, name=_name)


@app.callback()
def _wardround() -> None:
    """Keep `wardround` a group, however few commands it has."""


@app.command("verify", epilog="Example: wardround verify out/demo")
def verify(
    folder: Annotated[Path, typer.Argument(metavar="RUNDIR", help="what a run left: report.json, adapter/, run/")],
    words: Annotated[str | None, typer.Option(help="the officers' twelve words, if you know them")] = None,
    site_log: Annotated[list[Path] | None, typer.Option(help="a site's log.jsonl, to hold against the run's")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Check a run offline: signatures, log, files, rounds, privacy sums. The first thing that is wrong is named."""
    from server import verify as verifying

    steps = verifying.verify(folder, words=words, site_logs=site_log or ())
    if as_json:
        passed = all(step.passed for step in steps)
        told = {"passed": passed, "steps": [vars(step) for step in steps], "not_shown": verifying.CANNOT}
        print(json.dumps(told, indent=2))
    else:
        for step in steps:
            print(f"{'ok' if step.passed else 'WRONG':<6}{step.name:<11}{step.says}")
        print(verifying.CANNOT)
    verifying.require_passed(steps)


@app.command("bundle", epilog="Example: wardround bundle out/bundle --model models/base")
def bundle(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a new folder; with --check, a bundle")],
    model: Annotated[Path | None, typer.Option(help="the base model's folder, to go with it")] = None,
    source: Annotated[Path, typer.Option(help="a copy of the repository")] = Path(__file__).parent.parent,
    check: Annotated[bool, typer.Option("--check", help="compare every file with its hash instead")] = False,
    digest: Annotated[str | None, typer.Option(help="with --check: what the sender told you")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Make everything a site without internet needs: wheels, base model, hashes, and a script that installs them."""
    from server import bundle as bundles

    if check:
        made = bundles.check(folder, digest)
    else:
        Talk().line("gathering wheels with pip; this can take some minutes")
        made = bundles.make(folder, bundles.with_pip(source.resolve()), model=model)
    told = {"digest": made.digest, "wheels": made.wheels, "size_mb": round(made.size_bytes / 1e6, 1)}
    told |= {"base_digest": made.base_digest} if made.base_digest else {}
    print(json.dumps(told, indent=2) if as_json else "\n".join(f"{name:<12} {value}" for name, value in told.items()))
    if not check:
        Talk().line("bring the folder to the site; tell the digest on another way: sh install.sh /opt/wardround DIGEST")


def main() -> None:
    """Run the command. Errors become two lines and an exit status; a traceback never shows."""
    sys.exit(call(sys.argv[1:]))


def call(arguments: list[str]) -> int:
    try:
        os.getcwd()
    except FileNotFoundError:
        return _tell("the working folder is gone", "change to another folder and start the command again", 2)
    try:
        with durable.disk_full_is_ours():
            status = typer.main.get_command(app).main(arguments, prog_name="wardround", standalone_mode=False)
        if status == _INTERRUPTED:  # typer turns Ctrl-C into this status
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except FedError as error:
        return _tell(error.message, error.hint, error.exit_status)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.UsageError as error:
        where = "wardround" if error.ctx is None else error.ctx.command_path
        return _tell(_usage(error), f"see {where} --help", 2)
    except (KeyboardInterrupt, click.Abort):
        return _tell("interrupted", "start the same command again to go on; sim run with --resume", _INTERRUPTED)
    except PermissionError:
        return _tell("this user may not read or write there", "run it as the user who owns the folder", 17)
    except Exception as error:
        # Only the type: a message may quote data.
        hint = "this is a bug; set WARDROUND_DEBUG=1 to see the traceback (it may show data)"
        if os.environ.get("WARDROUND_DEBUG") == "1":
            raise
        return _tell(f"internal error ({type(error).__name__})", hint, 1)


def _usage(error: click.UsageError) -> str:
    """What is wrong with the words that were typed, without their values: many are paths of patients' folders."""
    if isinstance(error, click.BadParameter) and error.param is not None and error.ctx is not None:
        if not isinstance(error, click.MissingParameter):
            return f"invalid value for {error.param.get_error_hint(error.ctx)} ({error.param.type.name})".lower()
    if isinstance(error, (click.BadParameter, click.BadOptionUsage, click.NoSuchOption)):  # they name options only
        return printable(error.format_message().rstrip(".").lower())
    if error.ctx is not None and isinstance(error.ctx.command, click.Group):
        return f"no such command; there are {', '.join(error.ctx.command.list_commands(error.ctx))}"
    return "more arguments than the command takes; a path with blanks needs quotes around it"


def _tell(message: str, hint: str, status: int) -> int:
    print(f"wardround: error: {message}\nwardround: hint: {hint}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
