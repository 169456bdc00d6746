"""A snapshot in which everything is there: a machine, a pod with its sandbox and its container, and a container of no pod."""

from linux.cgroup.usage import Cpu, DeviceIo, Limits, Memory, Pressure, Stall, Usage
from metrics.model import (
    Counted,
    Disk,
    FileSystem,
    Identity,
    Interface,
    Kind,
    Machine,
    Processes,
    Sample,
    Snapshot,
)

POD = "/kubepods/burstable/pod11111111-2222-3333-4444-555555555555"
SANDBOX = f"{POD}/{'a' * 64}"
WEB = f"{POD}/{'b' * 64}"
LONE = f"/docker/{'c' * 64}"

_STALL = Stall(some_us=1_500_000, full_us=250_000)
USAGE = Usage(
    cpu=Cpu(2_500_000_000, 1_500_000_000, 800_000_000, 40, 4, 900_000_000, 2, 50_000_000),
    memory=Memory(
        usage=10_485_760,
        working_set=8_388_608,
        max_usage=20_971_520,
        rss=5_242_880,
        cache=4_194_304,
        mapped_file=1_048_576,
        swap=4096,
        active_file=2_097_152,
        inactive_file=2_097_152,
        failcnt=7,
        page_faults=300,
        major_page_faults=3,
        own_page_faults=200,
        own_major_page_faults=2,
        kernel=65536,
    ),
    pids=5,
    io={"254:0": DeviceIo(4096, 8192, 1, 2)},
    limits=Limits(
        cpu_shares=102,
        cpu_quota_us=20000,
        cpu_period_us=100000,
        memory_bytes=67_108_864,
        pids=99,
        swap_bytes=134_217_728,
        reservation_bytes=33_554_432,
    ),
    oom_kills=1,
    pressure=Pressure(_STALL, _STALL, _STALL),
)
ETH0 = (Interface("eth0", 1506, 17, 1, 2, 906, 11, 3, 4),)
WHO = Identity("b" * 64, "k8s_web", "web:1", "web-1", "default", "web", health="healthy", runtime="docker")


def labels(path: str, name: str = "", image: str = "", *, pod: str = "", container: str = "") -> dict[str, str]:
    return {
        "container": container,
        "id": path,
        "image": image,
        "name": name,
        "namespace": "default" if pod else "",
        "pod": pod,
    }


def sample(path: str, kind: Kind, six: dict[str, str], **more: object) -> Sample:
    fields = {"started": 101.0, "processes": Processes(3, 20, 4, {"max_open_files": 1024}), **more}
    return Sample(path=path, labels=six, usage=USAGE, kind=kind, **fields)  # type: ignore[arg-type]


def snapshot(*, failed: bool = False) -> Snapshot:
    layer = Counted(123_456, 17, 1000.0, device="254:1")
    pause = Identity("a" * 64, "k8s_POD", "pause:1", "web-1", "default", sandbox=True)
    return Snapshot(
        when=1234.5,
        machine=Machine(
            cores=4,
            physical_cores=2,
            memory_bytes=2**33,
            swap_bytes=2**30,
            kernel="6.1.0",
            system="Debian 12",
            sockets=1,
            machine_id="m",
            system_uuid="s",
            boot_id="b",
            nodes={0: 2**33},
        ),
        samples=(
            sample("/", "root", labels("/")),
            sample("/kubepods", "qos", labels("/kubepods")),
            sample(POD, "pod", labels(POD, pod="web-1"), interfaces=ETH0, identity=pause),
            sample(
                SANDBOX, "sandbox", labels(SANDBOX, "k8s_POD", "pause:1", pod="web-1"), interfaces=ETH0, identity=pause
            ),
            sample(
                WEB,
                "container",
                labels(WEB, "k8s_web", "web:1", pod="web-1", container="web"),
                identity=WHO,
                layer=layer,
            ),
            sample(
                LONE,
                "container",
                labels(LONE, "db", "postgres:15"),
                interfaces=ETH0,
                identity=Identity("c" * 64, "db", "postgres:15"),
            ),
        ),
        filesystems=(FileSystem("/dev/vda1", 10**10, 10**9, 10**6, 10**5),),
        devices={"254:0": "/dev/vda", "254:1": "/dev/vda1"},
        disks={"/dev/vda": Disk(10, 1, 80, 2500, 20, 2, 160, 5000, 1, 7500, 9000), "/dev/ram0": Disk(*[0] * 11)},
        load=(0.5, 0.25, 0.125),
        failed=failed,
        runtime_version="29.0.1",
    )
