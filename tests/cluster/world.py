"""A lab seen from outside its programs: the API as plain JSON, containers as their runtime has them, nodes as the kernel has
them.

The tests of faults compare these three, and break things in each of them; nothing here asks a Wherry daemon what it thinks.
"""

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from kube.kubeconfig import Connection
from tests.cluster.conftest import Lab, until
from tests.cluster.runtimes import Container, Json, containers

NODES = ("node1", "node2", "node3")
NODE_DAEMONS = ("kubelet", "proxy", "overlay", "metrics", "cni")
CENTRE_DAEMONS = ("apiserver", "controllers", "scheduler")


class Unanswered(OSError):
    """The API did not answer."""


class Refused(Exception):
    """The API answered with an error; `status` is its number."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body[:300]}")
        self.status = status


class World:
    """One lab's API, dockerd and kernel."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    # --- the API ------------------------------------------------------------------------------------------------------

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = self.connection.ssl_context()
        assert context is not None
        return context

    @cached_property
    def connection(self) -> Connection:
        return Connection.from_kubeconfig(self.lab.kubeconfig)

    def ask(self, method: str, path: str, body: Any = None, *, kind: str = "", timeout: float = 10.0) -> Json:
        """One request on a connection of its own. Unanswered when nobody answers, Refused for 4xx and 5xx."""
        server = urlsplit(self.connection.server)
        line = http.client.HTTPSConnection(server.hostname or "", server.port, context=self._tls, timeout=timeout)
        types = {"PATCH": "application/merge-patch+json"}
        headers = {"Content-Type": kind or types.get(method, "application/json"), "Accept": "application/json"}
        try:
            line.request(method, path, None if body is None else json.dumps(body), headers)
            answer = line.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered(f"{method} {path}: {error}") from error
        finally:
            line.close()
        if answer.status >= 400:
            raise Refused(answer.status, text.decode(errors="replace"))
        found: Json = json.loads(text)
        return found

    def insist(self, method: str, path: str, body: Any = None, *, seconds: float = 60.0, allow: int = 0) -> Json:
        """`ask` until the API answers; `allow` is the error that a repetition may earn (409, 404)."""

        def attempt() -> Json | None:
            try:
                return self.ask(method, path, body)
            except Unanswered:
                return None
            except Refused as refused:
                if refused.status == allow:
                    return {}
                if refused.status in (429, 500, 503, 504):
                    return None
                raise

        found = until(attempt, lambda answer: answer is not None, seconds=seconds)
        assert found is not None
        return found

    def items(self, path: str) -> list[Json]:
        found: list[Json] = self.insist("GET", path)["items"]
        return found

    def pods(self, namespace: str = "", selector: str = "") -> list[Json]:
        where = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
        return self.items(where + (f"?labelSelector={selector}" if selector else ""))

    def node(self, name: str) -> Json:
        return self.insist("GET", f"/api/v1/nodes/{name}")

    def condition(self, node: str, kind: str = "Ready") -> Json:
        found: Json = next((c for c in self.node(node)["status"].get("conditions", ()) if c["type"] == kind), {})
        return found

    # --- containers ---------------------------------------------------------------------------------------------------

    def containers(self) -> list[Container]:
        """Every container of the lab, also those that have ended."""
        return containers(self.lab)

    def end(self, container: Container) -> None:
        """Kill its first process."""
        os.kill(container.pid, signal.SIGKILL)

    def running(self) -> dict[str, Container]:
        return {c.id: c for c in self.containers() if c.running}

    def sandbox_of(self, pod: Json) -> Container:
        uid = pod["metadata"]["uid"]
        return next(c for c in self.containers() if c.sandbox and c.running and c.pod == uid)

    # --- nodes --------------------------------------------------------------------------------------------------------

    def inside(self, node: str, *argv: str, check: bool = True, timeout: float = 20.0) -> str:
        """A program's stdout, run in a node's network namespace ("" is the outer one)."""
        name = f"wherry-{self.lab.name}-{node}" if node else f"wherry-{self.lab.name}"
        return within(f"/run/netns/{name}", *argv, check=check, timeout=timeout)

    def links(self, node: str) -> list[Json]:
        found: list[Json] = json.loads(self.inside(node, "ip", "-j", "link", "show") or "[]")
        return found

    def topology_node(self, node: str) -> Json:
        found: Json = next(each for each in self.lab.topology["nodes"] if each["name"] == node)
        return found

    def state(self, node: str) -> str:
        return f"{self.lab.state}/{node}"

    # --- daemons ------------------------------------------------------------------------------------------------------

    def pid(self, daemon: str) -> int | None:
        """Of `node/daemon`, or of `dockerd`; None between two lives."""
        found: int | None = self.lab.daemons()[daemon]["pid"]
        return found

    def signal(self, daemon: str, number: signal.Signals) -> int | None:
        """Sent to a daemon's process; its pid, None when it was not there to be signalled."""
        pid = self.pid(daemon)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pid

    def kill(self, daemon: str) -> int | None:
        return self.signal(daemon, signal.SIGKILL)

    def reborn(self, daemon: str, before: int | None, seconds: float = 60.0) -> int:
        """Wait for the daemon's next life to be ready; its pid."""
        now = until(
            lambda: self.lab.daemons()[daemon],
            lambda seen: seen["state"] == "ready" and seen["pid"] != before,
            seconds=seconds,
        )
        return int(now["pid"])


def within(namespace: str, *argv: str, check: bool = True, timeout: float = 20.0) -> str:
    """A program's stdout, run in the network namespace at a path."""
    done = subprocess.run(
        ["nsenter", f"--net={namespace}", *argv], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert not check or done.returncode == 0, f"{' '.join(argv)}: exit {done.returncode}: {done.stderr or done.stdout}"
    return done.stdout


def answers(namespace: str, urls: list[str], patience: float = 2.0) -> dict[str, bool]:
    """Which of `urls` answer a process in a network namespace; all are asked at once."""
    argv = ["curl", "--silent", "--parallel", "--max-time", f"{patience:g}", "-w", "%{url} %{http_code}\n"]
    for url in urls:
        argv += ["-o", "/dev/null", url]
    text = within(namespace, *argv, check=False, timeout=patience * 4 + 20) if urls else ""
    said = dict(line.rsplit(" ", 1) for line in text.splitlines() if " " in line)
    return {url: said.get(url) == "200" for url in urls}


def settle(what: Callable[[], list[str]], seconds: float) -> None:
    """Wait until there is nothing left to say; what is still said then is the failure."""
    deadline = time.monotonic() + seconds
    while found := what():
        assert time.monotonic() < deadline, f"after {seconds:.0f} s:\n" + "\n".join(found)
        time.sleep(0.3)
