"""The documents against the code: every code, key, command, option and file is described, and nothing else is."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import click
import pytest
import typer.main

from client.imaging.reports import csv_rows, json_row
from federation.consent import PrivacyTerms, Reason
from federation.errors import FedError
from federation.plan import RunPlan, parse_plan
from server.record import OUTCOMES

ROOT = Path(__file__).parent.parent
ROOMS = ("federation", "client", "server", "sim")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "NOTICE"])
README = (ROOT / "README.md").read_text(encoding="utf-8")
ERRORS = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")

named = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def described_errors() -> dict[str, tuple[int, list[str]]]:
    """What docs/errors.md says: class -> (exit status, codes in the order of its table)."""
    parts = re.split(r"^## (\w+): exit status (\d+)$", ERRORS, flags=re.MULTILINE)
    found = {}
    for name, status, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        section = text.split("\n## ")[0]
        found[name] = (int(status), re.findall(r"^\| `([a-z0-9-]+)` \|", section, flags=re.MULTILINE))
    return found


def plan_keys() -> list[str]:
    hints = get_type_hints(RunPlan)
    return [
        f"{section.name}.{key.name}"
        for section in fields(RunPlan)
        if is_dataclass(hints[section.name])
        for key in fields(hints[section.name])
    ]


def commands(command: click.Command, path: str = "wardround") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its full name."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, f"{path} {name}")
    else:
        yield path, command


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def slug(heading: str) -> str:
    """A heading's anchor, as the usual renderers make it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


def prose(path: Path) -> str:
    """A document without its code blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_every_error_code_is_described_under_its_class_and_nothing_else_is() -> None:
    described = described_errors()

    assert {name: set(codes) for name, (_, codes) in described.items()} == {
        kind.__name__: set(kind.codes) for kind in FedError.__subclasses__()
    }
    assert all(len(codes) == len(set(codes)) for _, codes in described.values())


def test_exit_statuses_are_those_of_the_code() -> None:
    described = {name: status for name, (status, _) in described_errors().items()}

    assert described == {kind.__name__: kind.exit_status for kind in FedError.__subclasses__()}
    assert len(set(described.values())) == len(described)


def test_every_reason_of_a_refusal_is_described() -> None:
    table = ERRORS[ERRORS.index("## Words that are not errors") :]

    assert re.findall(r"^\| `([a-z_]+)` \|", table, flags=re.MULTILINE) == list(get_args(Reason))


def test_every_outcome_of_a_round_is_described() -> None:
    table = ERRORS[ERRORS.index("| outcome | the round |") :]

    assert re.findall(r"^\| `([a-z-]+)` \|", table, flags=re.MULTILINE) == [
        word for word in OUTCOMES if word != "accepted"
    ]


def test_every_field_of_a_sites_terms_is_in_the_table_of_what_leaves() -> None:
    section = README[README.index("## What leaves the hospital") : README.index("## What it is for")]

    for name in (
        "base_digest",
        "shapes",
        "declared_patients",
        "reasons",
        "code",
        *(f.name for f in fields(PrivacyTerms)),
    ):
        assert f"`{name}`" in section, f"{name} leaves a site and is not in the README's table"


def test_every_plan_key_is_in_the_spec_and_in_the_readmes_plan() -> None:
    spec = (ROOT / "docs" / "spec" / "plan-1.md").read_text(encoding="utf-8")
    [plan] = blocks("toml")

    for key in plan_keys():
        section, name = key.split(".")
        assert f"`{key}`" in spec, f"{key} is not in docs/spec/plan-1.md"
        written = plan[plan.index(f"[{section}]") :].split("\n[")[0]
        assert re.search(rf"\b{name}\b", written), f"{key} is not in the README's plan"


def test_the_plan_in_the_readme_is_a_plan() -> None:
    [plan] = blocks("toml")

    assert parse_plan(plan).privacy.unit == "patient"


def test_the_report_rows_in_the_readme_are_read() -> None:
    [lines] = blocks("jsonl")
    [table] = blocks("csv")

    assert not any(isinstance(json_row(line.encode()), str) for line in lines.splitlines())
    assert [not isinstance(row, str) for _, _, _, row in csv_rows(io.BytesIO(table.encode()))] == [True]
    assert len(list(csv.reader(io.StringIO(table)))) == 2


def test_every_command_and_every_option_is_in_the_readme() -> None:
    from sim.wardround import app

    # From the command's name in bold to the next one, or to the next heading.
    told = {
        found[1]: found[0]
        for found in re.finditer(r"^\*\*`(wardround[a-z ]*)[^\n]*.*?(?=^\*\*`wardround|^#|\Z)", README, re.M | re.S)
    }
    for path, command in commands(typer.main.get_command(app)):
        text = next((text for name, text in told.items() if name.strip() == path), "")
        assert text, f"{path} is not in the README"
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name != "help":
                for option in [*parameter.opts, *parameter.secondary_opts]:
                    assert f"`{option}`" in text, f"{path} {option} is not in the README"


def test_every_file_has_its_line_in_the_readmes_tree_and_every_line_its_file() -> None:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
    [tree] = [block for language, block in fenced if not language and block.startswith("federation/")]
    listed, room = set(), ""
    for line in tree.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            room = name
        else:
            listed.add(room + name)

    there = {str(path.relative_to(ROOT)) for name in ROOMS for path in (ROOT / name).rglob("*.py")}
    assert listed == {name for name in there if not name.endswith("__init__.py")}


@named
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), f"{target} leads nowhere"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{target} has no such heading"


@named
def test_a_document_says_nothing_of_the_place_it_was_written_in(document: Path) -> None:
    text = document.read_text(encoding="utf-8")

    assert str(ROOT) not in text
    assert re.search(r"(?<![\w./])/(?:home|root|work|tmp|mnt|srv|Users)(?:/|\b)", text) is None, "a path of a machine"
    assert re.search(r"(?<![\w&/])#\d+\b", text) is None, "the number of an issue"
    assert re.search(r"pypi|pythonhosted|download\.pytorch|index-url|artifactory|devpi", text, re.I) is None, "an index"


@named
def test_lines_can_be_read_side_by_side(document: Path) -> None:
    """Tables are exempt: a row is a line."""
    for line in document.read_text(encoding="utf-8").splitlines():
        assert line.startswith("|") or len(line) <= 200
