"""What a lab says to the person in front of it: steps as they happen, a status, and where to go from here."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from kube.errors import UsageError
from lab.model import Topology

_DEPLOYED = (Path(__file__).resolve().parent.parent / "deploy", Path(sys.prefix, "share", "wherry", "deploy"))


def deployed(relative: str) -> Path:
    """A file of deploy/, in a checkout or as installed."""
    for root in _DEPLOYED:
        if (root / relative).exists():
            return root / relative
    raise UsageError(f"deploy/{relative} is missing from this installation; install Wherry again")


def say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """`text` at once, and the seconds it took behind it when it is done, at a terminal as in a log."""
    started = time.monotonic()
    print(f"  {text} ", end="", flush=True)
    try:
        yield
    except BaseException:
        print(f" failed after {time.monotonic() - started:.1f} s", flush=True)
        raise
    print(f" {time.monotonic() - started:.1f} s", flush=True)


def farewell(made: Topology) -> None:
    kubeconfig = f"{made.lab.state}/kubeconfig"
    lines = [
        "",
        f"kubeconfig   {kubeconfig}",
        f"API          https://127.0.0.1:{made.lab.api_port}",
        f"demo         http://127.0.0.1:{made.lab.demo_port}/",
    ]
    if made.lab.prometheus:
        lines.append(f"Prometheus   http://127.0.0.1:{made.lab.prometheus_port}/")
    option = "" if made.lab.name == "default" else f" --name {made.lab.name}"
    lines += [
        "",
        f"try          kubectl --kubeconfig {kubeconfig} get pods -A -o wide",
        f"             curl http://127.0.0.1:{made.lab.demo_port}/",
        f"             wherry lab{option} stop {made.nodes[-1].name}; wherry lab{option} kubectl get pods -o wide -w",
    ]
    say("\n".join(lines))


def status(
    made: Topology, daemons: Mapping[str, Mapping[str, Any]], nodes: Mapping[str, str], out: TextIO | None = None
) -> None:
    """One row a daemon, within 80 columns; where the logs are stands below, once."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("NODE", "STATUS", "ADDRESS", "DAEMON", "STATE", "PID", "RESTARTS"):
        table.add_column(title, no_wrap=True)
    addresses = {node.name: str(node.address) for node in made.nodes}
    last = None
    for name, daemon in daemons.items():
        node, _, short = name.rpartition("/")
        first = node != last
        last = node
        table.add_row(
            node if first else "",
            nodes.get(node, "Unknown" if node else "") if first else "",
            addresses.get(node, "") if first else "",
            short,
            str(daemon["state"]),
            str(daemon["pid"] or ""),
            str(daemon["restarts"]),
        )
    console = Console(file=out)
    console.print(table, soft_wrap=True)
    state = made.lab.state
    console.print(f"\nlogs  {state}/NODE/log/DAEMON.log, {state}/log", soft_wrap=True, highlight=False)
