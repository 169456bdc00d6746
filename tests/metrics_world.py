"""A machine of one's own making for history, REST and page: pods with limits, lone containers, names that nobody should trust.

`World.read` is what a collector's `snapshot` is. Counters go on with the clock, at rates that differ from group to group and
change with time, so that plots have something to show; groups can go and come.
"""

import math
import time

from linux.cgroup.usage import Cpu, DeviceIo, Limits, Memory, Pressure, Stall, Usage
from metrics.model import FileSystem, Identity, Interface, Kind, Machine, Part, Sample, Snapshot

MIB = 1 << 20
HOSTILE = '<img src=x onerror="document.title=1"><b>"quoted\' & </script>'
_PODS = "/kubepods/burstable"


class World:
    def __init__(self, pods: int = 12, speed: float = 1.0) -> None:
        self._began = time.time() - 3600
        self._speed = speed
        self.gone: set[str] = set()
        self._groups: list[tuple[str, Kind, Identity | None, Limits, bool, int]] = [
            ("/", "root", None, Limits(), True, 40),
            ("/kubepods", "qos", None, Limits(), False, 30),
        ]
        spaces, apps = ("default", "kube-system", "shop"), ("web", "cart", "dns", "queue", "search", "mail")
        for at in range(pods):
            self._pod(at, spaces[at % 3], f"{apps[at % 6]}-7d4b9c{at:03d}-x{at:02d}")
        for at, (name, image) in enumerate(
            (("registry", "registry:2"), (HOSTILE, "evil<b>:1"), ("builder", "builder:5"))
        ):
            key = f"{at + 160:064x}"
            who = Identity(key, name, image, runtime="docker", started=self._began, aliases=(name, key))
            limits = Limits(cpu_shares=1024, memory_bytes=512 * MIB if at == 2 else None)
            self._groups.append((f"/docker/{key}", "container", who, limits, True, 7 + at))
        self._groups.append(("/system.slice/no-utf8-\udcff", "service", None, Limits(), False, 2))
        self._groups.append(("/system.slice/sshd.service", "service", None, Limits(), False, 3))

    def _pod(self, at: int, namespace: str, pod: str) -> None:
        uid = f"{at:08x}-0000-4000-8000-000000000000"
        top = f"{_PODS}/pod{uid}"
        about = {
            "pod": pod,
            "namespace": namespace,
            "pod_uid": uid,
            "runtime": "containerd",
            "started": self._began + at,
        }
        sandbox = Identity(f"{at + 64:064x}", f"{at + 64:064x}", "pause:3.9", sandbox=True, **about)  # type: ignore[arg-type]
        self._groups.append((top, "pod", sandbox, Limits(cpu_shares=100), True, at))
        self._groups.append((f"{top}/{sandbox.id}", "sandbox", sandbox, Limits(), False, 0))
        for nth, name in enumerate(("app", "sidecar")[: 1 + at % 2]):
            key = f"{at * 8 + nth + 512:064x}"
            who = Identity(key, key, f"registry.example/{name}:1.{at}", container=name, **about)  # type: ignore[arg-type]
            limits = Limits(
                cpu_shares=256,
                cpu_quota_us=50_000 if at % 3 else None,
                cpu_period_us=100_000,
                memory_bytes=(128 + 32 * at) * MIB,
            )
            self._groups.append((f"{top}/{key}", "container", who, limits, False, at * 2 + nth + 1))

    def paths(self, kind: Kind = "container") -> list[str]:
        return [path for path, of, *_ in self._groups if of == kind and path not in self.gone]

    def read(self, parts: frozenset[Part]) -> Snapshot:
        now = time.time()
        samples = tuple(self._sample(now, *group) for group in self._groups if group[0] not in self.gone)
        machine = Machine(
            cores=4,
            physical_cores=2,
            memory_bytes=8 << 30,
            swap_bytes=0,
            kernel="6.1.0-test",
            system="Debian GNU/Linux 12",
            booted=self._began,
        )
        disks = (
            FileSystem("/dev/vda1", 40 << 30, 22 << 30, 1000, 500, "/", "ext4", 18 << 30),
            FileSystem("/dev/vdb", 10 << 30, int(9.6 * (1 << 30)), 1000, 500, "/var/lib/images", "xfs", 1 << 28),
        )
        return Snapshot(now, machine, samples, disks, {"254:0": "/dev/vda"}, parts=parts)

    def _sample(
        self, now: float, path: str, kind: Kind, who: Identity | None, limits: Limits, network: bool, weight: int
    ) -> Sample:
        age = (now - self._began) * self._speed
        wave = age + 3 * math.sin(age / 5 + weight) + 0.4 * math.sin(age / 1.3 + 2 * weight) + 5
        used = int(wave * 1e9 * 0.02 * weight)
        full = 0.30 + 0.25 * math.sin(age / 9 + weight)
        size = int((limits.memory_bytes or 60 * MIB * (weight + 1)) * (0.4 + full / 2))
        throttled = int(wave * 10 * (0.35 if weight % 5 == 2 else 0.02))
        stalls = [Stall(int(wave * 1e6 * share * weight), 0) for share in (0.01, 0.002, 0.006)]
        memory = Memory(
            usage=size,
            working_set=int(size * 0.9),
            max_usage=size,
            rss=size // 2,
            cache=size // 3,
            mapped_file=size // 9,
            swap=0,
            active_file=0,
            inactive_file=size // 10,
            failcnt=0,
            page_faults=int(age * 9),
            major_page_faults=int(age),
        )
        usage = Usage(
            cpu=Cpu(used, used * 2 // 3, used // 3, int(wave * 10), throttled, throttled * 10_000_000),
            memory=memory,
            pids=1 + weight,
            io={"254:0": DeviceIo(int(wave * 4096 * weight), int(wave * 30_000 * weight), int(age), int(age))}
            if weight
            else {},
            limits=limits,
            oom_kills=2 if weight == 9 else 0,
            pressure=Pressure(*stalls) if weight != 7 else None,
        )
        flow = int(wave * 20_000 * weight)
        interfaces = (Interface("eth0", flow, flow // 900, 0, 0, flow // 3, flow // 2700, 0, 0),) if network else ()
        labels = {
            "container": who.container if who else "",
            "id": path,
            "image": who.image if who and kind != "pod" else "",
            "name": who.name if who and kind != "pod" else "",
            "namespace": who.namespace if who else "",
            "pod": who.pod if who else "",
        }
        return Sample(path, labels, usage, who.started if who else None, interfaces, kind, who)
