"""Several daemons in one process: `wherry server` (the centre) and `wherry agent` (a node).

Each room runs as it would alone, from its own configuration; the process is ready when all of them are, and ends when one
ends, because a node of which a part is missing is a broken node.
"""

import asyncio
import importlib
import shlex
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from kube import process, settings
from kube.errors import UsageError
from kube.settings import Option
from wherry import layout

_ETC = f"/{layout.ETC}"
_NODE = f"{_ETC}/node.json"
_RESIDENT = "wherry.resident"
"""The plugins' agent: threads, no event loop, so a child process."""


class Server(msgspec.Struct, frozen=True, kw_only=True):
    apiserver: Annotated[str, Option("--apiserver-args", "wherry-apiserver's flags")] = (
        f"--config={_ETC}/apiserver.yaml"
    )
    scheduler: Annotated[str, Option("--scheduler-args", "wherry-scheduler's flags")] = (
        f"--config={_ETC}/scheduler.yaml"
    )
    controllers: Annotated[str, Option("--controllers-args", "wherry-controllers' flags")] = (
        f"--config={_ETC}/controllers.yaml"
    )


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    cni: Annotated[str, Option("--cni-args", "wherry-cni-agent's flags")] = ""
    kubelet: Annotated[
        str,
        Option("--kubelet-args", f"wherry-kubelet's flags; when empty those of its unit, for the node of {_NODE}"),
    ] = ""
    proxy: Annotated[str, Option("--proxy-args", "wherry-proxy's flags")] = f"--config={_ETC}/proxy.yaml"
    overlay: Annotated[str, Option("--overlay-args", "wherry-overlay's flags")] = f"--config={_ETC}/overlay.yaml"
    metrics: Annotated[str, Option("--metrics-args", "wherry-metrics' flags")] = f"--config={_ETC}/metrics.yaml"


@dataclass(frozen=True, slots=True)
class Room:
    name: str
    config: Any

    @property
    def run(self) -> Callable[[Any, Callable[[], None]], Awaitable[None]]:
        module = _RESIDENT if self.name == "cni" else f"{self.name}.daemon"
        run: Callable[[Any, Callable[[], None]], Awaitable[None]] = importlib.import_module(module).run
        return run


def server(argv: Sequence[str]) -> int:
    wish = settings.load(Server, argv, prog="wherry server", description="The centre in one process.")
    return process.main(_run, _rooms(wish), name="wherry-server")


def agent(argv: Sequence[str]) -> int:
    wish = settings.load(
        Agent,
        argv,
        prog="wherry agent",
        description="A node's four daemons in one process, and the CNI plugins' agent.",
    )
    if not wish.kubelet:
        wish = msgspec.structs.replace(wish, kubelet=_kubelet_arguments(Path(_NODE)))
    return process.main(_run, _rooms(wish), name="wherry-agent")


def _kubelet_arguments(node: Path) -> str:
    """As its unit has them; without node.json the node is named after the host."""
    common = f"--config={_ETC}/kubelet.yaml --kubeconfig={_ETC}/kubelet.kubeconfig"
    try:
        return f"{common} {layout.About.parse(node.read_bytes()).kubelet_flags}"
    except FileNotFoundError:
        return common
    except (OSError, ValueError) as error:
        raise UsageError(f"{node}: {error}; install the node's bundle again, or give --kubelet-args") from error


def _rooms(wish: msgspec.Struct) -> list[Room]:
    rooms = []
    for name in wish.__struct_fields__:
        try:
            load = importlib.import_module(_RESIDENT if name == "cni" else f"{name}.config").load
            rooms.append(Room(name, load(shlex.split(getattr(wish, name)))))
        except (UsageError, ValueError) as error:
            raise UsageError(f"--{name}-args: {error}") from error
    return rooms


async def _run(rooms: Sequence[Room], ready: Callable[[], None]) -> None:
    waiting = {room.name for room in rooms}

    def is_ready(name: str) -> Callable[[], None]:
        def note() -> None:
            waiting.discard(name)
            if not waiting:
                ready()

        return note

    async with asyncio.TaskGroup() as group:
        for room in rooms:
            group.create_task(_whole(room, is_ready(room.name)))


async def _whole(room: Room, ready: Callable[[], None]) -> None:
    await room.run(room.config, ready)
    raise RuntimeError(f"{room.name} has ended, and a daemon does not end by itself")
