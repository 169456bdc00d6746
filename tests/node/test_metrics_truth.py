"""Each family against the kernel's own files, `docker stats` and `ctr metrics`, read around the scrape, of a container that is
busy all the while: what is shown lies between what was so before and after, give or take two in a hundred."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from docker.api.client import APIClient
from prometheus_client.parser import text_string_to_metric_families

from linux.cgroup.tree import hierarchies
from metrics.collector import Collector
from metrics.exposition import FULL, Page
from metrics.identities.docker import DockerIdentities
from tests.dockerd import Dockerd
from tests.node.host import until
from tests.requirements import requires

UID = "00000000-0000-0000-0000-00000000f00d"
POD = "truth"
MIB = 2**20
SIX = ("container", "id", "image", "name", "namespace", "pod")
WORK = (
    "dd if=/dev/zero of=/written bs=1M count=16 conv=fsync 2>/dev/null; dd if=/dev/zero of=/dev/shm/x bs=1M count=24 2>/dev/null;"
    "(dd if=/dev/zero bs=20M count=1 2>/dev/null | sleep 1000) & echo ready > /ready; while :; do :; done"
)
"""Sixteen megabytes on disk, 24 in shared memory, 20 of its own, and then it spins."""

Truth = Callable[[], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Busy:
    client: APIClient
    sandbox: str
    app: str
    path: str
    text: Callable[[], str]
    """The page."""

    def page(self, container: str) -> dict[str, float]:
        """A container's figures, by `name` or `name{extra}`; the sandbox's for the empty name."""
        return _figures(self.text(), container)

    def pid(self, container: str) -> int:
        return int(self.client.inspect_container(container)["State"]["Pid"])


@pytest.fixture
def busy(dockerd: Dockerd, cgroup_parent: str) -> Iterator[Busy]:
    requires("root", "dockerd", "nsenter")
    client = dockerd.client()
    made: list[str] = []

    def start(kind: str, name: str, command: list[str]) -> str:
        labels = {
            "io.wherry.node": POD,
            "io.kubernetes.pod.name": POD,
            "io.kubernetes.pod.namespace": "default",
            "io.kubernetes.pod.uid": UID,
            "io.kubernetes.docker.type": kind,
            "io.kubernetes.container.name": name,
        }
        host = client.create_host_config(
            network_mode="none",
            cgroup_parent=f"{cgroup_parent}/kubepods/pod{UID}",
            mem_limit="128m",
            cpu_quota=30_000,
            cpu_period=100_000,
            cpu_shares=512,
            pids_limit=64,
            shm_size="64m",
            init=False,
        )
        row = client.create_container(dockerd.image, command, labels=labels, host_config=host)
        made.append(str(row["Id"]))
        client.start(made[-1])
        return made[-1]

    identities = DockerIdentities(dockerd.host, POD)
    collector = Collector(identities, cgroup_parent, fresh=-1.0)
    page = Page(FULL)
    try:
        sandbox = start("podsandbox", "POD", ["sleep", "1000"])
        app = start("container", "app", ["sh", "-c", WORK])
        until(lambda: not client.exec_inspect(_ran(client, app))["ExitCode"], "the container has not done its work")
        yield Busy(
            client,
            sandbox,
            app,
            f"{cgroup_parent}/kubepods/pod{UID}/{app}",
            lambda: page.text(collector.snapshot(page.parts)).decode(),
        )
    finally:
        for one in made:
            client.remove_container(one, force=True, v=True)
        collector.close()
        identities.close()
        client.close()


def _ran(client: APIClient, app: str) -> str:
    probe = client.exec_create(app, ["cat", "/ready"])["Id"]
    client.exec_start(probe)
    return str(probe)


def _figures(text: str, container: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            if one.labels.get("pod") == POD and one.labels["container"] == container and one.labels["name"]:
                extra = ",".join(f"{key}={value}" for key, value in sorted(one.labels.items()) if key not in SIX)
                found[f"{one.name}{{{extra}}}" if extra else one.name] = one.value
    return found


def _pairs(path: Path) -> dict[str, int]:
    return {name: int(value) for name, _, value in (line.partition(" ") for line in path.read_text().splitlines())}


def _kernel(path: str) -> Truth:
    """The group's own files, by family."""
    trees = hierarchies()
    if trees.unified is not None:
        return lambda: _version2(Path(f"{trees.unified}{path}"))
    folders = {name: Path(f"{mount}{path}") for name, mount in trees.controllers.items()}
    return lambda: _version1(folders)


def _version1(folders: dict[str, Path]) -> dict[str, float]:
    cpu, memory = _pairs(folders["cpu"] / "cpu.stat"), _pairs(folders["memory"] / "memory.stat")
    split = _pairs(folders["cpuacct"] / "cpuacct.stat")
    tick = os.sysconf("SC_CLK_TCK")

    def number(controller: str, name: str) -> int:
        return int((folders[controller] / name).read_text())

    found = {
        "container_cpu_usage_seconds_total{cpu=total}": number("cpuacct", "cpuacct.usage") / 1e9,
        "container_cpu_user_seconds_total": split["user"] / tick,
        "container_cpu_system_seconds_total": split["system"] / tick,
        "container_cpu_cfs_periods_total": cpu["nr_periods"],
        "container_cpu_cfs_throttled_periods_total": cpu["nr_throttled"],
        "container_cpu_cfs_throttled_seconds_total": cpu["throttled_time"] / 1e9,
        "container_memory_usage_bytes": number("memory", "memory.usage_in_bytes"),
        "container_memory_max_usage_bytes": number("memory", "memory.max_usage_in_bytes"),
        "container_memory_failcnt_total": number("memory", "memory.failcnt"),
        "container_memory_working_set_bytes": number("memory", "memory.usage_in_bytes") - memory["total_inactive_file"],
        "container_memory_rss": memory["total_rss"],
        "container_memory_cache": memory["total_cache"],
        "container_memory_mapped_file": memory["total_mapped_file"],
        "container_memory_total_active_file_bytes": memory["total_active_file"],
        "container_memory_total_inactive_file_bytes": memory["total_inactive_file"],
        "container_memory_failures_total{failure_type=pgfault,scope=hierarchy}": memory["total_pgfault"],
        "container_memory_failures_total{failure_type=pgfault,scope=container}": memory["pgfault"],
        "container_memory_failures_total{failure_type=pgmajfault,scope=hierarchy}": memory["total_pgmajfault"],
        "container_memory_failures_total{failure_type=pgmajfault,scope=container}": memory["pgmajfault"],
        "container_memory_swap": memory.get("total_swap", 0),
        "container_memory_kernel_usage": number("memory", "memory.kmem.usage_in_bytes"),
        "container_cpu_cfs_burst_periods_total": cpu.get("nr_bursts", 0),
        "container_cpu_cfs_burst_seconds_total": cpu.get("burst_time", 0) / 1e9,
        "container_oom_events_total": _pairs(folders["memory"] / "memory.oom_control").get("oom_kill", 0),
        "container_threads": number("pids", "pids.current"),
        "container_threads_max": number("pids", "pids.max"),
        "container_processes": len((folders["memory"] / "cgroup.procs").read_text().split()),
        "container_spec_cpu_quota": number("cpu", "cpu.cfs_quota_us"),
        "container_spec_cpu_period": number("cpu", "cpu.cfs_period_us"),
        "container_spec_cpu_shares": number("cpu", "cpu.shares"),
        "container_spec_memory_limit_bytes": number("memory", "memory.limit_in_bytes"),
        "container_spec_memory_reservation_limit_bytes": _limit(folders["memory"] / "memory.soft_limit_in_bytes"),
        "container_spec_memory_swap_limit_bytes": _limit(folders["memory"] / "memory.memsw.limit_in_bytes"),
    }
    io = folders["blkio"]
    for name, family in (("io_service_bytes", "_bytes_total"), ("io_serviced", "_total")):
        file = next(f for f in (io / f"blkio.throttle.{name}_recursive", io / f"blkio.throttle.{name}") if f.exists())
        words = [line.split() for line in file.read_text().splitlines()]
        for way in ("Read", "Write"):
            amounts = [int(line[2]) for line in words if len(line) == 3 and line[1] == way]
            found[f"container_fs_{way.lower()}s{family}"] = sum(amounts)
    return found


def _limit(file: Path) -> int:
    """None is 0, and so is a machine whose kernel counts no swap."""
    amount = int(file.read_text()) if file.exists() else 0
    return amount if amount < 2**62 else 0


def _version2(folder: Path) -> dict[str, float]:
    cpu, memory = _pairs(folder / "cpu.stat"), _pairs(folder / "memory.stat")
    usage = int((folder / "memory.current").read_text())
    quota, period = (folder / "cpu.max").read_text().split()
    found = {
        "container_cpu_usage_seconds_total{cpu=total}": cpu["usage_usec"] / 1e6,
        "container_cpu_user_seconds_total": cpu["user_usec"] / 1e6,
        "container_cpu_system_seconds_total": cpu["system_usec"] / 1e6,
        "container_cpu_cfs_periods_total": cpu["nr_periods"],
        "container_cpu_cfs_throttled_periods_total": cpu["nr_throttled"],
        "container_cpu_cfs_throttled_seconds_total": cpu["throttled_usec"] / 1e6,
        "container_memory_usage_bytes": usage,
        "container_memory_working_set_bytes": usage - memory["inactive_file"],
        "container_memory_rss": memory["anon"],
        "container_memory_cache": memory["file"],
        "container_memory_mapped_file": memory["file_mapped"],
        **{
            f"container_memory_failures_total{{failure_type={kind},scope={scope}}}": memory[kind]
            for kind in ("pgfault", "pgmajfault")
            for scope in ("hierarchy", "container")
        },
        "container_memory_total_active_file_bytes": memory["active_file"],
        "container_memory_total_inactive_file_bytes": memory["inactive_file"],
        "container_oom_events_total": _pairs(folder / "memory.events")["oom_kill"],
        "container_threads": int((folder / "pids.current").read_text()),
        "container_threads_max": int((folder / "pids.max").read_text()),
        "container_processes": len((folder / "cgroup.procs").read_text().split()),
        "container_spec_cpu_quota": int(quota),
        "container_spec_cpu_period": int(period),
        "container_spec_memory_limit_bytes": int((folder / "memory.max").read_text()),
    }
    words = [word for line in (folder / "io.stat").read_text().splitlines() for word in line.split()[1:]]
    for key, family in (
        ("rbytes", "reads_bytes_total"),
        ("rios", "reads_total"),
        ("wbytes", "writes_bytes_total"),
        ("wios", "writes_total"),
    ):
        found[f"container_fs_{family}"] = sum(int(w.partition("=")[2]) for w in words if w.startswith(f"{key}="))
    return found


def _shown(figures: dict[str, float], name: str) -> float | None:
    """Reads and writes are told by device."""
    if name.startswith("container_fs_"):
        return sum(value for key, value in figures.items() if key.startswith(f"{name}{{"))
    return figures.get(name)


ELSEWHERE = {
    *(
        f"container_{name}"
        for name in ("processes", "file_descriptors", "sockets", "ulimits_soft", "start_time_seconds")
    ),
    *(f"container_{name}" for name in ("last_seen", "fs_usage_bytes", "fs_limit_bytes", "blkio_device_usage_total")),
    *(
        f"container_pressure_{what}_{how}_seconds_total"
        for what in ("cpu", "io", "memory")
        for how in ("waiting", "stalled")
    ),
}
"""Checked by other tests: of processes, of layers, and (from recorded trees) of pressure and of devices by number."""


def _between(name: str, before: float, shown: float | None, after: float, slack: float = 0.0) -> None:
    low, high = sorted((before, after))
    assert shown is not None, f"{name} is missing"
    assert low * 0.98 - slack <= shown <= high * 1.02 + slack, f"{name}: {before} .. {shown} .. {after}"


def test_every_family_says_what_the_kernels_files_say(busy: Busy) -> None:
    truth = _kernel(busy.path)
    until(lambda: truth()["container_cpu_usage_seconds_total{cpu=total}"] > 0.5, "it does not spin")
    until(lambda: truth()["container_cpu_cfs_throttled_periods_total"] >= 5, "it is never throttled")
    before, shown, after = truth(), busy.page("app"), truth()
    assert before["container_memory_rss"] > 20 * MIB
    assert before["container_memory_cache"] > 24 * MIB
    for name in before:
        # Statistics are told to the group by each CPU in batches of 64 pages; clocks tick.
        slack = (
            64 * 4096 * (os.cpu_count() or 1) if name.endswith("_bytes") or "rss" in name or "cache" in name else 0.02
        )
        _between(name, before[name], _shown(shown, name), after[name], slack)
    if hierarchies().version == 1:
        unchecked = {key.partition("{")[0] for key in shown} - {name.partition("{")[0] for name in before} - ELSEWHERE
        assert not unchecked


def test_processes_say_what_proc_says(busy: Busy) -> None:
    init = busy.pid(busy.app)
    shown = busy.page("app")
    members = _members(busy)
    assert shown["container_processes"] == len(members) == 4  # the shell, the one for the pipe, dd, sleep
    assert shown["container_file_descriptors"] == sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in members)
    assert shown["container_sockets"] == 0
    limits = Path(f"/proc/{init}/limits").read_text().splitlines()
    files = next(line.split()[3] for line in limits if line.startswith("Max open files"))
    assert shown["container_ulimits_soft{ulimit=max_open_files}"] == (-1 if files == "unlimited" else int(files))
    started = busy.client.inspect_container(busy.app)["State"]["StartedAt"]
    when = datetime.fromisoformat(f"{started[:19]}+00:00").timestamp()
    assert shown["container_start_time_seconds"] == pytest.approx(when, abs=3)
    assert shown["container_last_seen"] == pytest.approx(time.time(), abs=3)


def _members(busy: Busy) -> list[int]:
    trees = hierarchies()
    base = trees.unified or trees.controllers["memory"]
    return [int(word) for word in Path(f"{base}{busy.path}/cgroup.procs").read_text().split()]


def test_docker_stats_and_ctr_metrics_agree(dockerd: Dockerd, busy: Busy) -> None:
    before = busy.page("app")
    stats = busy.client.stats(busy.app, stream=False)
    after = busy.page("app")
    cpu, memory = "container_cpu_usage_seconds_total{cpu=total}", "container_memory_usage_bytes"
    _between(cpu, before[cpu], stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9, after[cpu])
    _between(memory, before[memory], stats["memory_stats"]["usage"], after[memory], MIB)
    throttled = "container_cpu_cfs_throttled_periods_total"
    _between(throttled, before[throttled], stats["cpu_stats"]["throttling_data"]["throttled_periods"], after[throttled])
    assert before["container_threads"] == stats["pids_stats"]["current"]
    address = Path(dockerd.socket_path).parent / "exec" / "containerd" / "containerd.sock"
    if not address.exists():
        return  # somebody else's dockerd, whose containerd may be anywhere
    before = busy.page("app")
    argv = ["ctr", "--address", str(address), "-n", "moby", "tasks", "metrics", "--format", "json", busy.app]
    told = json.loads(subprocess.run(argv, check=True, capture_output=True, timeout=30).stdout)
    after = busy.page("app")
    usage = told["cpu"]["usage"]["total"] / 1e9 if "usage" in told["cpu"] else told["cpu"]["usage_usec"] / 1e6
    _between(cpu, before[cpu], usage, after[cpu])
    held = told["memory"]["usage"]
    _between(memory, before[memory], held["usage"] if isinstance(held, dict) else held, after[memory], MIB)


def test_the_network_says_what_the_interface_says(busy: Busy) -> None:
    inside = ["nsenter", f"--net=/proc/{busy.pid(busy.sandbox)}/ns/net"]
    for words in (
        "link add eth0 type veth peer name peer0",
        "link set eth0 up",
        "link set peer0 up",
        "address add 192.0.2.1/24 dev eth0",
        "neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0",
    ):
        subprocess.run([*inside, "ip", *words.split()], check=True)
    send = (
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for _ in range(500): s.sendto(b'x' * 1000, ('192.0.2.2', 9))"
    )
    subprocess.run([*inside, "python3", "-c", send], check=True)

    def truth() -> dict[str, float]:
        told = subprocess.run([*inside, "ip", "-j", "-s", "link", "show"], check=True, capture_output=True, text=True)
        found: dict[str, float] = {}
        for link in json.loads(told.stdout):
            for way, name in (("rx", "receive"), ("tx", "transmit")):
                for what, family in (
                    ("bytes", "bytes"),
                    ("packets", "packets"),
                    ("dropped", "packets_dropped"),
                    ("errors", "errors"),
                ):
                    key = f"container_network_{name}_{family}_total{{interface={link['ifname']}}}"
                    found[key] = link["stats64"][way][what]
        return found

    before, shown, after = truth(), busy.page(""), truth()
    assert before["container_network_transmit_bytes_total{interface=eth0}"] > 500_000
    assert before["container_network_receive_packets_total{interface=peer0}"] >= 500
    rows = [line for line in busy.text().splitlines() if line.startswith("container_network_transmit_bytes_total{")]
    assert len([line for line in rows if f'pod="{POD}"' in line and 'interface="eth0"' in line]) == 1
    for name in before:
        if "=lo}" in name:
            assert name not in shown
        else:
            _between(name, before[name], shown[name], after[name], 2000)


def test_what_a_container_wrote_into_its_layer_is_counted(busy: Busy) -> None:
    def used() -> float | None:
        shown = busy.page("app")
        return next((value for key, value in shown.items() if key.startswith("container_fs_usage_bytes{")), None)

    found = until(used, "the layer is never counted")
    assert found == pytest.approx(16 * MIB, rel=0.02)


def test_a_kill_for_want_of_memory_is_counted(busy: Busy) -> None:
    assert busy.page("app")["container_oom_events_total"] == 0
    probe = busy.client.exec_create(busy.app, ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1"])["Id"]
    busy.client.exec_start(probe)
    assert busy.client.exec_inspect(probe)["ExitCode"]
    until(lambda: busy.page("app")["container_oom_events_total"] >= 1, "the kill is not counted")


def test_the_machine_is_what_the_machine_says() -> None:
    requires("root")
    page = Page(FULL)
    collector = Collector(dict)
    try:
        before = _machine()
        families = text_string_to_metric_families(page.text(collector.snapshot(page.parts)).decode())
        after = _machine()
    finally:
        collector.close()
    shown = {
        (one.name, one.labels.get("device") or one.labels.get("interface", "")): one.value
        for family in families
        for one in family.samples
        if one.labels.get("id", "/") == "/" and "window" not in one.labels
    }
    assert shown["machine_memory_bytes", ""] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert shown["machine_cpu_cores", ""] == os.cpu_count()
    for key, value in before.items():
        if key in shown or value:
            _between(str(key), value, shown.get(key), after.get(key, value), MIB)
    device = next(name for what, name in shown if what == "container_fs_limit_bytes")
    assert shown["container_fs_usage_bytes", device] < shown["container_fs_limit_bytes", device]


def _machine() -> dict[tuple[str, str], float]:
    """Of the machine's disks and interfaces that are no container's ends."""
    found: dict[tuple[str, str], float] = {}
    for words in (line.split() for line in Path("/proc/diskstats").read_text().splitlines()):
        if int(words[3]) or int(words[7]):
            found["container_fs_sector_reads_total", f"/dev/{words[2]}"] = int(words[5])
            found["container_fs_sector_writes_total", f"/dev/{words[2]}"] = int(words[9])
            found["container_fs_io_time_seconds_total", f"/dev/{words[2]}"] = int(words[12]) / 1e3
    for line in Path("/proc/net/dev").read_text().splitlines()[2:]:
        name, _, rest = line.partition(":")
        if Path(f"/sys/class/net/{name.strip()}/device").exists():
            found["container_network_receive_bytes_total", name.strip()] = int(rest.split()[0])
    return found


def test_promtool_reads_the_page_of_a_real_machine(dockerd: Dockerd, busy: Busy) -> None:
    requires("promtool")
    identities = DockerIdentities(dockerd.host)
    collector = Collector(identities, "/", services=True)
    try:
        page = Page()
        text = page.text(collector.snapshot(page.parts))
    finally:
        collector.close()
        identities.close()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert busy.app.encode() in text
