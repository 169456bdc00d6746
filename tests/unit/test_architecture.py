"""The house rules that a machine can check: furniture, sizes, names, and configuration that somebody reads."""

import ast
import importlib
import importlib.metadata
import pkgutil
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
SCRIPTS: dict[str, str] = PROJECT["project"]["scripts"]
FURNITURE = ("config", "model", "observe", "plan", "apply", "daemon", "__main__")

# What differs, and why. A plan that outgrew its file is a package of plans.
MISSING = {
    ("metrics", "plan"): "it shows, and wants nothing: there is nothing to plan",
    ("metrics", "apply"): "it shows, and changes nothing",
    ("proxy", "plan"): "each mode has its own: proxy.iptables, proxy.nftables",
    ("proxy", "apply"): "each mode has its own: proxy.iptables, proxy.nftables",
}
ROOMS = ("kubelet", "proxy", "overlay", "scheduler", "controllers", "metrics")
DAEMONS = (*ROOMS, "apiserver")


def modules(*tops: str) -> Iterator[Path]:
    for top in tops:
        yield from sorted((ROOT / top).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_the_furniture(room: str) -> None:
    lacking = [
        name
        for name in FURNITURE
        if not (ROOT / room / f"{name}.py").exists() and not (ROOT / room / name / "__init__.py").exists()
    ]
    assert lacking == [name for name in FURNITURE if (room, name) in MISSING]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
    assert (ROOT / package / "__init__.py").exists()


def test_modules_are_small() -> None:
    large = {
        str(path.relative_to(ROOT)): lines
        for path in modules(*PACKAGES, "tests")
        if (lines := len(path.read_text().splitlines())) > 500 and "generated" not in path.parts
    }
    assert large == {}


def test_no_module_is_named_after_nothing() -> None:
    banned = {"util", "utils", "helper", "helpers", "common", "base", "misc"}
    assert [str(path) for path in modules(*PACKAGES, "tests") if path.stem in banned] == []
    assert [str(path) for path in modules(*PACKAGES, "tests") if banned & set(path.relative_to(ROOT).parts[:-1])] == []


def test_modules_open_with_their_theory() -> None:
    """Every module of a package with more than its imports says what it is about; an `__init__` may be empty."""
    silent = [
        str(path.relative_to(ROOT))
        for path in modules(*PACKAGES)
        if path.name not in ("__init__.py", "__main__.py") and not _opens_with_words(path.read_text())
    ]
    assert silent == []


def _opens_with_words(text: str) -> bool:
    """Told without parsing four hundred modules: a docstring is the first thing that is no comment."""
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return next(lines, "").startswith(('"""', 'r"""'))


def test_nothing_is_mocked() -> None:
    word = "unittest" + ".mock"
    assert [
        str(path) for path in modules(*PACKAGES, "tests") if word in path.read_text() and path != Path(__file__)
    ] == []


@pytest.mark.parametrize("room", DAEMONS)
def test_every_key_of_the_configuration_is_read(room: str) -> None:
    """A field of a room's Structs is an attribute that somebody in the room takes, outside the declaration itself."""
    config = importlib.import_module(f"{room}.config")
    declared = {
        (kind.__name__, field)
        for kind in vars(config).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == config.__name__
        for field in kind.__struct_fields__
    }
    file = ROOT / room / "config.py"
    read = {name for path in modules(room) if path != file for name in _attributes(tree(path))}
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.ClassDef):  # a property or method that somebody uses reads for him
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name in read:
                    read |= set(_attributes(method))
    assert {f"{kind}.{field}" for kind, field in declared if field not in read} == set()


def _attributes(top: ast.AST) -> Iterator[str]:
    for node in ast.walk(top):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_command_leads_to_its_function(name: str) -> None:
    module, _, function = SCRIPTS[name].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    if name != "wherry-cni":  # laid out by `wherry install`, for those who exec plugins
        assert Path(sys.prefix, "bin", name).exists(), "run make venv"


def test_every_daemon_has_its_command_and_its_unit() -> None:
    for room in DAEMONS:
        assert SCRIPTS[f"wherry-{room}"] == f"{room}.__main__:main"
        assert (ROOT / "systemd" / f"wherry-{room}.service").exists()


def test_our_package_names_are_ours_alone() -> None:
    """Flat packages share one namespace with everything installed."""
    owners = importlib.metadata.packages_distributions()
    others = {name: set(owners.get(name, [])) - {PROJECT["project"]["name"]} for name in PACKAGES}
    assert {name: found for name, found in others.items() if found} == {}
    assert not set(PACKAGES) & sys.stdlib_module_names
    found = {info.name for info in pkgutil.iter_modules([str(ROOT)])} - set(PACKAGES) - {"tests"}
    assert found == set(), "a package at the top that pyproject.toml does not name"


def test_configuration_is_cheap_to_import() -> None:
    """--help and refusals come before anything heavy: config.py imports kube.settings, kube.errors and what is bare."""
    heavy = re.compile(
        r"^(?:from|import) (aiohttp|docker|pyroute2|iptc|prometheus_client|cryptography|psutil|asyncio)\b", re.MULTILINE
    )
    for room in DAEMONS:
        text = (ROOT / room / "config.py").read_text() + (ROOT / room / "__main__.py").read_text()
        assert not heavy.search(text), room
