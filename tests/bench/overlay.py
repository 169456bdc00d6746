"""`overlay.throughput`: one TCP stream between two namespaces, through our daemons' VXLAN and through a hand-made one.

Both tunnels cross the same bridge between the same two namespaces and have the same MTU; the hand-made one is what
`ip link add type vxlan` and `bridge fdb` make. The streams run in turn.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from linux import netns
from tests.node.overlay_world import OverlayNode, World, end, until
from tests.requirements import missing

NAME = "overlay.throughput"
RUNS = 5
SECONDS = 2


def rows(only: str | None = None) -> Iterator[dict[str, Any]]:
    if only and not NAME.startswith(only):
        return
    if lacking := missing("root", "netns", "nsenter", "ip", "bridge", "iperf3"):
        print(f"{NAME}: not measured, this machine lacks {', '.join(lacking)}")
        return
    with tempfile.TemporaryDirectory(prefix="wherry-bench-") as home:
        world = World(Path(home), nodes=2)
        try:
            yield _throughput(world)
        finally:
            world.close()


def _throughput(world: World) -> dict[str, Any]:
    one, two = world.start_daemons().nodes
    _by_hand(one, two)
    server = two.space.start(["iperf3", "-s", "-p", "5301"], world.home / "iperf3.log")
    try:
        until(lambda: one.reaches(two), "the overlay works")
        ours, floor = [], []
        for _ in range(RUNS):
            ours.append(_stream(one, "10.244.2.0"))
            floor.append(_stream(one, "10.250.0.2"))
    finally:
        end(server)
    middle = statistics.median(ours), statistics.median(floor)
    return {
        "name": NAME,
        "unit": "Gbit/s",
        "ours": round(middle[0], 3),
        "floor": round(middle[1], 3),
        "ratio": round(middle[0] / middle[1], 3),
        "runs": RUNS,
        "note": f"one TCP stream of {SECONDS} s between two namespaces; floor: VXLAN made by ip and bridge, more is better",
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
