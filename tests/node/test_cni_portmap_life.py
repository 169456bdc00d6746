"""The portmap plugin's life with a runtime: in and out of order, killed, many at once, and what it refuses."""

from __future__ import annotations

import fcntl
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.node.portmap_world import (
    BOTH,
    FLAVORS,
    HOST_PORT,
    Portmap,
    ours,
    port,
    portmap_world,
    program,
)
from tests.node.service_world import (
    HERE,
    HERE_TOO,
    NODE,
    OUTSIDER,
    PORT,
    Site,
    World,
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with portmap_world() as made:
        yield made


@pytest.fixture(params=FLAVORS)
def portmap(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Portmap]:
    with ours(world, request.param, tmp_path) as made:
        yield made


def test_a_runtimes_life(portmap: Portmap) -> None:
    """ADD, CHECK, ADD again (a killed one's rules are replaced), DEL without prevResult, DEL again."""
    path = portmap.world.spaces[HERE].path
    portmap.add(HERE, *BOTH)
    first, config = portmap.rules(), portmap.attached["c1"]
    assert portmap.call("CHECK", config, netns=path) == (0, {})
    portmap.add(HERE, *BOTH)
    assert sorted(portmap.rules()) == sorted(first)
    bare = {key: value for key, value in config.items() if key != "prevResult"}
    for _ in range(2):
        assert portmap.call("DEL", bare) == (0, {})
        assert portmap.of_containers() == []
    status, said = portmap.call("CHECK", config, netns=path)
    assert (status, said["code"]) == (1, 103)
    assert "no rule in" in said["msg"]


def test_del_takes_what_no_add_would(portmap: Portmap) -> None:
    """A configuration that is wrong must not keep a pod from ending; and what was made before it went wrong goes."""
    portmap.add(HERE, *BOTH)
    config = {**portmap.attached.pop("c1"), "markMasqBit": 99, "prevResult": {"ips": "none"}}
    assert portmap.call("DEL", config) == (0, {})
    assert portmap.of_containers() == []


def test_a_killed_add_leaves_nothing_behind_its_del(portmap: Portmap, trial: Callable[[int, int], int]) -> None:
    """At any moment; and then the whole life goes well."""
    config, path = portmap.config(HERE, BOTH), portmap.world.spaces[HERE].path
    rounds = trial(12, 200)
    for step in (12 * number / rounds for number in range(rounds)):
        with portmap.start("ADD", config, netns=path) as process:
            time.sleep(0.008 * step)  # from the interpreter's start until after the end
            process.kill()
        assert portmap.call("DEL", config) == (0, {})
        assert portmap.of_containers() == []
    portmap.add(HERE, *BOTH)
    assert portmap.call("CHECK", config, netns=path) == (0, {})


@pytest.mark.parametrize("portmap", ["legacy"], indirect=True)  # the others have no lock to wait for
def test_what_a_killed_add_started_is_waited_for(portmap: Portmap) -> None:
    """Its command waits for the lock of the legacy tables still; the DEL comes after it."""
    config, path = portmap.config(HERE, BOTH), portmap.world.spaces[HERE].path
    portmap.add(HERE, port(18090), container="first")  # so that the lock's file and the shared chains are there
    with open(portmap.environment["XTABLES_LOCKFILE"]) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with portmap.start("ADD", config, netns=path) as process:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            deadline = time.monotonic() + 30
            while not any("tables" in Path(f"/proc/{pid}/comm").read_text() for pid in children.read_text().split()):
                assert time.monotonic() < deadline, "it never wrote"
            process.kill()
        gone = portmap.start("DEL", config)
    out, err = gone.communicate(timeout=60)
    assert (gone.returncode, out, err) == (0, b"", b"")
    assert not [rule for rule in portmap.of_containers() if "18090" not in rule and str(HOST_PORT) in rule]


def test_check_names_what_is_missing(portmap: Portmap) -> None:
    portmap.add(HERE, *BOTH)
    run = portmap.world.node.run
    if portmap.flavor == "nftables":
        run("nft", "flush", "chain", "ip6", "cni_hostport", "masquerading")
    else:
        run(f"ip6tables-{portmap.flavor}", "-t", "nat", "-F", "CNI-HOSTPORT-MASQ")
    status, said = portmap.call("CHECK", portmap.attached["c1"], netns=portmap.world.spaces[HERE].path)
    assert (status, said["code"]) == (1, 103)
    assert re.search("no rule in (masquerading|CNI-HOSTPORT-MASQ): ", said["msg"]), said
    portmap.add(HERE_TOO, port(18090), container="c2")
    if portmap.flavor != "nftables":  # there each container has its own
        assert portmap.call("CHECK", portmap.attached["c1"], netns=portmap.world.spaces[HERE].path) == (0, {})


@pytest.mark.parametrize("portmap", ["nftables"], indirect=True)
@pytest.mark.parametrize(
    ("chain", "pattern", "instead", "said"),
    [
        (
            "hostports",
            r"dport 18080 dnat to \S+",
            "tcp dport 1 dnat to {pod}:{port}",
            "no rule in hostports: tcp dport",
        ),
        (
            "hostports",
            r"saddr 127\.0\.0\.1 .*",
            "ip saddr 127.0.0.2 tcp dport 18080 continue",
            "no rule in hostports: ip saddr",
        ),
        ("masquerading", r"masquerade", "ip daddr 192.0.2.1 masquerade", "no rule in masquerading: "),
        ("prerouting", r"fib daddr .*", "drop", "no rule in prerouting: jump hostports"),
        ("output", r"jump hostip_hostports", "continue", "no rule in output: jump hostip_hostports"),
    ],
)
def test_check_compares_what_rules_say(portmap: Portmap, chain: str, pattern: str, instead: str, said: str) -> None:
    portmap.add(HERE, port())
    config, path, run = portmap.attached["c1"], portmap.world.spaces[HERE].path, portmap.world.node.run
    assert portmap.call("CHECK", config, netns=path) == (0, {})
    listed = run("nft", "-a", "list", "chain", "ip", "cni_hostport", chain).splitlines()
    (line,) = [line for line in listed if re.search(pattern, line)]
    comment = ' comment "c1"' if "comment" in line else ""
    words = instead.format(pod=HERE, port=PORT) + comment
    run("nft", "replace", "rule", "ip", "cni_hostport", chain, "handle", line.rpartition(" ")[2], words)
    status, answer = portmap.call("CHECK", config, netns=path)
    assert (status, answer["code"]) == (1, 103)
    assert said in answer["msg"], answer


def test_a_container_in_two_networks_has_the_ports_of_both(portmap: Portmap) -> None:
    """What an ADD, a DEL or a GC does for one of them leaves the other's as they are."""
    first = portmap.config(HERE, [port(18091), port(18092, hostIP=NODE)])
    second = {**portmap.config(HERE_TOO, [port(18093)]), "name": "others"}
    path = portmap.world.spaces[HERE].path

    def there() -> list[str]:
        rules = [rule for rule in portmap.of_containers() if "dnat" in rule.lower()]
        return sorted({number for number in ("18091", "18092", "18093") if any(number in rule for rule in rules)})

    for _ in range(2):
        assert portmap.call("ADD", first, netns=path)[0] == portmap.call("ADD", second, netns=path)[0] == 0
        assert there() == ["18091", "18092", "18093"]
    for each in (first, second):
        assert portmap.call("CHECK", each, netns=path) == (0, {})
    assert portmap.call("DEL", second) == (0, {})
    assert there() == ["18091", "18092"]
    assert portmap.call("CHECK", first, netns=path) == (0, {})
    assert portmap.call("ADD", second, netns=path)[0] == 0
    assert portmap.call("GC", {**first, "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}, container="") == (
        0,
        {},
    )
    assert there() == ["18093"]
    assert portmap.call("CHECK", second, netns=path) == (0, {})
    assert portmap.call("DEL", second) == (0, {})
    assert portmap.of_containers() == []


def test_gc_removes_what_no_attachment_names(portmap: Portmap) -> None:
    portmap.add(HERE, port(18091), container="kept")
    portmap.add(HERE, port(18092), container="lost")
    portmap.add(HERE, port(18093), container="other", name="others")
    valid = {"cni.dev/valid-attachments": [{"containerID": "kept", "ifname": "eth0"}], "cniVersion": "1.1.0"}
    config = {**portmap.config(HERE, ()), **valid}
    assert portmap.call("GC", config, container="") == (0, {})
    left = "\n".join(portmap.of_containers())
    assert ("18091" in left, "18092" in left, "18093" in left) == (True, False, True)
    assert portmap.call("STATUS", config, container="") == (0, {})


def test_twenty_calls_at_once(portmap: Portmap) -> None:
    """The first ones find nothing of what they share. Afterwards it is there once, and so is each container's own."""
    names = [f"c{number}" for number in range(20)]
    configs = {name: portmap.config(HERE, [port(18200 + at)]) for at, name in enumerate(names)}
    path = portmap.world.spaces[HERE].path
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: portmap.call("ADD", configs[name], name, path)[0], names))
        assert found == [0] * 20
        rules = portmap.rules()
        assert len(rules) == len(set(rules)), "a rule is there twice"
        site = Site(portmap.world, 4)
        answers = site.ask_all([site.flow(OUTSIDER, NODE, 18200 + at) for at in range(20)])
        assert answers == [{f"{HERE}:{PORT} {OUTSIDER}": 1}] * 20
        assert list(pool.map(lambda name: portmap.call("DEL", configs[name], name, path), names)) == [(0, {})] * 20
    assert portmap.of_containers() == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"markMasqBit": 32}, "markMasqBit must be a bit's number from 0 to 31, not 32"),
        ({"markMasqBit": 14, "externalSetMarkChain": "KUBE-MARK-MASQ"}, "exclude each other"),
        ({"backend": "ebtables"}, 'backend must be "iptables" or "nftables"'),
        ({"backend": "nftables", "conditionsV4": ["!", "-d", "192.0.2.1"]}, "not in the words of the backend nftables"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 0, "containerPort": 1}]}}, r"portMappings\[0\].hostPort"),
        ({"runtimeConfig": {"portMappings": [port(protocol="icmp")]}}, "must be tcp, udp or sctp"),
        ({"runtimeConfig": {"portMappings": [port(hostIP="1.2.3")]}}, "hostIP must be an address"),
        ({"prevResult": None}, "needs prevResult"),
    ],
)
def test_what_cannot_be_is_refused_by_name(world: World, tmp_path: Path, keys: dict[str, object], said: str) -> None:
    made = Portmap(world, program(tmp_path), {}, {}, "nft")
    status, answer = made.call("ADD", {**made.config(HERE, BOTH), **keys}, netns=world.spaces[HERE].path)
    assert (status, answer["code"]) == (1, 7)
    assert re.search(said, answer["msg"]), answer


def test_without_ports_the_result_passes_through(world: World, tmp_path: Path) -> None:
    made = Portmap(world, program(tmp_path), {}, {}, "nft")
    before = made.rules()
    made.add(HERE)
    made.delete()
    assert made.rules() == before
