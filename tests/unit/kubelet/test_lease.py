"""The heartbeat: what it writes, and that nothing that hangs in the kubelet's loop holds it up."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kube.kubeconfig import Connection
from kubelet.nodestatus.lease import Heartbeat

PATH = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


class Centre:
    """An API server of one Node and its Lease, in threads of its own."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.asked: list[str] = []
        self.renewed: list[float] = []
        self.instead: list[bytes] = []  # what somebody else answers, with 200

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        if self.instead:
            return 200, self.instead.pop(0)
        if path == "/api/v1/nodes/n":
            return 200, {"metadata": {"name": "n", "uid": "node-uid"}}
        if method == "GET":
            return (200, self.lease) if self.lease else (404, {"reason": "NotFound", "message": "not found"})
        if method == "PUT":
            if self.lease is None:
                return 404, {"reason": "NotFound", "message": "not found"}
            if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
                return 409, {"reason": "Conflict", "message": "changed"}
        self.version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        self.renewed.append(time.monotonic())
        return 200, self.lease


@contextmanager
def served(centre: Centre) -> Iterator[Connection]:
    class Door(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, answer = centre.answer(self.command, self.path, body)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield Connection(f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@asynccontextmanager
async def beating(centre: Centre) -> AsyncIterator[None]:
    with served(centre) as connection:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(Heartbeat(connection, "n", 1).keep())
            yield
            task.cancel()


async def until(condition: Any, what: str) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.01)


async def test_a_loop_that_hangs_does_not_stop_the_heart() -> None:
    centre = Centre()
    async with beating(centre):
        await until(lambda: centre.renewed, "the first beat")
        begun = time.monotonic()
        time.sleep(0.8)  # the kubelet's whole loop, hanging
        during = [moment for moment in centre.renewed if begun < moment < begun + 0.8]
        assert len(during) >= 2


async def test_it_ends_at_once_while_the_centre_does_not_answer() -> None:
    asked = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()  # until they give up
        writer.close()

    async with await asyncio.start_server(deaf, "127.0.0.1", 0) as server, asyncio.TaskGroup() as group:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        task = group.create_task(Heartbeat(Connection(address), "n", 40).keep())
        await asked.wait()
        begun = time.monotonic()
        task.cancel()
        await asyncio.wait({task})
        assert time.monotonic() - begun < 2  # a request is given up after ten


async def test_it_is_renewed_by_put_and_nothing_in_it_is_lost() -> None:
    centre = Centre()
    async with beating(centre):
        await until(lambda: len(centre.renewed) > 1, "two beats")
        assert centre.asked[:3] == [f"GET {PATH}/n", "GET /api/v1/nodes/n", f"POST {PATH}"]
        assert centre.lease is not None
        assert centre.lease["metadata"]["ownerReferences"][0]["uid"] == "node-uid"
        assert centre.lease["spec"]["holderIdentity"] == "n"
        assert centre.lease["spec"]["leaseDurationSeconds"] == 1
        # somebody else writes: a look, and his words stay
        other = {
            **centre.lease,
            "metadata": {**centre.lease["metadata"], "resourceVersion": "other", "labels": {"a": "b"}},
        }
        centre.lease = other
        seen = len(centre.renewed)
        await until(lambda: len(centre.renewed) > seen + 1, "beats go on")
        assert centre.lease["metadata"]["labels"] == {"a": "b"}
        # it is deleted: it comes again
        centre.lease = None
        await until(lambda: centre.lease is not None, "created again")


async def test_another_who_answers_in_its_place_does_not_stop_the_heart() -> None:
    centre = Centre()
    async with beating(centre):
        await until(lambda: centre.renewed, "the first beat")
        seen = len(centre.renewed)
        centre.instead = [b"<html>We are back soon</html>", b'{"metadata": {}, "spec": 1}']
        await until(lambda: not centre.instead and len(centre.renewed) > seen, "beats go on")
