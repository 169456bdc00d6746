"""`overlay.program.1000`: what a thousand peers cost in the kernel of one node. The leases are simulated, the entries are real.

    overlay.program.1000         all 3,000 from nothing: what `apply` takes from an empty device on. Floor: the same entries
                                 by `ip -batch` and `bridge -batch`
    overlay.program.1000.quiet   a pass that finds all as it should be: reading, comparing. Floor: `ip route`, `ip neigh`
                                 and `bridge fdb` reading the same tables
    overlay.program.1000.change  a pass that finds one peer gone: reading, comparing, three writes. Floor: the three entries
                                 by one `ip -batch` and one `bridge -batch`, with nothing read

Ours and the floor take turns in one namespace, each on a device of its own that is made anew. The note says how long
the event loop was held at most: what else the daemon does waits for that long.
"""

import asyncio
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from linux import netns
from linux.iptables.rules import Family
from linux.netlink import Conversation
from overlay.apply import apply
from overlay.model import Action, AddAddress, AdjustDevice, CreateDevice, Fdb, Neighbour, Wanted
from tests.conftest import named_netns
from tests.node.peers_world import NAMES, PeersWorld, entries, look, subnet, tunnel_of
from tests.requirements import missing

NAME = "overlay.program.1000"
PEERS = 1000
RUNS = 7
FAMILY = Family.V4
TUNNEL = tunnel_of(FAMILY)

Row = dict[str, Any]


def rows(only: str | None = None) -> Iterator[Row]:
    names = (NAME, f"{NAME}.quiet", f"{NAME}.change")
    if only and not any(name.startswith(only) for name in names):
        return
    if lacking := missing("root", "netns", "nsenter", "ip", "bridge"):
        print(f"{NAME}: not measured, this machine lacks {', '.join(lacking)}")
        return
    with named_netns() as make:
        world = PeersWorld(make("program"))
        found = _Found()
        for turn in range(RUNS + 1):
            found.take(world, warm=turn > 0)
        yield from found.rows()


class _Found:
    """Milliseconds of each turn, ours and the floor's; the first is left out."""

    def __init__(self) -> None:
        self._ours: dict[str, list[float]] = {"": [], ".quiet": [], ".change": []}
        self._floor: dict[str, list[float]] = {"": [], ".quiet": [], ".change": []}
        self._held: dict[str, list[float]] = {"": [], ".quiet": [], ".change": []}

    def take(self, world: PeersWorld, *, warm: bool) -> None:
        wanted = world.wanted(FAMILY, PEERS)
        device = [
            step for step in world.steps(wanted, TUNNEL) if isinstance(step, CreateDevice | AdjustDevice | AddAddress)
        ]
        world.do(lambda ip: apply(ip, TUNNEL, device))
        steps = world.steps(wanted, TUNNEL)
        assert len(steps) == 3 * PEERS
        turns = {
            "": lambda ip: apply(ip, TUNNEL, steps),
            ".quiet": lambda ip: _pass(ip, wanted, expected=0),
            ".change": lambda ip: _pass(ip, _one_less(wanted), expected=3),
        }
        for name, work in turns.items():
            took, held = world.do(lambda ip, work=work: _measured(ip, work))  # type: ignore[misc]
            if warm:
                self._ours[name].append(took)
                self._held[name].append(held)
        world.space.run("ip", "link", "del", NAMES[FAMILY])
        floors = netns.call(world.space.path, lambda: _by_hand(wanted))
        world.space.run("ip", "link", "del", NAMES[FAMILY])
        for name, took in zip(turns, floors, strict=True):
            if warm:
                self._floor[name].append(took)

    def rows(self) -> Iterator[Row]:
        notes = {
            "": f"{3 * PEERS} entries from nothing; floor: ip -batch and bridge -batch",
            ".quiet": "a pass that changes nothing; floor: ip and bridge listing the same tables",
            ".change": "a pass that takes one peer's three entries away; floor: ip and bridge taking them, unread",
        }
        for name, note in notes.items():
            ours, floor = statistics.median(self._ours[name]), statistics.median(self._floor[name])
            held = statistics.median(self._held[name])
            yield {
                "name": NAME + name,
                "unit": "ms",
                "ours": round(ours, 2),
                "floor": round(floor, 2),
                "ratio": round(ours / floor, 2),
                "runs": RUNS,
                "note": f"{note}. The loop was held for {held:.1f} ms at most",
            }


async def _pass(ip: Conversation, wanted: Wanted, *, expected: int) -> None:
    steps: list[Action] = await look(ip, wanted, TUNNEL)
    if len(steps) != expected:
        raise RuntimeError(f"{len(steps)} steps where {expected} were to be expected, the first {steps[:1]}")
    await apply(ip, TUNNEL, steps)


async def _measured(ip: Conversation, work: Callable[[Conversation], Any]) -> tuple[float, float]:
    """How long it took, and the longest time for which nothing else on the loop had its turn."""
    longest = 0.0

    async def beside() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)

    async with asyncio.TaskGroup() as group:
        other = group.create_task(beside())
        await asyncio.sleep(0)
        begun = time.perf_counter()
        await work(ip)
        took = time.perf_counter() - begun
        await asyncio.sleep(0)
        other.cancel()
    return took * 1000, longest * 1000


def _one_less(wanted: Wanted) -> Wanted:
    """The last peer has gone."""
    return replace(wanted, neighbours=wanted.neighbours[:-1], fdb=wanted.fdb[:-1], routes=wanted.routes[:-1])


def _by_hand(wanted: Wanted) -> tuple[float, float, float]:
    name = NAMES[FAMILY]
    _run("ip", "link", "add", name, "type", "vxlan", "id", "1", "dstport", "8472", "dev", "eth0", "nolearning")
    _run("ip", "addr", "add", f"{subnet(FAMILY, 0).network_address}/32", "dev", name)
    _run("ip", "link", "set", name, "up")
    ways, hosts = _batches(name, range(1, PEERS + 1), "replace")
    whole = _timed(lambda: (_run("ip", "-batch", "-", stdin=ways), _run("bridge", "-batch", "-", stdin=hosts)))
    quiet = _timed(
        lambda: (
            _run("ip", "route", "show", "table", "main"),
            _run("ip", "neigh", "show", "dev", name),
            _run("bridge", "fdb", "show", "dev", name),
        )
    )
    ways, hosts = _batches(name, range(PEERS, PEERS + 1), "del")
    change = _timed(lambda: (_run("ip", "-batch", "-", stdin=ways), _run("bridge", "-batch", "-", stdin=hosts)))
    return whole, quiet, change


def _batches(device: str, numbers: range, verb: str) -> tuple[str, str]:
    ways, hosts = [], []
    for number in numbers:
        neighbour, fdb, route = entries(FAMILY, number)
        assert isinstance(neighbour, Neighbour)
        assert isinstance(fdb, Fdb)
        ways.append(f"neigh {verb} {neighbour.address} lladdr {neighbour.mac} dev {device} nud permanent")
        ways.append(f"route {verb} {route.destination} via {route.gateway} dev {device} onlink proto 87")
        hosts.append(f"fdb {verb} {fdb.mac} dev {device} dst {fdb.remote} self permanent")
    return "\n".join(ways), "\n".join(hosts)


def _run(*argv: str, stdin: str = "") -> None:
    subprocess.run(argv, input=stdin.encode(), check=True, stdout=subprocess.DEVNULL)


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1000
