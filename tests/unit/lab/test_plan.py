"""What a lab consists of, as text to be read; and that it holds for every size."""

import ipaddress
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lab.model import PODS, SERVICES, UNDERLAY, Lab, Topology
from lab.plan import topology
from overlay import netconf

LAB = Lab(
    name="x",
    nodes=2,
    state="/state/x",
    docker="unix:///state/x/docker.sock",
    own_docker=True,
    api_port=6443,
    demo_port=30080,
    python="python",
    prometheus="/usr/bin/prometheus",
    prometheus_port=9090,
)


def told(made: Topology) -> str:
    """The topology for people: what is made where, and what runs in it."""
    lines = [f"{port} -> {host}:{inside}" for port, host, inside in made.forwards]
    for space, links in made.links.items():
        lines += ["", space, *(f"  ip {line}" for line in links)]
        lines += [f"  {key} = {value}" for key, value in made.sysctls[space].items()]
        for daemon in made.daemons:
            if daemon.namespace == space:
                after = f"  (after {', '.join(daemon.after)})" if daemon.after else ""
                lines += [f"  {daemon.name}{after}", *(f"    {word}" for word in daemon.argv), f"    > {daemon.log}"]
                lines += [f"    {key}={value}" for key, value in daemon.env.items()]
    for path, content in made.files.items():
        lines += ["", path, content.rstrip("\n")]
    return "\n".join(lines) + "\n"


def test_a_lab_of_two(golden: Callable[[Path, str], None]) -> None:
    golden(Path(__file__).parent / "golden" / "two-nodes.txt", told(topology(LAB)))


@pytest.mark.parametrize("nodes", [1, 3, 100])
def test_every_size_has_room(nodes: int) -> None:
    made = topology(replace(LAB, nodes=nodes, prometheus=""))
    assert len({node.address for node in made.nodes}) == nodes
    assert all(node.address in UNDERLAY for node in made.nodes)
    assert len({daemon.name for daemon in made.daemons}) == len(made.daemons) == 1 + 3 + 5 * nodes
    assert set(made.sysctls) == set(made.links)
    # A link's name has 15 bytes at most.
    assert all(len(node.name) <= 15 for node in made.nodes)


def test_the_ranges_do_not_overlap() -> None:
    ranges = [PODS, SERVICES, UNDERLAY]
    assert not [(a, b) for a in ranges for b in ranges if a is not b and a.overlaps(b)]
    assert all(found.is_private for found in ranges)


def test_nobody_has_a_default_route() -> None:
    lines = [line for links in topology(LAB).links.values() for line in links]
    routes = [line.split() for line in lines if line.startswith("route add")]
    targets = [ipaddress.ip_network(next(word for word in words if "/" in word)) for words in routes]
    assert {PODS, SERVICES} == set(targets)


def test_two_labs_share_nothing() -> None:
    one, other = topology(LAB), topology(replace(LAB, name="y", state="/state/y"))
    assert not set(one.links) & set(other.links)
    assert not set(one.files) & set(other.files)
    assert not {n.cgroup for n in one.nodes} & {n.cgroup for n in other.nodes}
    assert not {d.log for d in one.daemons} & {d.log for d in other.daemons}


def test_daemons_wait_only_for_daemons_that_there_are_and_in_no_circle() -> None:
    made = topology(LAB)
    started: set[str] = set()
    waiting = list(made.daemons)
    while waiting:
        free = [d for d in waiting if set(d.after) <= started]
        assert free, f"these wait for one another: {waiting}"
        started |= {d.name for d in free}
        waiting = [d for d in waiting if d.name not in started]


def test_every_file_is_json_and_below_the_labs_state() -> None:
    for path, content in topology(LAB).files.items():
        assert path.startswith("/state/x/")
        json.loads(content)


def test_a_lab_on_etcd() -> None:
    """One etcd, on node1 only, before the API server, whose objects are in it; and none without being asked for."""
    made = topology(replace(LAB, etcd="/usr/bin/etcd"))
    (etcd,) = [daemon for daemon in made.daemons if daemon.argv[0] == "/usr/bin/etcd"]
    (server,) = [daemon for daemon in made.daemons if daemon.name == "node1/apiserver"]
    assert (etcd.node, etcd.namespace, server.after) == ("node1", server.namespace, (etcd.name,))
    assert json.loads(made.files[f"{made.nodes[0].state}/apiserver.yaml"])["etcdServers"] == ["http://127.0.0.1:2379"]
    without = topology(LAB)
    assert not [daemon for daemon in without.daemons if "etcd" in daemon.name]
    assert "etcdServers" not in without.files[f"{without.nodes[0].state}/apiserver.yaml"]


def test_nodes_proxies_write_rules_as_the_lab_was_asked() -> None:
    for mode in ("iptables", "nftables"):
        files = topology(replace(LAB, proxy_mode=mode)).files
        for node in ("node1", "node2"):
            assert json.loads(files[f"/state/x/{node}/proxy.yaml"])["mode"] == mode


def test_the_overlay_is_of_the_kind_that_the_lab_was_asked_for() -> None:
    for backend in ("vxlan", "host-gw"):
        files = topology(replace(LAB, overlay=backend)).files
        for node in ("node1", "node2"):
            assert netconf.parse(files[f"/state/x/{node}/net-conf.json"], "").kind == backend


def test_each_node_has_a_lock_of_its_own() -> None:
    """Legacy iptables and its lock: nodes share the file system, and must not wait for each other."""
    locks = [daemon.env["XTABLES_LOCKFILE"] for daemon in topology(LAB).daemons if daemon.name.endswith("/proxy")]
    assert len(locks) == len(set(locks)) == 2
