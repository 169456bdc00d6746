"""One lab for the whole tier, driven from outside as its users drive it: `wherry lab`, kubectl, the official client, curl.

The lab is made once; the comparison of the machine before and after frames it. A test that makes a lab of its own asks for
the `leave_no_trace` fixture itself.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from tests.leave_no_trace import Snapshot, settled
from tests.requirements import kubectls, requires

T = TypeVar("T")
NAME = os.environ.get("WHERRY_TEST_LAB") or "test"
"""The lab's name; two runs at the same time need two names."""
RUNTIME = os.environ.get("WHERRY_TEST_RUNTIME") or "docker"
"""What runs the lab's pods; each of the tier's tests holds on containerd too, but for those that hurt a dockerd."""
KEEP = bool(os.environ.get("WHERRY_KEEP_LAB"))
"""Use the lab of an earlier run when it is up, and leave it up: for whoever works on a test."""


def until(what: Callable[[], T], accept: Callable[[T], bool] = bool, *, seconds: float = 30.0, pause: float = 0.1) -> T:
    """`what()` as soon as `accept` likes it; what it was last is in the failure."""
    deadline = time.monotonic() + seconds
    while True:
        seen = what()
        if accept(seen):
            return seen
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s; last seen: {repr(seen)[:1500]}"
        time.sleep(pause)


@dataclass(frozen=True, slots=True)
class Lab:
    """A running lab and how to talk to it."""

    name: str
    up_output: str

    @property
    def state(self) -> str:
        return f"/var/lib/wherry/lab/{self.name}"

    @property
    def kubeconfig(self) -> str:
        return f"{self.state}/kubeconfig"

    @property
    def topology(self) -> dict[str, Any]:
        with open(f"{self.state}/topology.json") as file:
            found: dict[str, Any] = json.load(file)
        return found

    @property
    def demo_url(self) -> str:
        return f"http://127.0.0.1:{self.topology['lab']['demo_port']}/"

    @property
    def docker(self) -> str:
        return str(self.topology["lab"]["docker"])

    def wherry(self, *words: str, check: bool = True, timeout: float = 180) -> "subprocess.CompletedProcess[str]":
        return wherry("lab", "--name", self.name, *words, check=check, timeout=timeout)

    def kubectl(
        self, *words: str, program: str = "", stdin: str | None = None, check: bool = True, timeout: float = 60
    ) -> str:
        """kubectl's stdout; the first of the machine's kubectls unless `program` names one."""
        argv = [program or kubectls()[-1], "--kubeconfig", self.kubeconfig, *words]
        done = subprocess.run(argv, capture_output=True, text=True, input=stdin, timeout=timeout, check=False)
        assert not check or done.returncode == 0, (
            f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout if done.returncode == 0 or check else done.stdout + done.stderr

    def get(self, *words: str) -> Any:
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def pods(self, selector: str, namespace: str = "default") -> list[dict[str, Any]]:
        """The pods that a selector finds and nobody is deleting."""
        items = self.get("pods", "-n", namespace, "-l", selector)["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def daemons(self) -> dict[str, dict[str, Any]]:
        from lab import supervisor

        answer = supervisor.ask(self.state, {"order": "status"})
        assert answer, "the supervisor does not answer"
        found: dict[str, dict[str, Any]] = answer["daemons"]
        return found

    def shell(self, node: str, *words: str, check: bool = True) -> str:
        done = self.wherry("shell", node, "--", *words, check=check)
        return done.stdout


def wherry(*words: str, check: bool = True, timeout: float = 180) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "wherry", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    assert not check or done.returncode == 0, (
        f"wherry {' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    return done


def ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))


def curl(url: str, timeout: float = 3.0) -> str:
    """The body, or an empty text while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            body: bytes = answer.read()
            return body.decode()
    except OSError:
        return ""


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    requires("root", "netns", "iptables", "dockerd" if RUNTIME == "docker" else RUNTIME, "kubectl", "prometheus")
    if not KEEP:
        wherry("lab", "--name", NAME, "down")
    before = Snapshot.take()
    done = wherry("lab", "--name", NAME, "up", "--nodes", "3", "--prometheus", "--runtime", RUNTIME, check=False)
    made = Lab(NAME, done.stdout)
    try:
        if done.returncode:  # said once, not by every test
            pytest.exit(f"the lab does not come up\n{done.stdout}\n{done.stderr}\n{_logs(made.state)}", returncode=1)
        yield made
    finally:
        if not KEEP:
            wherry("lab", "--name", NAME, "down")
    left = {} if KEEP else settled(before)
    assert not left, f"the lab left traces: {left}"


@pytest.fixture
def demo(lab: Lab) -> Lab:
    """The lab with its three demo pods Ready on three Ready nodes."""
    until(lambda: [n for n in lab.get("nodes")["items"] if ready(n)], lambda n: len(n) == 3, seconds=60)
    until(lambda: [p for p in lab.pods("app=hello") if ready(p)], lambda p: len(p) == 3, seconds=90)
    return lab


def _logs(state: str) -> str:
    done = subprocess.run(
        ["sh", "-c", f"tail -n 15 {state}/log/*.log {state}/*/log/*.log"], capture_output=True, text=True, check=False
    )
    return done.stdout
