"""CRI's messages: what a pod becomes, what an answer means, and the words of the runtime's streaming server."""

import asyncio
import dataclasses
import importlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from kubelet.cri import runtime_pb2 as pb
from kubelet.cri import spec, streams
from kubelet.cri.client import Client, Unimplemented, refusal
from kubelet.cri.containers import _number as number_of
from kubelet.cri.health import Health
from kubelet.cri.images import Images
from kubelet.cri.processes import NOBODY, Details, details_of
from kubelet.cri.sandboxes import _NETWORK as NETWORK
from kubelet.grpc import GRPCError, Status
from kubelet.runtime import (
    DNS,
    NODE,
    POD_UID,
    ROOT,
    Channel,
    ContainerConfig,
    ContainerState,
    ContainerUser,
    LinuxResources,
    Mount,
    NotFound,
    PodIdentity,
    PortMapping,
    RuntimeRefused,
    RuntimeUnavailable,
    SandboxConfig,
    SandboxSecurity,
    SecurityContext,
    StreamOptions,
)

POD = PodIdentity("web", "default", "uid-1")
OWNER = spec.Owner("node1", "/var/lib/kubelet")
ROOT_OF_TREE = Path(__file__).parents[3]


@pytest.mark.parametrize("proto", sorted((ROOT_OF_TREE / "kubelet").rglob("*.proto")), ids=lambda path: path.stem)
def test_the_committed_code_is_that_of_the_proto(proto: Path, tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    name = str(proto.relative_to(ROOT_OF_TREE))
    argv = [sys.executable, "-m", "grpc_tools.protoc", "--proto_path=.", f"--descriptor_set_out={tmp_path}/set", name]
    subprocess.run(argv, cwd=ROOT_OF_TREE, check=True)
    (described,) = FileDescriptorSet.FromString((tmp_path / "set").read_bytes()).file
    module = importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    committed = FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
    for message in (*described.message_type, *committed.message_type):
        _without_json_names(message)
    assert committed == described, f"run tools/protos: {name} has changed"


def _without_json_names(message: DescriptorProto) -> None:
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        _without_json_names(nested)


def test_a_sandbox_says_all_that_it_was_given() -> None:
    config = SandboxConfig(
        pod=POD,
        attempt=2,
        hostname="web",
        log_directory="/var/log/pods/x",
        cgroup_parent="/kubepods/poduid-1",
        share_pid=True,
        sysctls={"net.ipv4.tcp_syncookies": "1"},
        labels={"app": "web", POD_UID: "not this one"},
        annotations={"a": "b"},
        dns=DNS(servers=("10.96.0.10",), searches=("x",), options=("ndots:5",)),
        port_mappings=(PortMapping(protocol="UDP", container_port=53, host_port=5353, host_ip="127.0.0.1"),),
        security=SandboxSecurity(run_as_user=1000, run_as_group=2000, supplemental_groups=(3,), privileged=True),
        resources=LinuxResources(cpu_shares=512, memory_limit=1 << 20),
        overhead=LinuxResources(memory_limit=4096),
    )
    made = spec.sandbox(config, OWNER)
    assert (made.linux.resources.cpu_shares, made.linux.resources.memory_limit_in_bytes) == (512, 1 << 20)
    assert made.linux.overhead.memory_limit_in_bytes == 4096
    assert (made.metadata.name, made.metadata.namespace, made.metadata.uid, made.metadata.attempt) == (
        "web", "default", "uid-1", 2,
    )  # fmt: skip
    assert (made.hostname, made.log_directory, dict(made.annotations)) == ("web", "/var/log/pods/x", {"a": "b"})
    assert made.labels["app"] == "web"
    assert made.labels[POD_UID] == "uid-1"  # identity wins
    assert (made.labels[NODE], made.labels[ROOT]) == ("node1", "/var/lib/kubelet")
    assert list(made.dns_config.options) == ["ndots:5"]
    (port,) = made.port_mappings
    assert (port.protocol, port.container_port, port.host_port, port.host_ip) == (pb.UDP, 53, 5353, "127.0.0.1")
    security = made.linux.security_context
    namespaces = security.namespace_options
    assert (namespaces.network, namespaces.pid, namespaces.ipc) == (pb.POD, pb.POD, pb.POD)
    assert (security.run_as_user.value, security.run_as_group.value) == (1000, 2000)
    assert security.privileged
    assert security.seccomp.profile_type == pb.SecurityProfile.RuntimeDefault
    assert made.linux.cgroup_parent == "/kubepods/poduid-1"


def test_the_nodes_namespaces() -> None:
    made = spec.sandbox(SandboxConfig(pod=POD, hostname="h", host_network=True, host_pid=True, host_ipc=True), OWNER)
    namespaces = made.linux.security_context.namespace_options
    assert (namespaces.network, namespaces.pid, namespaces.ipc) == (pb.NODE, pb.NODE, pb.NODE)
    assert made.hostname == ""  # may only be empty where the network is the node's
    assert not made.linux.security_context.HasField("run_as_user")


def test_a_group_without_a_user_is_not_said_of_a_sandbox() -> None:
    made = spec.sandbox(SandboxConfig(pod=POD, security=SandboxSecurity(run_as_group=5)), OWNER)
    assert not made.linux.security_context.HasField("run_as_group")


def container(**more: object) -> pb.ContainerConfig:
    given = ContainerConfig(name="main", attempt=3, image="sha256:1", **more)  # type: ignore[arg-type]
    return spec.container(given, SandboxConfig(pod=POD, handler="kata"), OWNER)


def test_a_container_says_all_that_it_was_given() -> None:
    made = container(
        user_image="busybox:1",
        env=(("A", "1"), ("A", "2")),
        mounts=(Mount(host_path="/h", container_path="/c", read_only=True, propagation="rslave"),),
        resources=LinuxResources(cpu_quota=5000, memory_limit=1 << 20, hugepage_limits=(("2MB", 4),)),
        stop_signal="SIGUSR1",
        annotations={"x": "y"},
    )
    assert (made.metadata.name, made.metadata.attempt) == ("main", 3)
    assert (made.image.image, made.image.user_specified_image, made.image.runtime_handler) == (
        "sha256:1", "busybox:1", "kata",
    )  # fmt: skip
    assert [(each.key, each.value) for each in made.envs] == [("A", "1"), ("A", "2")]
    (mount,) = made.mounts
    assert (mount.readonly, mount.propagation) == (True, pb.PROPAGATION_HOST_TO_CONTAINER)
    limits = made.linux.resources
    assert (limits.cpu_quota, limits.cpu_period) == (5000, 100_000)
    assert limits.memory_swap_limit_in_bytes == limits.memory_limit_in_bytes == 1 << 20  # no swap
    assert (limits.hugepage_limits[0].page_size, limits.hugepage_limits[0].limit) == ("2MB", 4)
    assert made.stop_signal == pb.SIGUSR1
    assert made.annotations[spec.STOP_SIGNAL] == "SIGUSR1"
    assert "/proc/kcore" in made.linux.security_context.masked_paths
    assert made.linux.security_context.namespace_options.pid == pb.CONTAINER
    assert made.labels["io.kubernetes.container.name"] == "main"


@pytest.mark.parametrize(
    ("security", "masked", "seccomp"),
    [
        (SecurityContext(), True, pb.SecurityProfile.Unconfined),
        (SecurityContext(seccomp="RuntimeDefault"), True, pb.SecurityProfile.RuntimeDefault),
        (SecurityContext(seccomp="RuntimeDefault", privileged=True), False, pb.SecurityProfile.Unconfined),
        (SecurityContext(seccomp="/var/lib/kubelet/seccomp/a.json"), True, pb.SecurityProfile.Localhost),
    ],
)
def test_what_is_masked_and_confined(security: SecurityContext, masked: bool, seccomp: int) -> None:
    context = container(security=security).linux.security_context
    assert (bool(context.masked_paths), bool(context.readonly_paths)) == (masked, masked)
    assert context.seccomp.profile_type == seccomp
    assert context.seccomp.localhost_ref == (security.seccomp if security.seccomp.startswith("/") else "")


def test_users_by_number_and_by_name() -> None:
    assert container(security=SecurityContext(run_as_user="7")).linux.security_context.run_as_user.value == 7
    named = container(security=SecurityContext(run_as_user="www")).linux.security_context
    assert (named.run_as_username, named.HasField("run_as_user")) == ("www", False)


def test_an_ephemeral_container_joins_its_target() -> None:
    options = container(target_id="abc").linux.security_context.namespace_options
    assert (options.pid, options.target_id) == (pb.TARGET, "abc")
    given = ContainerConfig(name="d", image="i", target_id="abc")
    shared = spec.container(given, SandboxConfig(pod=POD, host_pid=True), OWNER)
    assert shared.linux.security_context.namespace_options.pid == pb.NODE


def test_whose_a_thing_is() -> None:
    ours = {POD_UID: "u", NODE: "node1", ROOT: "/var/lib/kubelet"}
    assert OWNER.owns(ours)
    assert OWNER.owns({POD_UID: "u"})  # a stock kubelet's
    assert not OWNER.owns({**ours, NODE: "node2"})
    assert not OWNER.owns({**ours, ROOT: "/elsewhere"})
    assert not OWNER.owns({"made": "by hand"})


def test_an_ended_container() -> None:
    told = pb.ContainerStatus(
        id="c",
        metadata=pb.ContainerMetadata(name="main", attempt=1),
        state=pb.CONTAINER_EXITED,
        created_at=1_000_000_000,
        started_at=3_000_000_000,
        finished_at=2_000_000_000,
        exit_code=137,
        reason="OOMKilled",
        image=pb.ImageSpec(image="busybox:1"),
        image_ref="busybox@sha256:2",
        log_path="/l",
    )
    told.user.linux.uid = 5
    found = spec.container_status(told, "s", True)
    assert (found.state, found.exit_code, found.reason) == (ContainerState.EXITED, 137, "OOMKilled")
    assert found.finished_at == found.started_at == datetime.fromtimestamp(3, UTC)  # never before its start
    assert (found.image, found.image_id, found.tty, found.sandbox_id) == ("busybox:1", "busybox@sha256:2", True, "s")
    assert found.user == ContainerUser(uid=5)
    assert found.resources is None


def test_one_that_never_started_has_both_times() -> None:
    told = pb.ContainerStatus(state=pb.CONTAINER_EXITED, created_at=5_000_000_000, exit_code=128, reason="StartError")
    found = spec.container_status(told, "", False)
    assert found.started_at == found.finished_at == datetime.fromtimestamp(5, UTC)


def test_addresses() -> None:
    network = pb.PodSandboxNetworkStatus(ip="10.1.0.2", additional_ips=[pb.PodIP(ip="fd00::2")])
    assert spec.ips_of(pb.PodSandboxStatus(network=network)) == (ip_address("10.1.0.2"), ip_address("fd00::2"))
    assert spec.ips_of(pb.PodSandboxStatus()) == ()


def test_what_verbose_answers_tell() -> None:
    told = {
        "sandboxID": "s",
        "pid": 42,
        "config": {"tty": True},
        "runtimeSpec": {
            "linux": {
                "cgroupsPath": "/kubepods/podx/c",
                "resources": {"cpu": {"shares": 512, "quota": -1}, "memory": {"limit": 64, "swap": 64}},
            }
        },
    }
    found = details_of({"info": json.dumps(told)})
    assert (found.sandbox_id, found.tty, found.process.pid, found.process.cgroup) == ("s", True, 42, "/kubepods/podx/c")
    assert found.process.resources == LinuxResources(cpu_shares=512, cpu_quota=-1, memory_limit=64)
    assert details_of({}) == details_of({"info": "}"}) == Details()
    assert details_of({"info": '{"pid": 0, "runtimeSpec": null}'}).process.pid == NOBODY.pid


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.UNAVAILABLE, RuntimeUnavailable),
        (Status.DEADLINE_EXCEEDED, RuntimeUnavailable),
        (Status.NOT_FOUND, NotFound),
        (Status.UNIMPLEMENTED, Unimplemented),
        (Status.UNKNOWN, RuntimeRefused),
        (Status.INVALID_ARGUMENT, RuntimeRefused),
    ],
)
def test_fates(status: Status, kind: type[Exception]) -> None:
    found = refusal(GRPCError(status, "its words"), "cri: what")
    assert isinstance(found, kind)
    assert "its words" in str(found)


@pytest.mark.parametrize(
    ("message", "network"),
    [
        ('failed to setup network for sandbox "x": plugin type="bridge" failed (add): no', True),
        ("cni plugin not initialized", True),
        ("failed to create pod network sandbox k8s_x: error adding pod to CNI network", True),
        ('failed to get sandbox image "pause": failed to pull', False),
        ("failed to create containerd task: OCI runtime create failed", False),
    ],
)
def test_when_it_was_the_network(message: str, network: bool) -> None:
    assert bool(NETWORK.search(message)) is network


def test_signals_as_the_api_writes_them() -> None:
    assert {number_of(name) for name in ("SIGRTMIN+999", "SIGRTMAX+1", "SIGRTMIN-" + "9" * 5000, "SIGTERM+\u00b2")} == {
        None
    }
    assert [number_of(name) for name in ("SIGTERM", "SIGRTMIN+3", "SIGRTMAX-1", "SIGNOPE", "")] == [
        15, 37, 63, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (b'{"metadata":{},"status":"Success"}', 0),
        (
            b'{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}',
            3,
        ),
    ],
)
def test_the_last_word_of_a_command(status: bytes, code: int) -> None:
    assert streams.code_of(status) == code


def test_a_last_word_that_is_none() -> None:
    with pytest.raises(RuntimeRefused, match="no such file"):
        streams.code_of(b'{"status":"Failure","reason":"InternalError","message":"exec: no such file"}')
    for torn in (b"", b"{", b"[]", b'{"status":"Failure","reason":"NonZeroExitCode"}'):
        with pytest.raises(RuntimeUnavailable, match="before it told the end"):
            streams.code_of(torn)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", b"", b"junk\r\n\r\n"])
async def test_a_streaming_server_that_does_not_upgrade(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises((RuntimeRefused, RuntimeUnavailable)):
            await streams.connect(f"http://127.0.0.1:{port}/exec/x", StreamOptions())


async def test_a_streaming_server_over_tls_is_refused_in_words() -> None:
    with pytest.raises(RuntimeRefused, match="plain http only"):
        await streams.connect("https://127.0.0.1:1/exec/x", StreamOptions())


async def test_a_connection_that_breaks_ends_the_output_and_has_no_code() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\n\r\n")
        writer.write(streams.Encoder().encode(streams.Data(3, b"half")))
        writer.write_eof()
        await reader.read()  # what is left unread at a close would take "half" back
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        stream = await streams.connect(f"http://127.0.0.1:{port}/exec/x", StreamOptions())
        assert await stream.read() == (Channel.STDOUT, b"half")
        assert await stream.read() is None
        with pytest.raises(RuntimeUnavailable):
            await stream.exit_code()
        await stream.close()


@pytest.mark.parametrize(
    ("message", "state"),
    [
        ("failed to create containerd task: failed to start shim: start failed: : signal: killed: unknown", "created"),
        ("failed to create containerd task: context canceled: unknown", "created"),
        ('failed to create containerd task: exec: "/none": stat /none: no such file or directory: unknown', "exited"),
    ],
)
def test_a_start_that_its_caller_abandoned_has_not_been(message: str, state: str) -> None:
    told = pb.ContainerStatus(id="c", state=pb.CONTAINER_EXITED, exit_code=128, reason="StartError", message=message)
    assert spec.container_status(told, "s", False).state == state


async def test_an_image_that_is_gone_has_no_user_and_is_not_remembered() -> None:
    there: list[pb.Image] = []

    class Runtime(Client):
        async def call(self, *_args: object, **_more: object) -> pb.ImageStatusResponse:  # type: ignore[override]
            return pb.ImageStatusResponse(image=there[0]) if there else pb.ImageStatusResponse()

    client = Runtime("/nowhere")
    images = Images(client, Health(client))
    with pytest.raises(NotFound):
        await images.user("sha256:a")
    there.append(pb.Image(id="sha256:a", uid=pb.Int64Value(value=7)))
    assert await images.user("sha256:a") == "7"
    there.clear()
    assert await images.user("sha256:a") == "7"


def test_what_cri_has_no_room_for_is_refused() -> None:
    huge = 1 << 70
    sandbox = SandboxConfig(pod=POD, log_directory="/l")
    for config in (
        ContainerConfig(name="c", image="i", resources=LinuxResources(memory_limit=huge)),
        ContainerConfig(name="c", image="i", security=SecurityContext(run_as_user="9" * 30)),
        ContainerConfig(name="c", image="i", security=SecurityContext(run_as_group=huge)),
    ):
        with pytest.raises(RuntimeRefused, match="CRI cannot say it"), spec.speaking():
            spec.container(config, sandbox, OWNER)
    with pytest.raises(RuntimeRefused, match="CRI cannot say it"), spec.speaking():
        spec.sandbox(dataclasses.replace(sandbox, security=SandboxSecurity(run_as_user=huge)), OWNER)
