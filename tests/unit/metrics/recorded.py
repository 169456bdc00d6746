"""Cgroup trees as files: what a version 1 and a version 2 kernel show for the same pod, recorded and cut to what is read."""

from pathlib import Path

from linux.cgroup.tree import Hierarchies

POD = "kubepods/burstable/pod11111111-2222-3333-4444-555555555555"
SANDBOX = "a" * 64
APP = "b" * 64

_V1 = {
    "cpuacct": {"cpuacct.usage": "2500000000\n", "cpuacct.stat": "user 150\nsystem 80\n"},
    "cpu": {
        "cpu.stat": "nr_periods 40\nnr_throttled 4\nthrottled_time 900000000\nnr_bursts 0\nburst_time 0\n",
        "cpu.shares": "102\n",
        "cpu.cfs_quota_us": "20000\n",
        "cpu.cfs_period_us": "100000\n",
    },
    "memory": {
        "memory.usage_in_bytes": "10485760\n",
        "memory.max_usage_in_bytes": "20971520\n",
        "memory.failcnt": "7\n",
        "memory.limit_in_bytes": "67108864\n",
        "memory.memsw.limit_in_bytes": "134217728\n",
        "memory.soft_limit_in_bytes": "9223372036854771712\n",
        "memory.kmem.usage_in_bytes": "65536\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        "memory.stat": (
            "cache 1\nrss 2\npgfault 200\npgmajfault 2\n"
            "total_cache 4194304\ntotal_rss 5242880\ntotal_mapped_file 1048576\ntotal_pgfault 300\n"
            "total_pgmajfault 3\ntotal_inactive_file 2097152\ntotal_active_file 2097152\ntotal_swap 0\n"
        ),
        "cgroup.procs": "1\n",
    },
    "pids": {"pids.current": "3\n", "pids.max": "max\n"},
    "blkio": {
        "blkio.throttle.io_service_bytes_recursive": "254:0 Read 4096\n254:0 Write 8192\n254:0 Total 12288\nTotal 12288\n",
        "blkio.throttle.io_serviced_recursive": "254:0 Read 1\n254:0 Write 2\n254:0 Total 3\nTotal 3\n",
    },
}
_V2 = {
    "cgroup.procs": "1\n",
    "cpu.stat": (
        "usage_usec 2500000\nuser_usec 1500000\nsystem_usec 800000\nnr_periods 40\nnr_throttled 4\nthrottled_usec 900000\n"
    ),
    "cpu.weight": "4\n",
    "cpu.max": "20000 100000\n",
    "memory.current": "10485760\n",
    "memory.peak": "20971520\n",
    "memory.max": "67108864\n",
    "memory.min": "0\n",
    "memory.swap.current": "0\n",
    "memory.swap.max": "max\n",
    "memory.events": "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\n",
    "memory.stat": (
        "anon 5242880\nfile 4194304\nfile_mapped 1048576\ninactive_file 2097152\nactive_file 2097152\npgfault 300\npgmajfault 3\n"
        "kernel 65536\n"
    ),
    "cpu.pressure": (
        "some avg10=1.50 avg60=0.50 avg300=0.10 total=1500000\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=250000\n"
    ),
    "memory.pressure": (
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=2000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1000\n"
    ),
    "io.pressure": (
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=40\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    ),
    "io.stat": "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
    "pids.current": "3\n",
    "pids.max": "max\n",
}
_GROUPS = ("", "kubepods", "kubepods/burstable", POD, f"{POD}/{SANDBOX}", f"{POD}/{APP}", "system.slice")


def _write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content)


def version1(root: Path) -> Hierarchies:
    for controller, files in _V1.items():
        for group in _GROUPS:
            _write(root / controller / group, files)
    return Hierarchies({name: root / name for name in _V1})


_V2_ROOT = ("cgroup.procs", "cpu.stat", "memory.stat", "io.stat")
"""What the root group has; memory.current, limits and counts of processes begin one level below."""


def version2(root: Path) -> Hierarchies:
    for group in _GROUPS:
        _write(root / group, _V2 if group else {name: _V2[name] for name in _V2_ROOT})
    return Hierarchies({}, root)
