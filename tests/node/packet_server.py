"""The servers of a world, all in one process: `python -m tests.node.packet_server`.

A socket keeps the network namespace it was opened in, so one process and one selector serve every pod. A line of JSON on
stdin, `{"open": [[namespace path, address, port], ...]}` or `{"close": [[address, port], ...]}`, is answered by a line; the end
of stdin ends the process. Each address serves TCP and UDP. Whatever comes is answered with `who I am, whom I saw`:
`10.180.0.2:8080 192.168.0.1`, as often as the peer asks; a request that begins with digits and a space is answered with at
least so many bytes.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys

from linux import netns

READ = selectors.EVENT_READ
BACKLOG = 1024
UDP_BUFFER = 4 << 20
_RCVBUFFORCE = 33


class Servers:
    """Every listening socket, and every connection that a peer has not closed yet."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._listening: dict[tuple[str, int], tuple[socket.socket, socket.socket]] = {}

    def open(self, path: str, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with netns.enter(path):
            tcp = socket.create_server((address, port), family=family, backlog=BACKLOG)
            udp = socket.socket(family, socket.SOCK_DGRAM)
        udp.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, UDP_BUFFER)
        udp.bind((address, port))
        name = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        for each, kind in ((tcp, "accept"), (udp, "datagram")):
            each.setblocking(False)
            self._selector.register(each, READ, (kind, name))
        self._listening[address, port] = tcp, udp

    def close(self, address: str, port: int) -> None:
        """Connections that were accepted live on."""
        for each in self._listening.pop((address, port)):
            self._selector.unregister(each)
            each.close()

    def run(self) -> None:
        self._selector.register(sys.stdin.buffer, READ, ("command", ""))
        while True:
            for key, _ in self._selector.select():
                kind, name = key.data
                ready = key.fileobj
                if isinstance(ready, socket.socket):
                    if ready.fileno() >= 0:  # not closed by a command of this round
                        self._serve(ready, kind, name)
                elif not self._obey():
                    return

    def _obey(self) -> bool:
        line = sys.stdin.buffer.readline()
        if not line:
            return False
        for word, targets in json.loads(line).items():
            for target in targets:
                getattr(self, word)(*target)
        print("done", flush=True)
        return True

    def _serve(self, ready: socket.socket, kind: str, name: str) -> None:
        match kind:
            case "accept":
                with contextlib.suppress(BlockingIOError):
                    while True:
                        peer, address = ready.accept()
                        peer.setblocking(False)
                        self._selector.register(peer, READ, ("talk", f"{name} {address[0]}"))
            case "datagram":
                with contextlib.suppress(OSError):
                    while True:
                        asked, address = ready.recvfrom(65535)
                        ready.sendto(_answer(asked, f"{name} {address[0]}"), address)
            case _:
                self._talk(ready, name)

    def _talk(self, peer: socket.socket, words: str) -> None:
        try:
            asked = peer.recv(65535)
            if asked:
                peer.sendall(_answer(asked, words))
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._selector.unregister(peer)
        peer.close()


def _answer(asked: bytes, words: str) -> bytes:
    size, space, _ = asked.partition(b" ")
    return words.encode().ljust(int(size) if space and size.isdigit() else 0)


if __name__ == "__main__":
    Servers().run()
