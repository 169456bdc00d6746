"""An API server of recorded answers, for daemons that only watch: lists in pages, and watches that say what a bench tells them.

n Services of 5 endpoints each, as a real server spells them. It lives in a thread of the namespace it was started in; `change`
writes one watch event and says when. Notices of the kernel about its rules are read in the same thread, so that the time from
the event's first byte to the commit is between two readings of one clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from aiohttp import web

from linux import netns
from linux.iptables.rules import Family
from linux.iptables.watch import shape

ENDPOINTS = 5
NODE_IP = "10.200.0.1"
QUIET = 0.3
"""Seconds without a commit after which a change is taken to be carried out whole, and the system to be quiet again."""

_KINDS = {
    "/api/v1/services": ("ServiceList", "v1"),
    "/apis/discovery.k8s.io/v1/endpointslices": ("EndpointSliceList", "discovery.k8s.io/v1"),
    "/api/v1/nodes": ("NodeList", "v1"),
    "/apis/networking.k8s.io/v1/servicecidrs": ("ServiceCIDRList", "networking.k8s.io/v1"),
}
_SLICES = "/apis/discovery.k8s.io/v1/endpointslices"


def service(index: int) -> dict[str, Any]:
    address = str(IPv4Address("10.96.0.10") + index)
    return {
        "metadata": _metadata(f"svc-{index}", index),
        "spec": {
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
            "selector": {"app": f"app-{index}"},
            "clusterIP": address,
            "clusterIPs": [address],
            "type": "ClusterIP",
            "sessionAffinity": "None",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    }


def endpoint_slice(index: int, count: int = ENDPOINTS, version: int = 1) -> dict[str, Any]:
    base = IPv4Address("10.244.0.2") + index * (ENDPOINTS + 1)
    namespace = f"ns-{index % 10}"
    return {
        "metadata": _metadata(f"svc-{index}-abcde", index, version)
        | {"labels": {"kubernetes.io/service-name": f"svc-{index}", "endpointslice.kubernetes.io/managed-by": "x"}},
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [str(base + each)],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": f"app-{index}-{each}", "uid": _uid(each)},
                "nodeName": f"node{each % 3 + 1}",
            }
            for each in range(count)
        ],
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    }


def _metadata(name: str, index: int, version: int = 1) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": f"ns-{index % 10}",
        "uid": _uid(index),
        "resourceVersion": str(version),
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"app": f"app-{index}", "team": "blue"},
    }


def _uid(index: int) -> str:
    return f"8d4e3a5c-0000-4000-8000-{index:012x}"


_NODE = {
    "metadata": {"name": "node1", "uid": _uid(0), "resourceVersion": "1"},
    "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": NODE_IP}]},
}


@dataclass
class Centre:
    """`asked` is when the first list was asked for, `listed` when the last page of the last list was handed out. `commits` are
    times of the kernel's notices (nf_tables); where it gives none (legacy tables) `probe` is asked all the time instead: a
    value that differs is a commit."""

    count: int
    probe: Callable[[], object] | None = None
    port: int = 0
    asked: float = 0.0
    listed: float = 0.0
    when_listed: Callable[[], None] = lambda: None
    commits: list[float] = field(default_factory=list)
    _watchers: dict[str, list[web.StreamResponse]] = field(default_factory=dict)
    _version: int = 1

    def __post_init__(self) -> None:
        self._items = {
            "/api/v1/services": [json.dumps(service(index)).encode() for index in range(self.count)],
            _SLICES: [json.dumps(endpoint_slice(index)).encode() for index in range(self.count)],
            "/api/v1/nodes": [json.dumps(_NODE).encode()],
            "/apis/networking.k8s.io/v1/servicecidrs": [],
        }
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._over = asyncio.Event()

    @contextlib.contextmanager
    def serving(self) -> Iterator[Centre]:
        """In a thread, which inherits this one's network namespace."""
        thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), name="centre")
        thread.start()
        try:
            assert self._up.wait(10), "the recorded API server has started"
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._over.set)
            thread.join()
            self._loop.close()

    def change(self, index: int, count: int) -> float:
        """Milliseconds from the event's being written to the last commit that it causes."""
        return asyncio.run_coroutine_threadsafe(self._change(index, count), self._loop).result(120)

    def watched(self) -> bool:
        """Both kinds that rules are made of are being watched."""
        return all(self._watchers.get(path) for path in ("/api/v1/services", _SLICES))

    def tell(self, slice_: dict[str, Any]) -> None:
        """A slice changes; nobody waits for what that causes."""
        self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._told(slice_)))

    async def _told(self, slice_: dict[str, Any]) -> None:
        event = json.dumps({"type": "MODIFIED", "object": slice_}).encode() + b"\n"
        for watcher in self._watchers[_SLICES]:
            await watcher.write(event)

    async def _change(self, index: int, count: int) -> float:
        self._version += 1
        self.commits.clear()
        before = self.probe() if self.probe else None
        began = time.perf_counter()
        await self._told(endpoint_slice(index, count, self._version))
        async with asyncio.timeout(60):
            while not self.commits or time.perf_counter() - self.commits[-1] < QUIET:
                if self.probe and (seen := self.probe()) != before:
                    before = seen
                    self.commits.append(time.perf_counter())
                await asyncio.sleep(0.001 if self.probe else 0.01)
        return (self.commits[-1] - began) * 1000

    async def _serve(self) -> None:
        runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as kernel:  # NETLINK_NETFILTER
            kernel.setblocking(False)
            kernel.bind((0, 1 << (7 - 1)))  # NFNLGRP_NFTABLES
            self._loop.add_reader(kernel, self._notice, kernel)
            self._up.set()
            await self._over.wait()
            self._loop.remove_reader(kernel)
        await runner.cleanup()

    def _notice(self, kernel: socket.socket) -> None:
        while True:
            try:
                kernel.recv(1 << 18)
            except BlockingIOError:
                return
            except OSError:
                continue  # more than could be read: a commit in any case
            finally:
                now = time.perf_counter()
            self.commits.append(now)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST":  # an event
            return web.json_response(await request.json(), status=201)
        if request.method != "GET" or request.path not in _KINDS:
            return web.json_response({"kind": "Status", "status": "Failure", "code": 404}, status=404)
        if request.query.get("watch") in ("true", "1"):
            return await self._watch(request)
        self.asked = self.asked or time.perf_counter()
        items = self._items[request.path]
        start, limit = int(request.query.get("continue", 0)), int(request.query.get("limit", 0)) or len(items)
        kind, version = _KINDS[request.path]
        if start + limit >= len(items) > 1:
            self.listed = time.perf_counter()
            self.when_listed()
        meta = {"resourceVersion": "1"} | ({"continue": str(start + limit)} if start + limit < len(items) else {})
        head = json.dumps({"kind": kind, "apiVersion": version, "metadata": meta})[:-1].encode()
        body = head + b',"items":[' + b",".join(items[start : start + limit]) + b"]}"
        return web.Response(body=body, content_type="application/json")

    async def _watch(self, request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        watchers = self._watchers.setdefault(request.path, [])
        watchers.append(answer)
        try:
            await self._over.wait()
        finally:
            watchers.remove(answer)
        return answer


@dataclass(frozen=True)
class Daemon:
    """A running proxy: `ready` is when it said so, `busy` its seconds of processor time from the end of the lists to there."""

    pid: int
    ready: float
    busy: float

    def memory(self) -> tuple[float, float]:
        """Resident now and at most, in MB."""
        fields = dict(line.split(":") for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return int(fields["VmRSS"].split()[0]) / 1000, int(fields["VmHWM"].split()[0]) / 1000

    def seconds(self) -> float:
        return processor_seconds(self.pid)


def processor_seconds(pid: int) -> float:
    """So far, of all threads and of children that have ended."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    own = sum(int(path.read_text().split()[0]) for path in threads) / 1e9
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return own + (int(stat[13]) + int(stat[14])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def daemon(home: Path, centre: Centre, *flags: str) -> Iterator[Daemon]:
    """The proxy as a process in this thread's namespace, from when it says that it is ready."""
    kubeconfig = home / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{centre.port}"}}],
                "users": [{"name": "x", "user": {"token": "x"}}],
            }
        )
    )
    argv = [sys.executable, "-m", "proxy", f"--kubeconfig={kubeconfig}", "--hostname-override=node1", *flags]
    argv += ["--cluster-cidr=10.244.0.0/16", "--healthz-bind-address=", "--metrics-bind-address="]
    notify = home / "notify"
    notify.unlink(missing_ok=True)
    environment = os.environ | {"NOTIFY_SOCKET": str(notify)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, (home / "proxy.log").open("ab") as log:
        told.bind(str(notify))
        told.settimeout(0.5)
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + 120
        before: list[float] = []  # at the end of each list
        centre.when_listed = lambda: before.append(processor_seconds(process.pid))
        try:
            while not _said_ready(told):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"the proxy is not ready:\n{(home / 'proxy.log').read_text()[-4000:]}")
            yield Daemon(process.pid, time.perf_counter(), processor_seconds(process.pid) - before[-1])
        finally:
            process.terminate()
            process.wait(20)


def _said_ready(told: socket.socket) -> bool:
    with contextlib.suppress(TimeoutError):
        return b"READY=1" in told.recv(4096)
    return False


def legacy_table() -> bytes:
    """What the kernel says of the legacy nat table: its size moves with every rule."""
    return shape(Family.V4, "nat")


@contextlib.contextmanager
def locked_in(home: Path) -> Iterator[None]:
    """Whoever writes legacy tables takes a lock of this bench's own."""
    before = os.environ.get("XTABLES_LOCKFILE")
    os.environ["XTABLES_LOCKFILE"] = str(home / "xtables.lock")
    try:
        yield
    finally:
        del os.environ["XTABLES_LOCKFILE"]
        if before is not None:
            os.environ["XTABLES_LOCKFILE"] = before


def prefer_legacy() -> None:
    """The hint by which programs know which of the two kernel interfaces this namespace uses."""
    subprocess.run(["iptables-legacy", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT"], check=True)


@contextlib.contextmanager
def namespace(name: str) -> Iterator[str]:
    """A fresh network namespace with loopback and the node's address, this thread in it."""
    space = netns.create(f"wb-{name}-{os.getpid()}")
    try:
        with netns.enter(space.path):
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            subprocess.run(["ip", "address", "add", f"{NODE_IP}/32", "dev", "lo"], check=True)
            yield space.name
    finally:
        netns.delete(space.name)
