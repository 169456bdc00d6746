"""Docker's containers, from its API: listed once, and again when an event says that one came, went or was renamed.

Spoken with http.client and without a version in the path, which is the newest that the daemon speaks: daemons refuse old
versions (29 does below 1.44), and the docker package is more memory than all the rest of this program.

A thread of the source's own holds the connection for events, and asks. A scrape that comes while the list is old waits for
the new one, but not longer than `patience`, and not at all for a daemon that has already let one wait: then the containers
last known keep their names, their cgroups say whether they still run, and `error` says what is the matter. Where the default
socket is not there there is no Docker, which is no error until there has been one.
"""

import contextlib
import http.client
import logging
import os
import socket
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

import orjson

from kube.errors import UsageError
from metrics.config import DOCKER
from metrics.identities import identity
from metrics.identities.containerd import chosen
from metrics.model import Identity

log = logging.getLogger(__name__)

_NODE: Final = "io.wherry.node"
_RETRY: Final = 5.0
_TELLING: Final = ("start", "die", "destroy", "rename", "health_status", "update")


class DockerIdentities:
    """The running containers of one Docker daemon, by id; `node`: only those with that label. `env`: the variables to be kept
    (a question for each container). Close it."""

    def __init__(
        self, endpoint: str, node: str = "", env: Iterable[str] = (), *, timeout: float = 5.0, patience: float = 1.0
    ) -> None:
        self._endpoint = endpoint
        _address(endpoint)
        self._node = node
        self._env = tuple(env)
        self._timeout = timeout
        self._patience = patience
        self._known: dict[str, Identity] = {}
        self._change = threading.Condition()
        self._asked = self._fresh = (
            0  # questions asked and answered: the list is as new as the newest question answered
        )
        self._stale = True
        self._late = self._closed = self._seen = False
        self._events: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self.error = ""
        self.version = ""

    def __call__(self) -> Mapping[str, Identity]:
        with self._change:
            if self._closed:
                return self._known
            if not self._threads:
                for work, name in ((self._listing, "docker-list"), (self._following, "docker-events")):
                    self._threads.append(threading.Thread(target=work, name=name, daemon=True))
                    self._threads[-1].start()
            if self._stale or self.error:
                self._asked += 1
                wanted = self._asked
                self._change.notify_all()
                if not self._late:
                    answered = self._change.wait_for(lambda: self._fresh >= wanted or self._closed, self._patience)
                    self._late = not answered
                    if not answered:
                        self._fail(f"no answer within {self._patience:g} s")
            return self._known

    def close(self) -> None:
        with self._change:
            self._closed = True
            self._change.notify_all()
            if self._events is not None:
                self._shut(self._events)
        for thread in self._threads:
            thread.join(self._timeout)

    @staticmethod
    def _shut(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it had gone already
            connection.shutdown(socket.SHUT_RDWR)

    def _fail(self, why: str) -> None:
        if not self._seen and self._endpoint == DOCKER and not _there(self._endpoint):
            return  # no Docker here, and nobody said that there is one
        if not self.error:
            log.warning("Docker at %s: %s; containers go without names until it answers", self._endpoint, why)
        self.error = f"Docker at {self._endpoint}: {why}; start it, or name its socket with --docker"

    def _listing(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._asked > self._fresh or self._closed)
                if self._closed:
                    return
                wanted, self._stale = self._asked, False
            found: dict[str, Identity] | None = None
            why = ""
            try:
                found = self._list()
            except (OSError, ValueError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
            with self._change:
                if found is None:
                    self._stale = True
                    self._fail(why)
                else:
                    self._known, self.error, self._seen = found, "", True
                self._fresh, self._late = wanted, False
                self._change.notify_all()

    def _list(self) -> dict[str, Identity]:
        if not self.version:
            self.version = str(self._get("/version").get("Version", ""))
        wanted = f"?filters={quote(orjson.dumps({'label': [f'{_NODE}={self._node}']}))}" if self._node else ""
        found: dict[str, Identity] = {}
        for entry in self._get(f"/containers/json{wanted}"):
            before = self._known.get(entry["Id"])
            image, env = (
                (before.image, before.env) if before else self._constant(entry["Id"], str(entry.get("Image", "")))
            )
            found[entry["Id"]] = _described(entry, image, env)
        return found

    def _constant(self, container: str, listed: str) -> tuple[str, Mapping[str, str]]:
        """What a container was made from, and its variables. The list names the image by its tag for as long as that leads to it,
        and by its digest from then on; what was asked for at first is said by the container alone."""
        if not (self._env or listed.startswith("sha256:")):
            return listed, {}
        try:
            config = self._get(f"/containers/{container}/json").get("Config") or {}
        except FileNotFoundError:
            return listed, {}  # it went since it was listed
        return str(config.get("Image") or listed), chosen(config.get("Env") or (), self._env)

    def _get(self, path: str) -> Any:
        connection = _Connection(self._endpoint, self._timeout)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                kind = FileNotFoundError if response.status == 404 else OSError
                raise kind(
                    f"{path}: {response.status} {response.reason}: {body[:200].decode('utf-8', 'replace').strip()}"
                )
            return orjson.loads(body)
        finally:
            connection.close()

    def _following(self) -> None:
        """Events make the list old; so does losing them."""
        filters = quote(orjson.dumps({"type": ["container"], "event": list(_TELLING)}))
        while not self._closed:
            connection = _Connection(self._endpoint, self._timeout)
            try:
                connection.request("GET", f"/events?filters={filters}")
                stream = connection.sock
                response = connection.getresponse()
                if response.status == 200 and stream is not None:
                    stream.settimeout(None)
                    with self._change:
                        self._events, self._stale = stream, True
                        if self._closed:
                            self._shut(stream)
                    while response.readline():
                        with self._change:
                            self._stale = True
            except (OSError, ValueError, http.client.HTTPException):
                pass  # the list finds the same, and says so
            finally:
                connection.close()
            with self._change:
                self._events, self._stale = None, True
                self._change.wait_for(lambda: self._closed, _RETRY)


def _described(entry: Mapping[str, Any], image: str, env: Mapping[str, str]) -> Identity:
    name = (entry.get("Names") or [""])[0].lstrip("/")
    status = str(entry.get("Status") or "")
    health = next(
        (word for word in ("unhealthy", "healthy", "starting") if f"({word})" in status or f": {word})" in status), ""
    )
    found = identity(
        entry["Id"],
        name,
        image,
        entry.get("Labels") or {},
        float(entry.get("Created") or 0) or None,
    )
    return Identity(
        id=found.id,
        name=found.name,
        image=found.image,
        pod=found.pod,
        namespace=found.namespace,
        container=found.container,
        pod_uid=found.pod_uid,
        sandbox=found.sandbox,
        started=found.started,
        labels=found.labels,
        env=env,
        aliases=(name, entry["Id"]),
        runtime="docker",
        health=health,
    )


def _address(endpoint: str) -> str | tuple[str, int]:
    """A socket's path, or a host and port. Raises UsageError."""
    parts = urlsplit(endpoint if "://" in endpoint else f"unix://{endpoint}")
    try:
        if parts.scheme == "unix" and parts.path:
            return parts.path
        if parts.scheme in ("tcp", "http") and parts.hostname:
            return parts.hostname, parts.port or 2375
    except ValueError:
        pass
    raise UsageError(
        f"--docker: {endpoint!r} is not unix:///path/to/docker.sock or tcp://host:port (TLS is not spoken)"
    )


def _there(endpoint: str) -> bool:
    address = _address(endpoint)
    return not isinstance(address, str) or os.path.exists(address)


class _Connection(http.client.HTTPConnection):
    def __init__(self, endpoint: str, timeout: float) -> None:
        address = _address(endpoint)
        self._path = address if isinstance(address, str) else ""
        host, port = ("localhost", 80) if isinstance(address, str) else address
        super().__init__(host, port, timeout=timeout)

    def connect(self) -> None:
        if not self._path:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
