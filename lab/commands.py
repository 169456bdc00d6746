"""`wherry lab ...`: what people type."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

from kube.errors import UsageError
from lab import life, mounts, network
from lab.model import DEMO_NODE_PORT, STATE, Wish

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,18}[A-Za-z0-9])?")
_NODE_LIKE = re.compile(r"-node\d+$")
"""A lab `a-node1` would have the namespace of node1 of the lab `a`."""


def main(argv: Sequence[str]) -> int:
    """The exit status of one `wherry lab` command; raises UsageError for what the user can set right."""
    mine, theirs = _split(argv)
    arguments = _parser().parse_args(mine)
    if os.geteuid() != 0:
        raise UsageError("a lab makes network namespaces and containers: run it as root (sudo)")
    state = os.path.join(arguments.state_dir, arguments.name)
    if not _NAME.fullmatch(arguments.name) or _NODE_LIKE.search(arguments.name):
        raise UsageError(
            f"--name {arguments.name}: 1 to 20 letters, digits and dashes, a dash neither first nor last, not ending in -node1"
        )
    verb: Callable[[], int] = {
        "up": lambda: life.up(
            Wish(
                arguments.name,
                state,
                arguments.nodes,
                demo=not arguments.no_demo,
                prometheus=arguments.prometheus,
                store=arguments.store,
                runtime=arguments.runtime,
                static=arguments.static_control_plane,
                proxy_mode=arguments.proxy_mode,
                overlay=arguments.overlay,
            )
        ),
        "down": lambda: life.down(arguments.name, state),
        "status": lambda: life.status(state),
        "stop": lambda: life.stop_node(state, arguments.node),
        "start": lambda: life.start_node(state, arguments.node),
        "shell": lambda: _shell(arguments.name, state, theirs),
        "kubectl": lambda: _kubectl(state, theirs),
        "kubeconfig": lambda: _print(os.path.join(state, "kubeconfig")),
    }[arguments.command]
    if arguments.command in ("up", "down", "stop", "start"):
        with life.alone(arguments.name):
            return verb()
    return verb()


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our words, and those after `shell` or `kubectl`, which are not ours to understand."""
    for index, word in enumerate(argv):
        if word in ("shell", "kubectl") and (index == 0 or argv[index - 1] not in ("--name", "--state-dir")):
            return list(argv[: index + 1]), list(argv[index + 1 :])
        if not word.startswith("-") and index and argv[index - 1] not in ("--name", "--state-dir"):
            break
    return list(argv), []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wherry lab", description="a whole cluster in network namespaces on this machine"
    )
    parser.add_argument("--name", default="default", help="which lab (default: default)")
    parser.add_argument("--state-dir", default=STATE, help=f"where labs keep their state (default: {STATE})")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="build and start the lab; repeat it as you like")
    up.add_argument("--nodes", type=int, default=3, help="how many nodes (default: 3; the first holds the centre)")
    up.add_argument("--no-demo", action="store_true", help=f"without the demo application (NodePort {DEMO_NODE_PORT})")
    up.add_argument(
        "--prometheus", action="store_true", help="also run Prometheus, scraping every daemon, on 127.0.0.1:9090"
    )
    up.add_argument(
        "--store", choices=("sqlite", "etcd"), default="", help="where the API keeps its objects (default: sqlite)"
    )
    up.add_argument(
        "--runtime",
        choices=("docker", "containerd"),
        default="",
        help="one dockerd for all nodes, or a containerd for each (default: docker)",
    )
    up.add_argument(
        "--static-control-plane",
        action="store_true",
        help="API server, scheduler and controllers as static pods of node1's kubelet (with --runtime containerd)",
    )
    up.add_argument(
        "--proxy-mode",
        choices=("iptables", "nftables"),
        default="",
        help="how Services become rules on the nodes (default: iptables)",
    )
    up.add_argument(
        "--overlay", choices=("vxlan", "host-gw"), default="", help="how packets go from node to node (default: vxlan)"
    )
    commands.add_parser("down", help="end the lab and leave the machine as it was")
    commands.add_parser("status", help="nodes and daemons")
    for name, text in (("stop", "cut a node's power"), ("start", "give it back")):
        commands.add_parser(name, help=text).add_argument("node", help="node1, node2, ...")
    commands.add_parser("shell", help="NODE [-- CMD]: a shell, or a command, in a node's namespaces")
    commands.add_parser("kubectl", help="kubectl with the lab's kubeconfig")
    commands.add_parser("kubeconfig", help="print the path of the lab's kubeconfig")
    return parser


def _shell(name: str, state: str, words: list[str]) -> int:
    if not words or words[0].startswith("-"):
        raise UsageError("which node? wherry lab shell NODE [-- CMD]")
    node, *command = words
    namespace = f"wherry-{name}-{node}"
    if not os.path.exists(f"/run/netns/{namespace}"):
        raise UsageError(f"no node {node!r} in lab {name!r}; see wherry lab status")
    command = command[1:] if command[:1] == ["--"] else command
    argv = command or [os.environ.get("SHELL", "/bin/sh")]
    prompt = {"PS1": f"{node} # "} if not command else {}
    own = mounts.spaces(state, node)
    entered = network.inside(namespace, own if os.path.exists(own) else "")
    # Last on PATH are the programs beside this Python: `wherry` is found though its environment was not activated.
    path = {"PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), os.path.dirname(sys.executable)])}
    return subprocess.run([*entered, *argv], env={**os.environ, **path, **prompt}, check=False).returncode


def _kubectl(state: str, arguments: list[str]) -> int:
    program = os.environ.get("WHERRY_KUBECTL") or shutil.which("kubectl")
    if not program:
        raise UsageError("kubectl is not on PATH; apt-get install kubernetes-client, or set WHERRY_KUBECTL")
    kubeconfig = os.path.join(state, "kubeconfig")
    if not os.path.exists(kubeconfig):
        raise UsageError("there is no such lab; wherry lab up makes one")
    sys.stdout.flush()
    os.execvpe(program, [program, "--kubeconfig", kubeconfig, *arguments], os.environ)


def _print(path: str) -> int:
    if not os.path.exists(path):
        raise UsageError("there is no such lab; wherry lab up makes one")
    print(path)
    return 0
