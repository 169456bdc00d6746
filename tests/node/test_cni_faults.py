"""kill -9 at any instruction, and the Go plugins on the same files: nothing leaks and nobody is given a held address."""

import contextlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import Netns
from tests.node.cni_host import GO_PLUGINS, CniHost, address_of, link_names, pings
from tests.requirements import requires

Spaces = Callable[[str], Netns]
ROUNDS = 1200 if os.environ.get("WHERRY_SOAK") else 60


@pytest.fixture(params=["alone", "agent"])
def host(netns: Spaces, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[CniHost]:
    made = CniHost(netns("host"), tmp_path)
    with made.served() if request.param == "agent" else contextlib.nullcontext(made):
        yield made


def killed(
    host: CniHost, command: str, pod: Netns, after: float, config: Mapping[str, object] | None = None, plugin: str = ""
) -> None:
    """Starts the call and kills it, as uncleanly as there is, this many seconds later (it may have ended by then)."""
    process = host.start(command, "victim", pod.path, config, plugin)
    deadline = time.monotonic() + after
    while process.poll() is None and time.monotonic() < deadline:
        pass  # microseconds count: a sleep would always end between the same two steps
    process.kill()
    process.communicate(timeout=30)


def test_a_storm_of_kills_leaks_nothing(host: CniHost, netns: Spaces) -> None:
    pod, bystander = netns("pod"), netns("bystander")
    host.add("bystander", bystander)
    chance = random.Random(20)
    begun = time.monotonic()
    host.add("victim", pod)
    host.delete("victim")
    span = (time.monotonic() - begun) / 2 * 1.3  # one call's time and a little more
    for turn in range(ROUNDS):
        if turn % 2:
            host.add("victim", pod)
            killed(host, "DEL", pod, chance.uniform(0, span))
        else:
            killed(host, "ADD", pod, chance.uniform(0, span))
        host.delete("victim", pod.path)
        assert len(host.links()) == 2, f"turn {turn}: {host.links()}"
        assert list(host.held().values()) == ["bystander\r\neth0"], f"turn {turn}"
        assert link_names(pod) == ["lo"], f"turn {turn}"
    said = host.add("victim", pod)
    assert host.check("victim", pod, said) == (0, {})
    assert sorted(each.name for each in host.ledger.iterdir()) == sorted(
        [*host.held(), ".resting", "last_reserved_ip.0", "lock"]
    )
    requires("busybox")
    assert pings(pod, "10.77.1.2"), "the bystander"


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_a_storm_of_kills_leaks_no_rule(host: CniHost, netns: Spaces, backend: str) -> None:
    """What a killed call had started (iptables-restore, nft) may go on after it, but not past its DEL."""
    requires("iptables-save", "nft")
    pod, plugin, chance = netns("pod"), str(host.bin / "bridge"), random.Random(21)
    ranges = [[{"subnet": "10.77.1.0/24"}], [{"subnet": "fd00:77:1::/64"}]]
    ipam = {"type": "host-local", "ranges": ranges, "dataDir": str(host.ledger.parent)}
    config = host.config(type="bridge", isGateway=True, ipMasq=True, ipMasqBackend=backend, ipam=ipam)

    def call(command: str) -> None:
        status, said = host.call(command, "victim", pod.path, config, plugin)
        assert status == 0, said

    def rules() -> str:
        saves = [("nft", "list", "ruleset")] if backend == "nftables" else [("iptables-save",), ("ip6tables-save",)]
        return "".join(host.space.run(*save) for save in saves)

    begun = time.monotonic()
    call("ADD")
    call("DEL")
    span = (time.monotonic() - begun) / 2 * 1.3
    for turn in range(max(ROUNDS // 4, 15)):
        if turn % 2:
            call("ADD")
        killed(host, "DEL" if turn % 2 else "ADD", pod, chance.uniform(0, span), config, plugin)
        call("DEL")
        assert (host.links(), host.held(), link_names(pod)) == ({"cni0"}, {}, ["lo"]), f"turn {turn}"
        assert "victim" not in rules(), f"turn {turn}"
    call("ADD")
    assert "victim" in rules()


def test_an_add_after_a_killed_add_needs_only_the_del(host: CniHost, netns: Spaces) -> None:
    """The pair is there, the reservation is gone (its directory was wiped)."""
    pod = netns("pod")
    host.add("victim", pod)
    shutil.rmtree(host.ledger)
    host.delete("victim", pod.path)
    said = host.add("victim", pod)
    assert host.check("victim", pod, said) == (0, {})


def test_a_second_add_that_is_killed_takes_nothing_of_the_first(host: CniHost, netns: Spaces) -> None:
    pod, chance = netns("pod"), random.Random(22)
    said = host.add("victim", pod)
    valid = {"cni.dev/valid-attachments": [{"containerID": "victim", "ifname": "eth0"}]}
    for _ in range(max(ROUNDS // 4, 15)):
        killed(host, "ADD", pod, chance.uniform(0, 0.05))
        assert host.call("GC", "", "", host.config(cniVersion="1.1.0", **valid)) == (0, {})
        assert host.check("victim", pod, said) == (0, {})
    assert host.calls_under_way() == []


def test_a_reservation_that_go_left_half_written_is_not_lost(host: CniHost, netns: Spaces) -> None:
    host.ledger.mkdir(parents=True)
    (host.ledger / "10.77.1.2").touch()
    assert address_of(host.add("c1", netns("pod"))) == "10.77.1.2"


def go(host: CniHost, kind: str) -> dict[str, object]:
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "type": kind,
        "bridge": "cni0",
        "isGateway": True,
        "ipam": {"type": "host-local", "subnet": "10.77.1.0/24", "dataDir": str(host.ledger.parent)},
    }


def test_gos_host_local_reads_and_writes_the_same_ledger(host: CniHost, netns: Spaces) -> None:
    requires("host-local")
    plugin = f"{GO_PLUGINS}/host-local"
    pod = netns("pod")
    assert address_of(host.add("ours", pod)) == "10.77.1.2"
    status, said = host.call("ADD", "theirs", pod.path, go(host, "host-local"), plugin)
    assert (status, address_of(said)) == (0, "10.77.1.3"), "after ours, by our cursor"
    status, said = host.call("ADD", "ours", pod.path, go(host, "host-local"), plugin)
    assert status == 1, "it knows that ours holds one"
    assert address_of(host.add("more", netns("more"))) == "10.77.1.4", "after theirs, by their cursor"
    host.delete("theirs")
    assert host.call("DEL", "ours", pod.path, go(host, "host-local"), plugin)[0] == 0
    assert list(host.held().values()) == ["more\r\neth0"]


def test_a_pod_that_gos_bridge_wired_is_ours_to_remove(host: CniHost, netns: Spaces) -> None:
    """Its end on the node is named otherwise than ours, so the pod's is removed, and no link of the node that has its number."""
    requires("bridge", "host-local")
    pod = netns("pod")
    host.space.run("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "wire")
    status, said = host.call("ADD", "c1", pod.path, go(host, "bridge"), f"{GO_PLUGINS}/bridge")
    assert (status, address_of(said)) == (0, "10.77.1.2")
    second = netns("second")
    assert address_of(host.add("c2", second)) == "10.77.1.3", "beside it, on the same bridge"
    (end,) = json.loads(pod.run("ip", "-j", "link", "show", "eth0"))
    numbers = [
        each["ifindex"]
        for each in json.loads(host.space.run("ip", "-j", "link"))
        if each["ifname"] in {"uplink", "wire"}
    ]
    assert end["ifindex"] in numbers
    host.delete("c1", pod.path)
    assert link_names(pod) == ["lo"]
    assert list(host.held()) == ["10.77.1.3"]
    assert host.call("DEL", "c2", second.path, go(host, "bridge"), f"{GO_PLUGINS}/bridge")[0] == 0
    assert (host.links(), host.held()) == ({"cni0", "uplink", "wire"}, {})
