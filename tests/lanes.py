"""Lanes of tests on one machine, side by side: `python -m tests.lanes [pytest's words]`.

These tests wait more than they compute (for kernels, graces, leases), so a second lane is nearly free; but they prove that
nothing is left behind, and each would take the other's processes and mounts for its own. So a lane is a process tree in a PID
and a mount namespace of its own, with a /run/netns of its own: it sees what it made, and when it ends the kernel ends what it
left. What namespaces do not part is told apart otherwise: cgroups by their names (tests/leave_no_trace.py reads `cgroups`);
the root namespace's network is nobody's to change, so all watch the whole of it; ports and lab names are taken where free. The
whole machine is compared once more around all lanes.

What measures times against each other is marked `alone` and runs when the lanes have ended. `--again` runs what failed once
more, one lane after the other: what passes then is flaky and wants mending.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.leave_no_trace import LANE, LANE_CGROUPS, Snapshot, settled

ROOT = Path(__file__).resolve().parents[1]
MEMORY = ROOT / ".pytest_cache" / "lanes-failed"
MACHINE = "machine"
NOTHING_COLLECTED = 5
REPORT_SECONDS = 30.0
AT_ONCE = 3

_NAMESPACES = (
    *("setpriv", "--pdeathsig", "KILL"),  # a lane does not outlive this program, however that ends
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
# The shell stays as the lane's first process, and reaps what daemons leave to it.
_INSIDE = 'mount -t tmpfs -o mode=755 tmpfs /run/netns && "$@"; exit $?'


@dataclass(frozen=True, slots=True)
class Lane:
    name: str
    paths: tuple[str, ...]
    """Directories, or patterns of files."""
    cgroups: str
    """A pattern of those that this lane makes: it looks at no others."""
    without: tuple[str, ...] = ()
    """Patterns of files that are another lane's."""
    marks: str = "not alone"

    def argv(self) -> list[str]:
        paths = [str(path.relative_to(ROOT)) for pattern in self.paths for path in sorted(ROOT.glob(pattern))]
        return ["-m", self.marks, *(f"--ignore-glob={ROOT}/{pattern}" for pattern in self.without), *paths]


_KUBELET = ("tests/node/test_kubelet*.py", "tests/node/test_streams*.py", "tests/node/test_sandbox*.py")
_PROXY = ("tests/node/test_proxy*.py", "tests/node/test_conntrack.py", "tests/node/test_nftables.py")
_OVERLAY = ("tests/node/test_overlay*.py", "tests/node/test_route*.py")
_CNI = ("tests/node/test_cni*.py",)
_BRIEF_LAB = r"/wherry/t[0-9a-f]{5}\b"
LANES = (
    Lane("cluster", ("tests/cluster", *_PROXY), rf"/wherry/(?!{_BRIEF_LAB.removeprefix('/wherry/')})"),
    Lane("kubelet", ("tests/contracts", *_KUBELET), "/wherry-test-kubelet-"),
    Lane("node", ("tests/node",), rf"/wherry-test-node-|{_BRIEF_LAB}", without=(*_KUBELET, *_PROXY, *_OVERLAY, *_CNI)),
    Lane("overlay", _OVERLAY, "/wherry-test-overlay-"),
    Lane("cni", _CNI, "/wherry-test-cni-"),
)
ALONE = Lane("alone", ("tests/contracts", "tests/node", "tests/cluster"), "", marks="alone")


class Run:
    """A lane's pytest, its output in a file until it has ended."""

    def __init__(self, lane: Lane, words: Sequence[str]) -> None:
        self.lane = lane
        self.started = time.monotonic()
        self.output = tempfile.TemporaryFile(mode="w+", errors="replace")  # noqa: SIM115 (closed with the run)
        cache = ROOT / ".pytest_cache" / lane.name
        pytest = [
            sys.executable, "-m", "pytest", "-q", "--durations", "10", "-o", f"cache_dir={cache}",
            *words, *lane.argv(),
        ]  # fmt: skip
        # pytest clears away what earlier sessions left, and two that do it at once fail each other.
        self.temporary = tempfile.mkdtemp(prefix="lane-", dir="/tmp")
        environment = {
            **os.environ, LANE: lane.name, LANE_CGROUPS: lane.cgroups, "PYTEST_DEBUG_TEMPROOT": self.temporary,
        }  # fmt: skip
        self.process = subprocess.Popen(
            [*_NAMESPACES, "bash", "-c", _INSIDE, "lane", *pytest],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT,
        )  # fmt: skip

    @property
    def passed(self) -> bool:
        return self.process.returncode in (0, NOTHING_COLLECTED)

    def progress(self) -> str:
        size = os.fstat(self.output.fileno()).st_size
        last = os.pread(self.output.fileno(), 4096, max(0, size - 4096)).decode(errors="replace")
        return f"{self.lane.name} {last.rpartition('[')[2].partition(']')[0].strip() if ']' in last else '0%'}"

    def told(self) -> None:
        if self.passed:
            shutil.rmtree(self.temporary, ignore_errors=True)
        with self.output:
            self.output.seek(0)
            word = "passed" if self.passed else f"FAILED (exit {self.process.returncode})"
            print(f"\n=== {self.lane.name}: {word} after {time.monotonic() - self.started:.0f} s", flush=True)
            for line in self.output:
                sys.stdout.write(line)
            sys.stdout.flush()


def together(lanes: Sequence[Lane], words: Sequence[str]) -> list[Lane]:
    """Those of `lanes` that failed, run three at a time: a fourth would only make all the others late."""
    runs, waiting, failed = [Run(lane, words) for lane in lanes[:AT_ONCE]], list(lanes[AT_ONCE:]), []
    began = said = time.monotonic()
    try:
        while runs:
            for run in [run for run in runs if run.process.poll() is not None]:
                runs.remove(run)
                run.told()
                failed += [] if run.passed else [run.lane]
                if waiting:
                    runs.append(Run(waiting.pop(0), words))
            if time.monotonic() - said > REPORT_SECONDS:
                said = time.monotonic()
                print(f"{said - began:5.0f} s  " + "  ".join(run.progress() for run in runs), flush=True)
            time.sleep(0.2)
    finally:
        for run in runs:
            run.process.kill()
            run.process.wait()
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lanes", description="contracts, node and cluster tests")
    parser.add_argument("--again", action="store_true", help="what failed last time, one lane after the other")
    arguments, words = parser.parse_known_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if arguments.again and MEMORY.exists():
        names = MEMORY.read_text().split()
        failed = [name for name in names if name == MACHINE]  # what is left behind does not go by itself
        lanes = [lane for lane in (*LANES, ALONE) if lane.name in names]
        failed += [lane.name for lane in lanes if together([lane], ["--last-failed", *words])]
    else:
        MEMORY.unlink(missing_ok=True)
        failed = everything(words)
        MEMORY.parent.mkdir(exist_ok=True)
        MEMORY.write_text(" ".join(failed))
    if failed:
        print("failed:", shlex.join(failed))
    return 1 if failed else 0


def everything(words: Sequence[str]) -> list[str]:
    """Names of the lanes that failed, and MACHINE when something stays behind."""
    Path("/run/netns").mkdir(exist_ok=True)
    before = Snapshot.take()
    failed = [lane.name for lane in together(LANES, words) + together([ALONE], words)]
    left = settled(before)
    for kind, lines in left.items():
        print(f"left behind by the lanes: {kind}:", *lines, sep="\n  ")
    return failed + ([MACHINE] if left else [])


if __name__ == "__main__":
    sys.exit(main())
