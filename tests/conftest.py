"""Fixtures for every tier: golden files, network namespaces, and the proof that nothing was left behind."""

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from linux import netns as kernel_netns
from tests.leave_no_trace import Snapshot, settled
from tests.requirements import every_version, requires

# Daemons are started by the hundred here. Where an image says that Python shall keep no compiled code, each of them, and each
# test module, would be compiled anew every time: a second of processor time a start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long trials at full length (`make soak`)")
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write what was seen into golden files; look at the diff before committing it",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--soak"):
        every_version()


@pytest.fixture
def trial(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """`trial(short, full)`: how many rounds a long trial has in this run."""
    return lambda short, full: full if request.config.getoption("--soak") else short


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """`golden(path, text)`: text equals the file's; with --rewrite the file becomes the text."""

    def check(path: Path, text: str) -> None:
        if request.config.getoption("--rewrite"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{path} does not exist; run pytest --rewrite and read what it wrote"
        assert text == path.read_text()

    return check


class Netns:
    """A network namespace of one test: `name`, its `path`, and `run`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/run/netns/{name}"

    def run(self, *argv: str, check: bool = True, timeout: float = 30.0, stdin: str | None = None) -> str:
        """A program's stdout, run inside; its stderr is in the failure."""
        done = subprocess.run(
            ["nsenter", f"--net={self.path}", *argv],
            capture_output=True,
            text=True,
            timeout=timeout,
            input=stdin,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{self.name}: {' '.join(argv)}: exit {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def start(self, *argv: str, **options: object) -> "subprocess.Popen[bytes]":
        """A program that goes on; whoever starts it ends it."""
        return subprocess.Popen(["nsenter", f"--net={self.path}", *argv], **options)  # type: ignore[call-overload,no-any-return]


@contextlib.contextmanager
def named_netns() -> Iterator[Callable[[str], Netns]]:
    """`make("a")`: a fresh namespace with its loopback up, deleted at the end."""
    requires("netns", "nsenter", "ip")
    made: list[Netns] = []

    def make(label: str = "ns") -> Netns:
        space = Netns(f"wt-{label}-{uuid.uuid4().hex[:6]}")
        kernel_netns.create(space.name)
        made.append(space)
        space.run("ip", "link", "set", "lo", "up")
        return space

    try:
        yield make
    finally:
        for space in made:
            kernel_netns.delete(space.name)


@pytest.fixture
def netns() -> Iterator[Callable[[str], Netns]]:
    """`netns("a")`: a namespace of one test."""
    with named_netns() as make:
        yield make


@pytest.fixture
def leave_no_trace() -> Iterator[Snapshot]:
    """The machine looks after the test as it did before; autouse for the tiers that touch it."""
    hosts = [h for h in (os.environ.get("WHERRY_TEST_DOCKER_HOST"),) if h]
    before = Snapshot.take(hosts)
    yield before
    left = settled(before, docker_hosts=hosts)
    assert not left, "left behind:\n" + "\n".join(f"{kind}: {line}" for kind, lines in left.items() for line in lines)
