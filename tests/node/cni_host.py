"""A host for CNI calls: a namespace with the plugin's program and its state in a directory of the test's."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cni import launcher
from linux import netns as kernel_netns
from tests.conftest import Netns

GO_PLUGINS = "/usr/lib/cni"


class CniHost:
    """Calls a plugin as a runtime does, inside the namespace of this "host"."""

    def __init__(self, space: Netns, directory: Path) -> None:
        self.space = space
        self.directory = directory
        self.socket, self.run = directory / "cni.sock", directory / "run"
        self.bin = self.programs("bin")
        self.ledger = directory / "networks" / "pods"

    def programs(self, name: str, *, compiled: bool = True, agent: bool = True) -> Path:
        """A directory of plugins; those without an agent look for it where there is none."""
        socket = str(self.socket if agent else self.directory / "none.sock")
        path = self.directory / name
        return launcher.write_plugins(path, socket=socket, run=str(self.run), compiled=compiled).parent

    def start_agent(self) -> "subprocess.Popen[bytes]":
        """Whoever starts it ends it."""
        argv = [sys.executable, "-m", "cni.agent", f"--socket={self.socket}", f"--run-dir={self.run}"]
        with (self.directory / "agent.log").open("ab") as log:
            return subprocess.Popen(kernel_netns.argv_in(self.space.path, argv), stderr=log)

    def await_agent(self, process: "subprocess.Popen[bytes]") -> None:
        """Until it answers: the socket of a killed one may still be there."""
        deadline = time.monotonic() + 30
        while self.call("ADD", "nobody", "/nowhere", self.config(agent=True))[1]["code"] == 11:
            assert process.poll() is None, (self.directory / "agent.log").read_text()[-2000:]
            assert time.monotonic() < deadline, (self.directory / "agent.log").read_text()[-2000:]

    @contextlib.contextmanager
    def served(self) -> "Iterator[CniHost]":
        """The host with an agent, which the calls go through."""
        process = self.start_agent()
        try:
            self.await_agent(process)
            yield self
        finally:
            process.terminate()
            process.wait(30)
        assert "Traceback" not in (said := (self.directory / "agent.log").read_text()), said

    def calls_under_way(self) -> list[str]:
        journal = self.run / "journal"
        return [each.name for each in journal.iterdir()] if journal.exists() else []

    def config(self, **keys: object) -> dict[str, object]:
        return {
            "cniVersion": "1.0.0",
            "name": "pods",
            "type": "wherry-cni",
            "subnet": "10.77.1.0/24",
            "dataDir": str(self.ledger.parent),
            **keys,
        }

    def start(
        self,
        command: str,
        container: str,
        netns: str,
        config: Mapping[str, object] | None = None,
        plugin: str = "",
        **more: str,
    ) -> "subprocess.Popen[bytes]":
        """The plugin's process, its configuration on stdin already; `more` are variables of its environment."""
        program = plugin or str(self.bin / "wherry-cni")
        variables = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": f"{self.bin}:{GO_PLUGINS}",
            **more,
        }
        process = subprocess.Popen(
            kernel_netns.argv_in(self.space.path, [program]),
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(config or self.config()).encode())
        process.stdin.close()
        process.stdin = None
        return process

    def call(
        self,
        command: str,
        container: str,
        netns: str,
        config: Mapping[str, object] | None = None,
        plugin: str = "",
        **more: str,
    ) -> tuple[int, dict[str, Any]]:
        """(exit status, what it said)."""
        process = self.start(command, container, netns, config, plugin, **more)
        out, err = process.communicate(timeout=60)
        assert not err, err.decode()
        return process.returncode, json.loads(out) if out else {}

    def add(self, container: str, space: Netns, **keys: object) -> dict[str, Any]:
        status, said = self.call("ADD", container, space.path, self.config(**keys))
        assert status == 0, said
        return said

    def delete(self, container: str, netns: str = "", **keys: object) -> None:
        assert self.call("DEL", container, netns, self.config(**keys)) == (0, {})

    def check(
        self, container: str, space: Netns, result: Mapping[str, Any], **keys: object
    ) -> tuple[int, dict[str, Any]]:
        return self.call("CHECK", container, space.path, self.config(prevResult=result, **keys))

    def held(self) -> dict[str, str]:
        """address -> what its file says."""
        found = {}
        for each in self.ledger.iterdir() if self.ledger.exists() else ():
            if each.name[0].isdigit() or ":" in each.name:
                with contextlib.suppress(FileNotFoundError):  # freed while we look
                    found[each.name] = each.read_bytes().decode()
        return found

    def links(self) -> set[str]:
        """The host's links besides its loopback."""
        return set(link_names(self.space)) - {"lo"}


def link_names(space: Netns) -> list[str]:
    return [each["ifname"] for each in json.loads(space.run("ip", "-j", "link"))]


def address_of(result: Mapping[str, Any]) -> str:
    """The pod's address without its prefix length."""
    address: str = result["ips"][0]["address"]
    return address.partition("/")[0]


def pings(space: Netns, address: str) -> bool:
    """Whether one of three echo requests is answered within a second each."""
    done = space.run("busybox", "ping", "-c", "3", "-A", "-W", "1", address, check=False)
    return " 0 packets received" not in done and "packets received" in done
