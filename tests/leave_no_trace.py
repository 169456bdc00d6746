"""Leave no trace: what the machine looked like before, and that it looks so again.

`Snapshot.take()` reads everything that a node or a lab could leave behind: links, addresses, routes, rules (iptables of both
backends and nftables), namespaced sysctls of the root namespace, network namespaces, mounts, cgroups, containers (of every
dockerd named) and processes. `before.difference(after)` is empty when nothing was left; otherwise it says what, by class.

On a machine that others use at the same time, WHERRY_SHARED_MACHINE=1 narrows the comparison to the root namespace's network:
theirs would be taken for ours. In CI the machine is ours alone and the comparison is whole.

Processes are compared by what marks them as ours: those that did not exist before and descend from this test run or run
under a Wherry cgroup or namespace. Somebody else's new process is none of our business.
"""

import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

_SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/forwarding",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv6/conf/all/forwarding",
    "net/bridge/bridge-nf-call-iptables",
    "net/netfilter/nf_conntrack_max",
)


LANE = "WHERRY_TEST_LANE"
LANE_CGROUPS = "WHERRY_TEST_LANE_CGROUPS"
"""In the environment of a lane (tests/lanes.py): its name, and a pattern of the cgroups that are its own."""

_ROOT_NETWORK = ("links", "addresses", "routes", "rules", "sysctls")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Sets of lines by class."""

    facts: dict[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def take(cls, docker_hosts: Iterable[str] = ()) -> "Snapshot":
        readers: dict[str, Callable[[], Iterable[str]]] = {
            "links": lambda: _ip("-o", "link"),
            "addresses": lambda: _ip("-o", "address"),
            "routes": lambda: _ip("route", "show", "table", "all"),
            "rules": _rules,
            "sysctls": _sysctls,
            "namespaces": _namespaces,
            "mounts": _mounts,
            "cgroups": _cgroups,
            "containers": lambda: _containers(docker_hosts),
            "processes": _processes,
        }
        shared = bool(os.environ.get("WHERRY_SHARED_MACHINE"))
        return cls({name: frozenset(read()) for name, read in readers.items() if not shared or name in _ROOT_NETWORK})

    def difference(self, after: "Snapshot") -> dict[str, list[str]]:
        """What is in `after` and was not here (`+`), or was here and is gone (`-`), by class; empty when nothing is."""
        found: dict[str, list[str]] = {}
        for name, before in self.facts.items():
            now = after.facts[name]
            gone = (
                [] if name in ("processes", "containers", "mounts") else [f"-{line}" for line in sorted(before - now)]
            )
            new = _unreplaced(before - now, now - before) if name == "processes" else now - before
            lines = [f"+{line}" for line in sorted(new)] + gone
            if lines:
                found[name] = lines
        return found


def _unreplaced(gone: Iterable[str], new: Iterable[str]) -> list[str]:
    """Of processes that are new those in whose place none has gone: a world's daemon that a test started again is no trace."""
    places = Counter(line.partition(" ")[2] for line in gone)
    found: list[str] = []
    for line in sorted(new):
        command = line.partition(" ")[2]
        places[command] -= 1
        if places[command] < 0:
            found.append(line)
    return found


def settled(before: Snapshot, *, seconds: float = 10.0, docker_hosts: Iterable[str] = ()) -> dict[str, list[str]]:
    """The difference, once it is empty or `seconds` have passed: the kernel takes namespaces and cgroups down on its own."""
    deadline = time.monotonic() + seconds
    while True:
        difference = before.difference(Snapshot.take(docker_hosts))
        if not difference or time.monotonic() > deadline:
            return difference
        time.sleep(0.1)


def _lines(*argv: str) -> list[str]:
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return []
    return answer.stdout.splitlines() if answer.returncode == 0 else []


def _ip(*argv: str) -> list[str]:
    """Without what changes by itself: counters of lifetimes, and the state of a link's carrier."""
    volatile = re.compile(r"(valid_lft \S+|preferred_lft \S+|expires \S+|state \S+|qlen \d+|<[A-Z,_-]*>|age \S+)")
    return [volatile.sub("", line).rstrip() for line in _lines("ip", *argv)]


def _rules() -> list[str]:
    found: list[str] = []
    for family in ("iptables", "ip6tables"):
        for backend in ("nft", "legacy"):
            # The legacy tool would load its modules, a trace of its own, where nobody has used it yet.
            if backend == "legacy" and not Path(f"/proc/net/{family.replace('iptables', '_tables')}_names").exists():
                continue
            saved = [re.sub(r"\[\d+:\d+\]", "", line) for line in _lines(f"{family}-{backend}-save")]
            found += [f"{family}-{backend}: {line}" for line in saved if not line.startswith("#")]
    found += [re.sub(r"counter packets \d+ bytes \d+", "counter", line) for line in _lines("nft", "list", "ruleset")]
    # An empty base chain is what merely listing leaves; it decides nothing.
    return [
        line
        for line in found
        if not re.search(r": \*|: COMMIT|: :\w+ ACCEPT|^table |^\}|^$", line.strip()) and line.strip()
    ]


def _sysctls() -> list[str]:
    return [
        f"{name}={(Path('/proc/sys') / name).read_text().strip()}"
        for name in _SYSCTLS
        if (Path("/proc/sys") / name).exists()
    ]


def _namespaces() -> list[str]:
    folder = Path("/run/netns")
    return [f"/run/netns/{entry.name}" for entry in folder.iterdir()] if folder.is_dir() else []


def _mounts() -> list[str]:
    with open("/proc/self/mountinfo") as table:
        found = [" ".join((line.split()[4], line.split(" - ")[1].split()[0])) for line in table]
    # The first named namespace makes /run/netns a mount of its own, as `ip netns add` does, and it stays so.
    return [line for line in found if line != "/run/netns tmpfs"]


def _cgroups() -> list[str]:
    """Walked by os.walk, which a group that goes meanwhile does not disturb."""
    root = Path("/sys/fs/cgroup")
    marks = ("wherry", "kubepods", "docker")
    own = os.environ.get(LANE_CGROUPS, "")
    found: set[str] = set()
    for controller in [root, *root.iterdir()] if root.is_dir() else []:
        if controller.is_dir() and not controller.is_symlink():
            tops = [str(entry) for entry in controller.iterdir() if any(mark in entry.name for mark in marks)]
            found |= {folder for top in tops for folder, _, _ in os.walk(top)}
    return sorted(p for p in found if Path(p).name != "docker" and re.search(own, p))


def _containers(hosts: Iterable[str]) -> list[str]:
    found: list[str] = []
    for host in hosts:
        for line in _lines("docker", "-H", host, "ps", "-a", "--no-trunc", "--format", "{{json .}}"):
            entry = json.loads(line)
            found.append(f"{host} {entry['ID'][:12]} {entry['Names']}")
    return found


def _processes() -> list[str]:
    ours = os.getpid()
    home = os.readlink("/proc/self/ns/net")
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == ours:
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            namespace = os.readlink(entry / "ns/net")
            groups = (entry / "cgroup").read_text()
        except OSError:
            continue
        if not command:
            continue
        if namespace != home or "/wherry" in groups or "wherry" in command:
            found.append(f"{entry.name} {command[:160]}")
    return found
