"""Hundreds of ADDs and DELs side by side, with kill -9 at any moment for shims, stand-alone programs and the agent.

What must hold in the storm: an ADD that has succeeded stays whole until its DEL, and no address is given twice. What must hold
after it: once every container was DELed, or GC has been told who is left, nothing is: no address, no link, no file, no call
under way.
"""

import contextlib
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Netns
from tests.node.cni_host import GO_PLUGINS, CniHost, address_of, link_names
from tests.requirements import requires

Spaces = Callable[[str], Netns]
Trial = Callable[[int, int], int]
SUBNET = "10.77.0.0/23"  # room for all of a storm's rests
KEEPERS = {"lock", ".resting", "last_reserved_ip.0"}
WORKERS = 8


@pytest.fixture
def host(netns: Spaces, tmp_path: Path) -> CniHost:
    return CniHost(netns("host"), tmp_path)


class Agent:
    """The node's agent, which ends with the context, and well."""

    def __init__(self, host: CniHost, seed: int) -> None:
        self.host = host
        self.kills = 0
        self._chance = random.Random(seed)
        self._over = threading.Event()
        self._process = host.start_agent()

    def __enter__(self) -> "Agent":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.wait(30) == 0

    @contextlib.contextmanager
    def tormented(self) -> Iterator[None]:
        """Killed and started again all the time; at the end once more, and that one answers."""
        self.host.await_agent(self._process)
        thread = threading.Thread(target=self._torment)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(60)
            self._kill()
            self._process = self.host.start_agent()
            self.host.await_agent(self._process)

    def _torment(self) -> None:
        while not self._over.wait(self._chance.uniform(0.1, 0.6)):
            self._kill()
            self.kills += 1
            self._over.wait(self._chance.uniform(0, 0.2))
            self._process = self.host.start_agent()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait(30)


class Storm:
    """Runtimes side by side, each with a pod of its own; they share the ledger and the bridge."""

    def __init__(self, host: CniHost, pods: list[Netns], rounds: int) -> None:
        self.host, self.pods, self.rounds = host, pods, rounds
        self.bins = [
            host.bin,
            host.programs("python", compiled=False),
            host.programs("alone", compiled=False, agent=False),
        ]
        self.spans = (0.012, 0.04, 0.08)  # seconds that a call of each takes on a busy machine
        self.held: dict[str, str] = {}
        self.made = self.killed = self.later = 0
        self.lock = threading.Lock()
        self.failures: list[str] = []

    def run(self) -> None:
        threads = [threading.Thread(target=self._guarded, args=(number,)) for number in range(len(self.pods))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(600)
        assert self.failures == []

    def _guarded(self, number: int) -> None:
        try:
            self._runtime(number, random.Random(number))
        except BaseException as error:
            with self.lock:
                self.failures.append(f"runtime {number}: {error!r}")

    def _runtime(self, number: int, chance: random.Random) -> None:
        pod, unclaimed = self.pods[number], set[str]()
        for turn in range(self.rounds // len(self.pods)):
            container = f"c{number}-{turn}"
            kind = chance.randrange(3)
            said = self._call("ADD", container, pod, kind, chance)
            if said is not None:
                self._stays(container, pod, said, chance.uniform(0, 0.05))
            if chance.random() < 0.3:
                self._call("DEL", container, pod, chance.randrange(3), chance)
            # Some are never DELed: the runtime was killed too. (But this pod is to be had again, and the agent goes on with
            # what it was asked until it notices.)
            if said is not None or kind < 2 or link_names(pod) != ["lo"] or chance.random() < 0.5:
                self._delete(container, pod, chance.randrange(3))
            else:
                unclaimed.add(container)
            mine = {each.partition("\r\n")[0] for each in self.host.held().values() if each.startswith(f"c{number}-")}
            assert mine <= unclaimed, f"{mine - unclaimed} were DELed: no ADD may come after"
            assert link_names(pod) == ["lo"]

    def _network(self, container: str, *, agent: bool) -> tuple[dict[str, object], str]:
        """Its configuration and the plugin's name. Every eighth container has rules besides."""
        if sum(container.encode()) % 8:
            return self.host.config(agent=agent, subnet=SUBNET), "wherry-cni"
        return {**masquerading(self.host), "agent": agent}, "bridge"

    def _call(
        self, command: str, container: str, pod: Netns, kind: int, chance: random.Random
    ) -> dict[str, Any] | None:
        """The result of a call that succeeded; it may be killed."""
        doomed = chance.random() < 0.45
        config, name = self._network(container, agent=kind < 2)
        process = self.host.start(command, container, pod.path, config, str(self.bins[kind] / name))
        if doomed:
            deadline = time.monotonic() + chance.uniform(0, self.spans[kind])
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.0005)
            process.kill()
        out, err = process.communicate(timeout=90)
        with self.lock:
            self.killed += process.returncode == -9
        if process.returncode < 0:
            return None
        assert not err, err.decode()
        if process.returncode:
            code = json.loads(out)["code"]
            with self.lock:
                self.later += code == 11
            # Any other would be a finding.
            assert code == 11, out
            return None
        with self.lock:
            self.made += command == "ADD"
        return json.loads(out) if out else {}

    def _stays(self, container: str, pod: Netns, said: dict[str, Any], seconds: float) -> None:
        address = address_of(said)
        with self.lock:
            assert address not in self.held, f"{address} is {self.held[address]}'s and {container}'s"
            self.held[address] = container
        deadline = time.monotonic() + seconds
        while True:
            assert self.host.held().get(address) == f"{container}\r\neth0"
            assert "eth0" in link_names(pod)
            assert said["interfaces"][1]["name"] in self.host.links()
            if time.monotonic() > deadline:
                break
        with self.lock:
            del self.held[address]

    def _delete(self, container: str, pod: Netns, kind: int) -> None:
        """Until it is done, as a runtime does."""
        deadline = time.monotonic() + 90
        while True:
            config, name = self._network(container, agent=kind < 2)
            status, said = self.host.call("DEL", container, pod.path, config, str(self.bins[kind] / name))
            if status == 0:
                return
            assert said["code"] == 11, said
            assert time.monotonic() < deadline


def masquerading(host: CniHost) -> dict[str, object]:
    """The same network and ledger, and rules for what leaves it."""
    ipam = {"type": "host-local", "subnet": SUBNET, "dataDir": str(host.ledger.parent)}
    made = {"cniVersion": "1.1.0", "name": "pods", "type": "bridge", "bridge": "cni0", "isGateway": True}
    return {**made, "ipMasq": True, "ipMasqBackend": "iptables", "ipam": ipam}


def calm(host: CniHost, pods: list[Netns]) -> None:
    """Nothing is left of anybody."""
    assert host.links() == {"cni0"}
    assert host.held() == {}
    assert {each.name for each in host.ledger.iterdir()} <= KEEPERS
    assert host.calls_under_way() == []
    assert [link_names(pod) for pod in pods] == [["lo"]] * len(pods)
    assert "CNI-" not in host.space.run("iptables-save")


def collect(host: CniHost, valid: list[str]) -> None:
    named = [{"containerID": container, "ifname": "eth0"} for container in valid]
    told = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": named}
    assert host.call("GC", "", "", host.config(subnet=SUBNET, **told)) == (0, {})
    assert host.call("GC", "", "", {**masquerading(host), **told}, str(host.bin / "bridge")) == (0, {})


def test_a_storm_of_calls_and_kills_leaks_nothing(host: CniHost, netns: Spaces, trial: Trial) -> None:
    pods = [netns(f"p{number}") for number in range(WORKERS)]
    storm = Storm(host, pods, trial(64, 500))
    with Agent(host, 1) as agent:
        with agent.tormented():
            storm.run()
        assert storm.killed > storm.rounds // 8, "it was no storm"
        assert storm.made > storm.rounds // 8
        assert agent.kills > 1
        collect(host, [])
        calm(host, pods)
        status, said = host.call("ADD", "after", pods[0].path, host.config(agent=True, subnet=SUBNET))
        assert status == 0, said
        collect(host, ["after"])
        assert list(host.held().values()) == ["after\r\neth0"]
        assert len(host.links()) == 2
        host.delete("after", pods[0].path)
        calm(host, pods)


def test_half_done_adds_are_undone_without_any_del(host: CniHost, netns: Spaces, trial: Trial) -> None:
    """The runtime died with its plugins and comes back without knowing of them; half of the ADDs in the agent, half alone."""
    pods = [netns(f"p{number}") for number in range(WORKERS)]
    chance = random.Random(7)
    alone = host.programs("alone", compiled=False, agent=False)
    for turn in range(trial(3, 30)):
        agent = host.start_agent()
        host.await_agent(agent)
        started = []
        for number, pod in enumerate(pods):
            program = alone if number % 2 else host.bin
            config = host.config(agent=number % 2 == 0, subnet=SUBNET)
            started.append(host.start("ADD", f"t{turn}-{number}", pod.path, config, str(program / "wherry-cni")))
        until = time.monotonic() + chance.uniform(0, 0.1)
        while time.monotonic() < until:
            pass
        agent.kill()
        agent.wait(30)
        for process in started:
            process.kill()
        finished = [
            f"t{turn}-{n}" for n, each in enumerate(started) if each.communicate(timeout=30)[0] and not each.returncode
        ]
        agent = host.start_agent()
        try:
            deadline = time.monotonic() + 30
            while host.calls_under_way():
                assert time.monotonic() < deadline, "the new agent undoes what the dead left"
                time.sleep(0.01)
            assert {each.partition("\r\n")[0] for each in host.held().values()} >= set(finished)
            collect(host, finished)
            assert sorted(each.partition("\r\n")[0] for each in host.held().values()) == sorted(finished)
            assert len(host.links()) == len(finished) + bool(host.links())
            for number, pod in enumerate(pods):
                host.delete(f"t{turn}-{number}", pod.path)
            assert host.held() == {}
            assert [link_names(pod) for pod in pods] == [["lo"]] * len(pods)
        finally:
            agent.terminate()
            agent.wait(30)


def test_gos_host_local_in_the_same_storm(host: CniHost, netns: Spaces, trial: Trial) -> None:
    """Both on one ledger: each address once, whoever is killed."""
    requires("host-local")
    pods = [netns(f"p{number}") for number in range(4)]
    storm = Storm(host, pods, trial(24, 200))
    ipam = {"type": "host-local", "subnet": SUBNET, "dataDir": str(host.ledger.parent)}
    theirs = {"cniVersion": "1.0.0", "name": "pods", "type": "host-local", "ipam": ipam}
    over = threading.Event()
    failures: list[str] = []

    def go(number: int) -> None:
        chance, turn, plugin = random.Random(number), 0, f"{GO_PLUGINS}/host-local"
        try:
            while not over.is_set():
                turn += 1
                container = f"go{number}-{turn}"
                process = host.start("ADD", container, "/nowhere", theirs, plugin)
                if chance.random() < 0.3:
                    time.sleep(chance.uniform(0, 0.006))
                    process.kill()
                out, _ = process.communicate(timeout=60)
                if process.returncode == 0:
                    address = address_of(json.loads(out))
                    with storm.lock:
                        assert address not in storm.held, f"{address} is {storm.held[address]}'s and {container}'s"
                        storm.held[address] = container
                    assert host.held()[address] == f"{container}\r\neth0"
                    with storm.lock:
                        del storm.held[address]
                assert process.returncode in {0, -9}, out
                if process.returncode == 0 or chance.random() < 0.5:
                    assert host.call("DEL", container, "/nowhere", theirs, plugin)[0] == 0
        except BaseException as error:
            failures.append(repr(error))

    others = [threading.Thread(target=go, args=(number,)) for number in range(2)]
    with Agent(host, 2) as agent, agent.tormented():
        for each in others:
            each.start()
        try:
            storm.run()
        finally:
            over.set()
            for each in others:
                each.join(60)
    assert failures == []
    collect(host, [])
    calm(host, pods)


@pytest.fixture
def small_disk(host: CniHost) -> Iterator[Path]:
    """64 KB for the ledger."""
    requires("root")
    path = host.ledger.parent
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def test_a_full_disk_refuses_adds_and_still_frees(host: CniHost, netns: Spaces, small_disk: Path) -> None:
    pods = [netns("p0"), netns("p1")]
    said = host.add("kept", pods[0])
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(b"x" * 4096):
            pass
    status, refused = host.call("ADD", "refused", pods[1].path)
    assert (status, refused["code"]) == (1, 5), refused
    assert "No space left on device" in refused["msg"]
    assert list(host.held().values()) == ["kept\r\neth0"]
    assert link_names(pods[1]) == ["lo"]
    host.delete("refused", pods[1].path)
    assert host.check("kept", pods[0], said) == (0, {})
    host.delete("kept", pods[0].path)
    assert host.held() == {}
    (small_disk / "filler").unlink()
    host.add("again", pods[1])
    host.delete("again", pods[1].path)


def test_a_read_only_ledger_is_named(host: CniHost, netns: Spaces, small_disk: Path) -> None:
    pod = netns("p0")
    host.add("kept", pod)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    status, refused = host.call("ADD", "refused", netns("p1").path)
    assert (status, refused["code"]) == (1, 5)
    assert "Read-only file system" in refused["msg"]
    assert str(host.ledger) in refused["msg"]
    status, refused = host.call("DEL", "kept", pod.path)
    assert (status, refused["code"]) == (1, 5), "the runtime is to come again"
    assert link_names(pod) == ["lo"], "what could be removed is"
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    host.delete("kept", pod.path)
    assert host.held() == {}


def test_reservations_dated_in_the_future_and_the_past(host: CniHost, netns: Spaces) -> None:
    """The clock was set: files older or younger than they can be are read all the same."""
    pods = [netns(f"p{number}") for number in range(3)]
    agent = host.start_agent()
    try:
        host.await_agent(agent)
        for number, (pod, stamp) in enumerate(zip(pods, (0, 4102444800, 0), strict=True)):
            host.add(f"c{number}", pod, agent=True)
            for each in (*host.ledger.iterdir(), host.ledger):
                os.utime(each, (stamp, stamp))
        assert len(host.held()) == 3
        os.unlink(host.ledger / "10.77.1.2")
        os.utime(host.ledger, (0, 0))
        for number, pod in enumerate(pods):
            host.delete(f"c{number}", pod.path, agent=True)
        assert host.held() == {}
    finally:
        agent.terminate()
        assert agent.wait(30) == 0
