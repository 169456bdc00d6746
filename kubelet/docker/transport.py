"""How the `docker` package reaches dockerd's socket: one pool of connections, shared by all threads.

The package's own transport keeps a pool for each URL, which for calls about containers means a new connection a call, and
closes the least recently used pool while another thread may be about to use it. It also forgets to close the socket of a
connection that was refused. Both are mended here, and nothing else is changed.
"""

from __future__ import annotations

import socket
from typing import Any

from docker.transport.basehttpadapter import BaseHTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool


class _Connection(HTTPConnection):
    path = ""

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout if isinstance(self.timeout, (int, float)) else None)
            connection.connect(self.path)
        except BaseException:
            connection.close()
            raise
        self.sock = connection


class _Pool(HTTPConnectionPool):
    def __init__(self, path: str, *, timeout: float, connections: int) -> None:
        super().__init__("localhost", timeout=timeout, maxsize=connections)
        self._path = path
        self._seconds = timeout

    def _new_conn(self) -> _Connection:
        connection = _Connection("localhost", timeout=self._seconds)
        connection.path = self._path
        return connection


class Adapter(BaseHTTPAdapter):
    """To be mounted where the package mounts its own."""

    def __init__(self, path: str, *, timeout: float, connections: int) -> None:
        super().__init__()
        self._pool = _Pool(path, timeout=timeout, connections=connections)

    def get_connection(self, _url: Any, _proxies: Any = None) -> _Pool:
        return self._pool

    def request_url(self, request: Any, _proxies: Any) -> str:
        return str(request.path_url)

    def close(self) -> None:
        self._pool.close()
        super().close()
