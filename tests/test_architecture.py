"""The rules of direction and the doors, as ARCHITECTURE.md states them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("federation", "client", "server", "sim")
MAY_IMPORT = {
    "federation": {"federation"},
    "client": {"client", "federation"},
    "server": {"server", "federation"},
    "sim": set(ROOMS),
}
DOORS = {
    "flwr": {
        "federation/flower.py", "federation/flower_private.py", "federation/flower_secaggplus.py", "client/app.py",
        "server/app.py", "server/superlink.py",
    },
    "ray": {"federation/flower_private.py"},
    "pydicom": {"client/imaging/", "sim/phantoms.py", "sim/hostile.py", "sim/bench_deid.py"},
    "gdcm": {"client/imaging/jpeg12.py"},
    "pynetdicom": {"client/imaging/"},
    "onnxruntime": {"client/imaging/networks.py", "client/imaging/tagger.py"},
    "zxingcpp": {"client/imaging/codes.py"},
    "torch": {
        "client/training/", "sim/base_model.py", "sim/bench_privacy.py", "sim/letter_finder.py", "sim/second_reader.py",
    },
    "torchvision": {"client/training/torchvision_door.py"},
    "transformers": {"client/training/", "sim/base_model.py", "sim/bench_privacy.py"},
    "peft": {"client/training/", "server/export.py", "sim/bench_privacy.py"},
    "grpc": {"client/local_service.py"},
    "uvicorn": {"server/superlink.py"},
    "httpx": {"federation/flower_private.py"},
    "typer": {"client/cli.py", "server/cli.py", "sim/cli.py", "sim/wardround.py"},
    "rich": {"federation/terminal.py", "client/cli.py", "server/cli.py", "sim/cli.py"},
    "opacus": {"federation/privacy/accounting.py", "sim/bench_privacy.py"},
    "dp_accounting": {"federation/privacy/accounting.py"},
}  # fmt: skip
FLAT = {f"federation.privacy.{name}" for name in ("sampling", "clipping", "noise", "accounting")}


def sources() -> list[str]:
    return [str(path.relative_to(ROOT)) for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imports(source: str) -> Iterator[str]:
    """Every module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse((ROOT / source).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source} imports relatively"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("source", sources())
def test_a_file_imports_only_what_its_room_may(source: str) -> None:
    room = source.split("/")[0]

    for module in imports(source):
        top = module.split(".")[0]
        assert top not in ROOMS or top in MAY_IMPORT[room], f"{source} imports {module}"


@pytest.mark.parametrize("source", sources())
def test_a_dependency_comes_in_by_its_door(source: str) -> None:
    for module in imports(source):
        doors = DOORS.get(module.split(".")[0])
        assert doors is None or any(source.startswith(door) for door in doors), f"{source} imports {module}"


def test_the_parts_of_the_privacy_room_do_not_import_each_other() -> None:
    for part in sorted(FLAT):
        found = set(imports(part.replace(".", "/") + ".py"))
        assert not found & (FLAT - {part}), f"{part} imports {found & FLAT}"


def test_the_relay_and_the_story_of_a_site_need_neither_torch_nor_pydicom() -> None:
    for source in ("client/app.py", "client/site.py", "client/policy.py", "server/rounds.py"):
        reached, todo = set(), [source]
        while todo:
            current = todo.pop()
            for module in imports(current):
                path = module.replace(".", "/") + ".py"
                if (ROOT / path).exists() and path not in reached:
                    reached.add(path)
                    todo.append(path)
                assert module.split(".")[0] not in {"torch", "transformers", "pydicom"}, f"{source} reaches {module}"


def test_there_are_no_import_cycles() -> None:
    graph = {
        source: {
            path
            for module in imports(source)
            if (ROOT / (path := module.replace(".", "/") + ".py")).exists() and path != source
        }
        for source in sources()
    }
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, " -> ".join([*trail[trail.index(node) :], node])
        if node not in done:
            for target in sorted(graph.get(node, ())):
                visit(target, (*trail, node))
            done.add(node)

    for source in graph:
        visit(source, ())


def test_the_packages_are_ours() -> None:
    import client

    assert client.__file__ is not None and Path(client.__file__).parent.parent == ROOT
