"""What a hospital opens draws its noise from the operating system, whatever a plan, a file or an option says."""

import ast
import random
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import click
import numpy as np
import pytest
import torch
import typer

import client.cli
import server.cli
from client.opening import spent
from client.settings import Settings
from federation.plan import RunPlan
from federation.privacy.accounting import Event, epsilon
from federation.privacy.keystream import OperatingSystemKeys
from federation.privacy.ledger import Ledger, Spend

ROOT = Path(__file__).parent.parent.parent
PRODUCTION = sorted(path for room in ("client", "federation", "server") for path in (ROOT / room).rglob("*.py"))
MAKERS = {"default_rng", "manual_seed", "SeedSequence", "RandomState", "randn", "normal_", "randint"}
MODULES = {"random", "numpy.random"}
# Whose random numbers are not secret, and why.
ALLOWED = {
    "client/training/checks.py": "made patients, to try a base on",
    "federation/adapter.py": "the public start of A, which all parties compute alike",
    "federation/supervise.py": "how long to wait before a restart",
    "server/closing.py": "the bootstrap of what is released already",
}


def names(kind: Any) -> Iterator[str]:
    """Every key that a file of this kind may have."""
    for item, wanted in zip(fields(kind), get_type_hints(kind).values(), strict=True):
        yield item.name
        for part in (wanted, *getattr(wanted, "__args__", ())):
            if is_dataclass(part):
                yield from names(part)


def options(command: click.Command) -> Iterator[str]:
    """Every option and argument of a command and of the commands below it."""
    yield from (str(parameter.name) for parameter in command.params)
    for below in getattr(command, "commands", {}).values():
        yield from options(below)


@pytest.mark.parametrize("kind", [RunPlan, Settings])
def test_no_key_of_a_plan_or_of_site_toml_is_a_seed(kind: Any) -> None:
    found = list(names(kind))

    assert {"noise_multiplier", "epsilon_max"} & set(found)  # the walk reaches the privacy of both
    assert not [name for name in found if "seed" in name or "random" in name]


@pytest.mark.parametrize("group", [client.cli.app, server.cli.app])
def test_no_option_of_a_site_or_a_coordinator_is_a_seed(group: typer.Typer) -> None:
    found = list(options(typer.main.get_command(group)))

    assert len(found) > 20
    assert not [name for name in found if "seed" in name or "random" in name]


@pytest.mark.parametrize("path", PRODUCTION, ids=lambda path: str(path.relative_to(ROOT)))
def test_predictable_numbers_are_made_only_where_they_are_no_secret(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    made = [node.attr for node in nodes if isinstance(node, ast.Attribute) and node.attr in MAKERS]
    made += [
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names if alias.name == "random"
    ]
    made += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and node.module in MODULES]

    assert not made or str(path.relative_to(ROOT)) in ALLOWED


def test_the_privacy_code_reads_no_environment() -> None:
    for path in [*sorted((ROOT / "federation" / "privacy").glob("*.py")), ROOT / "client" / "opening.py"]:
        attributes = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}

        assert not attributes & {"environ", "getenv"}, path.name


def test_a_hospital_is_opened_with_the_operating_systems_keys_and_no_argument_changes_that() -> None:
    [opening] = [
        node
        for node in ast.walk(ast.parse((ROOT / "client" / "opening.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == "open_site"
    ]
    [made] = [
        node
        for node in ast.walk(opening)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Site"
    ]

    assert ast.unparse(made.args[3]) == "OperatingSystemKeys()"  # the fourth argument of Site: keys
    assert "key" not in " ".join(argument.arg for argument in opening.args.args)


def test_the_status_counts_what_was_done_with_one_person_as_the_account_does(tmp_path: Path) -> None:
    trained = Spend("run-1", 1, "lung", "c-1", Event(1.0, 4.0, 1, "flat clipping at 1.0"), 1e-4, 1000,
                    "2030-01-01T00:00:00Z", part=(0.2, 1.0))  # fmt: skip
    with Ledger.open(tmp_path) as ledger:
        assert spent(ledger, 1e-4) == {"charges": 0, "epsilon": 0.0}
        for spend in (trained, replace(trained, round_number=2, part=(0.0, 0.2))):
            ledger.reserve(spend)

        assert spent(ledger, 1e-4) == {"charges": 2, "epsilon": epsilon([trained.event], 1e-4)}


def test_the_operating_systems_keys_hear_no_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    drawn = []
    for _ in range(2):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        drawn.append(OperatingSystemKeys().key("run/1/noise/0"))

    assert drawn[0] != drawn[1]
