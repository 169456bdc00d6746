"""`overlay.throughput`: one TCP stream between two namespaces, through our daemons' VXLAN and through a hand-made one.
`overlay.join.100`: how long after a node of a hundred gets its podCIDR a pod on another node hears a pod on it.

Both tunnels cross the same bridge between the same two namespaces and have the same MTU; the hand-made one is what
`ip link add type vxlan` and `bridge fdb` make. The streams run in turn. Of the hundred nodes two have daemons, the
other leases are made up; the node that joins is deleted and comes back for each turn.
"""

import json
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kube.resources import NODES
from linux import netns
from tests.node.overlay_world import OverlayNode, World, end, until
from tests.node.pinger import ping, train
from tests.requirements import missing

RUNS = 5
SECONDS = 2
NODES_IN_ALL = 100

Row = dict[str, Any]


def rows(only: str | None = None) -> Iterator[Row]:
    for name, tools, measure in _FIGURES:
        if only and not name.startswith(only):
            continue
        if lacking := missing("root", "netns", "nsenter", "ip", "bridge", *tools):
            print(f"{name}: not measured, this machine lacks {', '.join(lacking)}")
            continue
        with tempfile.TemporaryDirectory(prefix="wherry-bench-") as home:
            world = World(Path(home), nodes=2)
            try:
                yield {"name": name, **measure(world)}
            finally:
                world.close()


def _throughput(world: World) -> Row:
    one, two = world.start_daemons().nodes
    _by_hand(one, two)
    server = two.space.start(["iperf3", "-s", "-p", "5301"], world.home / "iperf3.log")
    try:
        ours: list[float] = []
        floor: list[float] = []
        for turn in range(RUNS):
            # Whoever comes second finds a warmer or a busier machine: they take turns at that too.
            for target, found in (
                (("10.244.2.0", ours), ("10.250.0.2", floor)),
                (("10.250.0.2", floor), ("10.244.2.0", ours)),
            )[turn % 2]:
                found.append(_stream(one, target))
    finally:
        end(server)
    middle = statistics.median(ours), statistics.median(floor)
    return {
        "unit": "Gbit/s",
        "ours": round(middle[0], 3),
        "floor": round(middle[1], 3),
        "ratio": round(statistics.median(mine / hand for mine, hand in zip(ours, floor, strict=True)), 3),
        "runs": RUNS,
        "note": f"one TCP stream of {SECONDS} s between two namespaces; floor: VXLAN by ip and bridge; ratio: the turns' median",
    }


def _by_hand(one: OverlayNode, two: OverlayNode) -> None:
    """VNI 77 on UDP 4789 between the same two namespaces."""
    for here, there, number in ((one, two, 1), (two, one, 2)):
        device = ("ip", "link", "add", "hand", "address", f"02:77:00:00:00:0{number}", "mtu", "1450", "type", "vxlan")
        here.space.run(*device, "id", "77", "dstport", "4789", "local", here.address, "dev", "eth0", "nolearning")
        here.space.run("ip", "addr", "add", f"10.250.0.{number}/24", "dev", "hand")
        here.space.run("ip", "link", "set", "hand", "up")
        mac, peer = f"02:77:00:00:00:0{3 - number}", f"10.250.0.{3 - number}"
        here.space.run("ip", "neigh", "add", peer, "lladdr", mac, "dev", "hand", "nud", "permanent")
        here.space.run("bridge", "fdb", "add", mac, "dev", "hand", "dst", there.address, "self", "permanent")


def _stream(node: OverlayNode, target: str) -> float:
    """Gbit/s received; asked again while the server still says goodbye to the client before."""
    for _ in range(20):
        text = node.space.run("iperf3", "-c", target, "-p", "5301", "-t", str(SECONDS), "-J", check=False, timeout=60)
        result = json.loads(text or "{}")
        if "error" not in result:
            return float(result["end"]["sum_received"]["bits_per_second"]) / 1e9
        time.sleep(0.1)
    raise RuntimeError(
        f"iperf3 from {node.name} ({netns.identity(node.space.path)}) to {target}: {result.get('error')}"
    )


def _join(world: World) -> Row:
    one, two = world.nodes
    world.create_claims(range(10, 10 + NODES_IN_ALL - 2))
    one.start()
    one.ready()
    waiting, starting = [], []
    for _ in range(RUNS):
        waiting.append(_joined(world, two, daemon_first=True))
        starting.append(_joined(world, two, daemon_first=False))
    return {
        "unit": "s",
        "ours": round(statistics.median(waiting), 3),
        "floor": None,
        "ratio": None,
        "runs": RUNS,
        "note": (
            f"{NODES_IN_ALL} nodes: from a new node's podCIDR to the first answer of a pod on it to one of another node; its "
            f"daemon waits already (worst {max(waiting):.2f}; with the daemon's start in it {statistics.median(starting):.2f})"
        ),
    }


def _joined(world: World, two: OverlayNode, *, daemon_first: bool) -> float:
    """Seconds until node2's pod answers node1's; node2 is gone before."""
    one = world.nodes[0]
    if two.daemon:
        two.stop(signal.SIGTERM)
        two.space.run(*two.argv("--cleanup"))
    world.delete_node(two.name)
    until(lambda: "10.244.2.0" not in str(one.kernel()["routes"]), "node2 is forgotten", 20, one.text)
    assert not ping(one.pod.path, two.pod_address, seconds=0.2)
    world.create_node(two.name, "")
    two.log.unlink(missing_ok=True)
    if daemon_first:
        two.start()
        until(lambda: "podCIDR: the controllers" in two.text(), "node2's daemon waits", 30, two.text)
    with train(one.pod.path, two.pod_address, gap=0.005, patience=0.1) as pings:
        began = time.monotonic()
        if not daemon_first:
            two.start()
        spec = {"spec": {"podCIDR": "10.244.2.0/24", "podCIDRs": ["10.244.2.0/24"]}}
        world.api(lambda client: client.patch(NODES, two.name, spec))
        until(lambda: len(pings.answered), "an answer", 30, two.text)
    return min(pings.answered) - began


_FIGURES: list[tuple[str, tuple[str, ...], Callable[[World], Row]]] = [
    ("overlay.throughput", ("iperf3",), _throughput),
    ("overlay.join.100", (), _join),
]
