"""What a pod's network costs: whole ADDs and DELs as a runtime makes them, against Debian's Go `bridge` with its `host-local`.

Both work in the same fresh namespaces on ranges of the same size, in turn, each started as a runtime starts it: a process, the
call in its environment, the configuration on its stdin. Ours is the shim (compiled where there is a compiler) with the resident
agent; neither masquerades. `cni.add.parallel100` is the time until a hundred ADDs that are started at once have ended.
`cni.add.python` and `cni.add.alone` are what is left of it without a compiler, and without the agent besides. `cni.version` is
what the process costs before it does anything, against the bare interpreter.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni import launcher
from linux import netns
from tests.requirements import missing

RUNS = 40
STORMS = 5
MANY = 100
GO_PLUGINS = "/usr/lib/cni"
DEADLINE = 30.0
_PARALLEL = "cni.add.parallel100"
_NAMES = ("cni.add", "cni.del", "cni.add.python", "cni.add.alone", _PARALLEL)


@dataclass(frozen=True)
class Side:
    """A plugin with its network."""

    program: str
    config: bytes

    @contextlib.contextmanager
    def ready(self, command: str, container: str, pod: str) -> Iterator[Callable[[], int]]:
        """The call prepared, as far as it is the harness's work; calling it starts the process and is its pid."""
        variables = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": pod,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": f"{os.path.dirname(self.program)}:{GO_PLUGINS}",
        }
        stdin, stdout = os.memfd_create("stdin"), os.memfd_create("stdout")
        os.write(stdin, self.config)
        os.lseek(stdin, 0, os.SEEK_SET)
        files = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
        try:
            yield lambda: os.posix_spawn(self.program, [self.program], variables, file_actions=files)
        finally:
            said = os.pread(stdout, 4096, 0)
            os.close(stdin)
            os.close(stdout)
            if b'"code"' in said:
                raise RuntimeError(f"{self.program} {command}: {said.decode()}")

    def call(self, command: str, container: str, pod: str) -> float:
        """Milliseconds of one call."""
        with self.ready(command, container, pod) as start:
            begun = time.perf_counter()
            _wait(start())
            return (time.perf_counter() - begun) * 1000

    def at_once(self, command: str, pods: Sequence[netns.Namespace]) -> float:
        """Milliseconds until calls for all these pods, begun together, have ended."""
        with contextlib.ExitStack() as stack:
            starts = [stack.enter_context(self.ready(command, pod.name, pod.path)) for pod in pods]
            begun = time.perf_counter()
            for each in [start() for start in starts]:
                _wait(each)
            return (time.perf_counter() - begun) * 1000


def rows(only: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows whose names begin with `only`; none where the machine cannot run them."""
    wanted = [name for name in _NAMES if name.startswith(only or "")]
    if wanted and not missing("netns", "bridge", "host-local"):
        with _sides() as (ours, python, alone, theirs, kind):
            yield from _attachments(wanted, (ours, python, alone, theirs), kind)
    if "cni.version".startswith(only or ""):
        with tempfile.TemporaryDirectory(prefix="wherry-bench-cni-") as directory:
            program = str(launcher.write_plugins(Path(directory) / "bin"))
            bare = [os.path.realpath(sys.executable), "-I", "-S", "-c", "pass"]
            version = {"CNI_COMMAND": "VERSION"}
            pairs = [(_timed([program], version), _timed(bare, {})) for _ in range(RUNS)]
            yield _row("cni.version", pairs, "a VERSION call; floor: python -I -S -c pass")


def _attachments(wanted: Sequence[str], sides: Sequence[Side], kind: str) -> Iterator[dict[str, Any]]:
    floor = "floor: Go bridge + host-local, ipMasq off"
    notes = (f"{kind} shim and agent", f"{kind} shim and agent", "Python shim and agent", "stand-alone")
    with _pods(MANY if _PARALLEL in wanted else 1) as pods:
        pod = pods[0].path
        # The first makes the bridge and fills the page cache.
        turns = [
            [(side.call("ADD", "bench", pod), side.call("DEL", "bench", pod)) for side in sides]
            for _ in range(RUNS + 1)
        ]
        places = ((0, 0), (0, 1), (1, 0), (2, 0))
        for name, (side, verb), note in zip(_NAMES, places, notes, strict=False):
            if name in wanted:
                yield _row(name, [(turn[side][verb], turn[-1][verb]) for turn in turns[1:]], f"{note}; {floor}")
        if _PARALLEL in wanted:
            pairs = []
            for _ in range(STORMS):
                times = []
                for side in (sides[0], sides[-1]):
                    times.append(side.at_once("ADD", pods))
                    side.at_once("DEL", pods)
                pairs.append((times[0], times[1]))
            yield _row(_PARALLEL, pairs, f"{MANY} at once; {notes[0]}; {floor}")


@contextlib.contextmanager
def _sides() -> Iterator[tuple[Side, Side, Side, Side, str]]:
    """Ours (its agent answers), ours in Python, ours alone and theirs; and what ours is. In a namespace of the bench's own, in
    which the caller is meanwhile."""
    with tempfile.TemporaryDirectory(prefix="wherry-bench-cni-") as directory:
        socket, run = f"{directory}/cni.sock", f"{directory}/run"
        home = Path(directory)
        program = launcher.write_plugins(home / "bin", socket=socket, run=run)
        python = launcher.write_plugins(home / "python", socket=socket, run=run, compiled=False)
        alone = launcher.write_plugins(home / "alone", socket=f"{home}/none.sock", run=run, compiled=False)
        common = {"cniVersion": "1.0.0", "isGateway": True, "isDefaultGateway": True}
        ours = {**common, "name": "ours", "type": "wherry-cni", "bridge": "cni0", "agent": True}
        ours |= {"subnet": "10.77.0.0/22", "dataDir": directory}
        ipam = {"type": "host-local", "subnet": "10.78.0.0/22", "dataDir": directory}
        theirs = {**common, "name": "theirs", "type": "bridge", "bridge": "cni1", "ipam": ipam}
        space = netns.create(f"bench-cni-{uuid.uuid4().hex[:6]}")
        try:
            with netns.enter(space.path):  # children inherit it, so that nsenter's own start is not measured
                agent = subprocess.Popen(
                    [sys.executable, "-m", "cni.agent", "--socket", socket, "--run-dir", run], stderr=subprocess.DEVNULL
                )
                try:
                    _await(socket, agent)
                    sides = (Side(str(program), _text(ours)), Side(str(python), _text(ours)))
                    others = (
                        Side(str(alone), _text(ours | {"agent": False})),
                        Side(f"{GO_PLUGINS}/bridge", _text(theirs)),
                    )
                    yield *sides, *others, "compiled" if launcher.is_compiled(program) else "Python"
                finally:
                    agent.terminate()
                    agent.wait(DEADLINE)
        finally:
            netns.delete(space.name)


@contextlib.contextmanager
def _pods(count: int) -> Iterator[list[netns.Namespace]]:
    mark = uuid.uuid4().hex[:6]
    made: list[netns.Namespace] = []
    try:
        made.extend(netns.create(f"bench-pod-{mark}-{number}") for number in range(count))
        yield made
    finally:
        for each in made:
            netns.delete(each.name)


def _await(socket: str, agent: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + DEADLINE
    while not os.path.exists(socket):
        if agent.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the CNI agent does not start")
        time.sleep(0.01)


def _text(config: Mapping[str, object]) -> bytes:
    return json.dumps(config).encode()


def _wait(process: int) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status < 0:
        raise RuntimeError(f"a plugin was ended by signal {-status}")


def _timed(argv: Sequence[str], variables: Mapping[str, str]) -> float:
    begun = time.perf_counter()
    subprocess.run(argv, env=variables, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE, check=True)
    return (time.perf_counter() - begun) * 1000


def _row(name: str, pairs: Sequence[tuple[float, float]], note: str) -> dict[str, Any]:
    ours, floor = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "name": name,
        "unit": "ms",
        "ours": round(ours, 2),
        "floor": round(floor, 2),
        "ratio": round(ours / floor, 2),
        "runs": len(pairs),
        "note": note,
    }
