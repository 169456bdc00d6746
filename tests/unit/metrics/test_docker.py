"""Containers' names from Docker's API: listed once, again when an event says so, and as last known while nobody answers."""

import json
import os
import queue
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from kube.errors import UsageError
from metrics.identities import Sources
from metrics.identities.docker import DockerIdentities


class Daemon(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """As much of a Docker daemon as is asked: version, list, one container, events. It refuses what Docker 29 refuses."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: str) -> None:
        super().__init__(path, _Answers)
        self.containers: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.listening: list[queue.SimpleQueue[str | None]] = []
        self.mute = threading.Event()
        self.mute.set()
        self.status = 200
        self.gone: set[str] = set()

    def tell(self, event: str) -> None:
        for each in self.listening:
            each.put(event)

    def run(self, name: str, **more: Any) -> str:
        key = name[0] * 64
        self.containers[key] = {
            "Id": key, "Names": [f"/{name}"], "Image": "web:1", "Created": 1_700_000_000, "Labels": {"app": name},
            "Status": "Up 2 minutes (healthy)", **more,
        }  # fmt: skip
        self.tell("start")
        return key


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Daemon

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.server.asked.append(self.path)
        self.server.mute.wait(20)
        if url.path == "/events":
            self._events()
        elif url.path.startswith("/v1."):
            self._say(400, {"message": "client version 1.24 is too old. Minimum supported API version is 1.44"})
        elif url.path == "/version":
            self._say(self.server.status, {"Version": "29.0.1"})
        elif url.path == "/containers/json":
            wanted = json.loads(parse_qs(url.query).get("filters", ["{}"])[0]).get("label", [])
            found = [
                one
                for one in self.server.containers.values()
                if all(w in [f"{k}={v}" for k, v in one["Labels"].items()] for w in wanted)
            ]
            self._say(self.server.status, found)
        elif url.path.split("/")[2] in self.server.gone:
            self._say(404, {"message": "No such container"})
        else:
            self._say(200, {"Config": {"Image": "web:1", "Env": ["APP_TIER=gold", "SECRET=x", "APP_EMPTY="]}})

    def _say(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _events(self) -> None:
        mine: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        self.server.listening.append(mine)
        while (event := mine.get()) is not None:
            line = json.dumps({"status": event}).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    server = Daemon(str(tmp_path / "docker.sock"))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.mute.set()
    for each in server.listening:
        each.put(None)
    server.shutdown()
    server.server_close()
    thread.join()


Ask = Callable[..., DockerIdentities]


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    made: list[DockerIdentities] = []

    def make(node: str = "", **more: Any) -> DockerIdentities:
        made.append(DockerIdentities(f"unix://{tmp_path}/docker.sock", node, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_docker_says(daemon: Daemon, ask: Ask) -> None:
    key = daemon.run("web")
    docker = ask()
    one = docker()[key]
    assert (one.name, one.image, one.started, one.health, one.runtime) == ("web", "web:1", 1.7e9, "healthy", "docker")
    assert one.labels == {"app": "web"}
    assert docker.version == "29.0.1"
    assert not docker.error
    assert not [path for path in daemon.asked if path.startswith("/v1.")]


def test_it_is_not_asked_again_until_something_happens(daemon: Daemon, ask: Ask) -> None:
    docker = ask()
    docker()
    until(lambda: daemon.listening)
    daemon.run("web")
    until(lambda: len(docker()) == 1)

    def twenty_ask_nothing() -> bool:
        before = len(daemon.asked)
        for _ in range(20):
            docker()
        return len(daemon.asked) == before

    until(twenty_ask_nothing)  # the event may still be on its way
    daemon.containers.clear()
    daemon.tell("die")
    until(lambda: not docker())


def test_only_this_nodes(daemon: Daemon, ask: Ask) -> None:
    daemon.run("web", Labels={"io.wherry.node": "one"})
    daemon.run("other", Labels={"io.wherry.node": "two"})
    assert [one.name for one in ask("one")().values()] == ["web"]


def test_variables_that_are_asked_for(daemon: Daemon, ask: Ask) -> None:
    key = daemon.run("web")
    assert ask(env=["APP_"])()[key].env == {"APP_TIER": "gold", "APP_EMPTY": ""}


def test_an_image_keeps_its_name_when_the_tag_moves_on(daemon: Daemon, ask: Ask) -> None:
    key = daemon.run("web")
    early = ask()
    assert early()[key].image == "web:1"
    until(lambda: daemon.listening)
    daemon.run("web", Image="sha256:f4cf", Status="Up 9 minutes (unhealthy)")
    until(lambda: early()[key].health == "unhealthy")
    assert early()[key].image == "web:1"
    assert ask()()[key].image == "web:1"  # one that comes later asks the container


def test_one_that_goes_between_two_questions_takes_no_others_along(daemon: Daemon, ask: Ask) -> None:
    gone, stays = daemon.run("web", Image="sha256:f4cf"), daemon.run("app", Image="sha256:f4cf")
    daemon.gone.add(gone)
    docker = ask()
    assert docker()[stays].image == "web:1"
    assert not docker.error


@pytest.mark.parametrize(
    ("status", "health"),
    [("Up 1 second (health: starting)", "starting"), ("Up 2 days (unhealthy)", "unhealthy"), ("Up 2 days", "")],
)
def test_health(daemon: Daemon, ask: Ask, status: str, health: str) -> None:
    key = daemon.run("web", Status=status)
    assert ask()()[key].health == health


def test_one_that_hangs_keeps_names_and_holds_up_one_scrape_for_its_patience(daemon: Daemon, ask: Ask) -> None:
    key = daemon.run("web")
    docker = ask(patience=0.2)
    until(lambda: key in docker() and daemon.listening)
    daemon.mute.clear()
    daemon.tell("start")
    until(lambda: docker() and docker.error)
    assert "no answer" in docker.error
    started = time.monotonic()
    for _ in range(50):
        assert key in docker()
    assert time.monotonic() - started < 5
    daemon.mute.set()
    until(lambda: docker() and not docker.error)


def test_one_that_goes_and_comes_back(daemon: Daemon, ask: Ask, tmp_path: Path) -> None:
    key = daemon.run("web")
    docker = ask()
    assert key in docker()
    path = tmp_path / "docker.sock"
    os.rename(path, tmp_path / "away")
    for each in daemon.listening:
        each.put(None)
    until(lambda: docker() and docker.error)
    assert "start it, or name its socket with --docker" in docker.error
    assert key in docker()
    os.rename(tmp_path / "away", path)
    until(lambda: docker() and not docker.error)


def test_one_that_refuses_is_said(daemon: Daemon, ask: Ask) -> None:
    daemon.status = 500
    docker = ask()
    assert docker() == {}
    assert "500" in docker.error


def test_no_socket_where_it_is_by_default_is_no_docker(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics.identities.docker.DOCKER", f"unix://{tmp_path}/docker.sock")
    docker = ask()
    assert docker() == {}
    assert not docker.error
    assert not Sources([docker]).error


def test_no_socket_where_one_was_named_is_an_error(ask: Ask) -> None:
    docker = ask()
    assert docker() == {}
    assert "docker.sock" in Sources([docker]).error


def test_a_socket_that_nobody_answers_is_an_error(ask: Ask, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "docker.sock"))
        docker = ask()
        assert docker() == {}
        assert docker.error


@pytest.mark.parametrize("endpoint", ["docker", "https://docker:2376", "tcp://", "tcp://host:port"])
def test_an_endpoint_that_is_none(endpoint: str) -> None:
    with pytest.raises(UsageError, match=r"--docker: .* is not unix:///"):
        DockerIdentities(endpoint)
