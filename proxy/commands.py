"""`wherry proxy show` and `wherry proxy trace`: what people see of the proxy.

Both look at the network namespace they are started in. Which API to ask, and as which node, they take from flags or from the
proxy that runs here (its /configz); without either they say what the kernel alone tells.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from kube.client import Client, Connection
from kube.errors import ApiError, ApiUnreachable, UsageError
from linux import addresses as local_addresses
from linux.capabilities import Capability, effective
from linux.iptables.rules import Family
from linux.packets import Address, Node, Packet
from linux.route_lookup import Routes
from proxy import kernel_rules, show, trace
from proxy.addresses import address
from proxy.config import Config
from proxy.kernel_rules import At, KernelRules
from proxy.model import PodNetwork
from proxy.policy import Policies
from proxy.wanted import NOTHING, Wanted, asked, pod_address, service_target

_CONFIGZ = "http://127.0.0.1:10249/configz"
_TRACED = """\
examples:
  wherry proxy trace --from 10.244.1.5 --to 10.96.0.10:53 --protocol udp
  wherry proxy trace --from default/web-1 --to default/web:http
  wherry lab shell node2 -- wherry proxy trace --from 203.0.113.7 --to 10.200.0.2:30080

exit status: 0 delivered, 1 refused, dropped or without a route, 2 it could not be told"""
_SHOWN = """\
examples:
  wherry proxy show
  wherry proxy show default/web -o json
  wherry lab shell node2 -- wherry proxy show

exit status: 0 in sync (or no API to compare with), 1 out of sync, 2 it could not be told"""


def main(argv: Sequence[str]) -> int:
    """The exit status of one `wherry proxy` command; raises UsageError for what the user can set right."""
    arguments = _parser().parse_args(argv)
    if not effective(Capability.NET_ADMIN):
        raise UsageError("the kernel's rules are read with CAP_NET_ADMIN: run as root (sudo)")
    return asyncio.run(_traced(arguments) if arguments.command == "trace" else _shown(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wherry proxy", description="what the service proxy's rules do on this node")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    plain = argparse.RawDescriptionHelpFormatter
    tracing = commands.add_parser(
        "trace",
        help="what happens to a packet here, and which Service decides it",
        epilog=_TRACED,
        formatter_class=plain,
    )
    tracing.add_argument("--from", dest="source", required=True, metavar="IP|NAMESPACE/POD", help="who sends it")
    tracing.add_argument(
        "--to", dest="target", required=True, metavar="IP:PORT|NAMESPACE/SERVICE[:PORT]", help="what it is sent to"
    )
    tracing.add_argument("--protocol", "--proto", default="", choices=["tcp", "udp", "sctp"], help="default: tcp")
    tracing.add_argument(
        "--interface", default="", help="where it arrives (default: where the route to its sender leads)"
    )
    showing = commands.add_parser(
        "show", help="what is wanted against what the kernel has, per Service", epilog=_SHOWN, formatter_class=plain
    )
    showing.add_argument("service", nargs="?", default="", metavar="NAMESPACE/SERVICE", help="only this one, in detail")
    for each in (tracing, showing):
        each.add_argument("-o", "--output", default="text", choices=["text", "json"], help="default: text")
        each.add_argument("--kubeconfig", default="", help="the API to ask (default: the one that the proxy here uses)")
        each.add_argument("--node", default="", help="this node's name (default: the proxy's, else the host's)")
    return parser


# --- trace ---------------------------------------------------------------------------------------------------------


async def _traced(arguments: argparse.Namespace) -> int:
    named = "/" in arguments.source or "/" in arguments.target
    async with _api(arguments, needed=named) as api:
        wanted, notes = await _wanted(api, needed=named) if api.client else (NOTHING, [])
        at, source = await _endpoints(arguments, api, wanted)
        assert at.address is not None
        family = Family(source.version)
        if at.address.version != source.version:
            raise UsageError(f"--from {source} and --to {at.address} are of two families; name two of one")
        rules = await kernel_rules.read(family)
        with Routes() as routes:
            node = Node(frozenset(local_addresses.read()), routes.device)
            local = node.holds(source)
            arrives = arguments.interface or ("" if local else routes.device(source))
            packet = Packet(source, at.address, at.port, at.protocol, local=local, in_interface=arrives)
            story = trace.told(rules, packet, node, routes.to, wanted.names(family), notes)
    if arguments.output == "json":
        print(json.dumps(trace.document(story), indent=2))
    else:
        print("\n".join(trace.lines(story)))
    return 0 if story.arrives else 1


async def _endpoints(arguments: argparse.Namespace, api: Api, wanted: Wanted) -> tuple[At, Address]:
    family: Family | None = None
    for text in (arguments.source, arguments.target):
        if "/" not in text:
            family = Family.V6 if text.count(":") > 1 else Family.V4
    if "/" in arguments.target:
        name, _, port = arguments.target.partition(":")
        namespace, _, service = name.partition("/")
        at, family = service_target(wanted, family, namespace, service, port)
        if arguments.protocol:
            at = at._replace(protocol=arguments.protocol)
    else:
        at = _target(arguments.target, arguments.protocol or "tcp")
    if "/" in arguments.source:
        assert api.client is not None
        namespace, _, pod = arguments.source.partition("/")
        return at, await pod_address(api.client, namespace, pod, family)
    source = address(arguments.source)
    if source is None:
        raise UsageError(f"--from {arguments.source}: this is neither an IP address nor NAMESPACE/POD")
    return at, source


def _target(text: str, protocol: str) -> At:
    host, _, port = text.rpartition(":")
    where = address(host.removeprefix("[").removesuffix("]"))
    if where is None or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"--to {text}: write IP:PORT, [IPv6]:PORT or NAMESPACE/SERVICE:PORT")
    return At(where, protocol, int(port))


# --- show ----------------------------------------------------------------------------------------------------------


async def _shown(arguments: argparse.Namespace) -> int:
    if arguments.service and arguments.service.count("/") != 1:
        raise UsageError(f"{arguments.service}: write NAMESPACE/SERVICE")
    async with _api(arguments, needed=bool(arguments.kubeconfig)) as api:
        wanted, notes = await _wanted(api, needed=bool(arguments.kubeconfig))
    with Routes() as routes:
        node = Node(frozenset(local_addresses.read()), routes.device)
        rules = [await kernel_rules.read(family) for family in Family]
        views = [_view(each, node, api, wanted) for each in rules]
        only = arguments.service
        shown = show.compared(wanted, views, only) if wanted.known else show.seen(views, only)
    modes = tuple(dict.fromkeys(words for each in rules for words in each.proxies))
    if not modes:
        notes = [*notes, "no proxy has written rules here: neither KUBE-SERVICES nor a table kube-proxy exists"]
    for each in rules:
        if len(each.proxies) > 1:
            both = " and ".join(each.proxies)
            notes = [*notes, f"{both} both hold a proxy's rules for IPv{each.family:d}: packets pass through both"]
        notes = [*notes, *each.untold]
    notes = list(dict.fromkeys(notes))
    report = show.Report(api.node, modes, tuple(shown), wanted.known, tuple(notes))
    if arguments.service and not shown:
        raise UsageError(f"Service {arguments.service} is neither wanted by the API nor known to the rules here")
    if arguments.output == "json":
        print(json.dumps(show.document(report), indent=2))
    else:
        from proxy import screen  # half of this command's start is rich

        screen.print_report(report, detail=bool(arguments.service))
    return 0 if report.in_sync else 1


def _view(rules: KernelRules, node: Node, api: Api, wanted: Wanted) -> show.View:
    """NodePorts are looked at on the addresses that the configuration of the proxy here names, or on any that is not for
    loopback or one link only."""
    config = Config(
        mode=api.running.get("mode") or "iptables",
        bind_address=str(api.running.get("bindAddress") or "0.0.0.0"),
        node_port_addresses=tuple(api.running.get("nodePortAddresses") or ()),
        cluster_cidr=str(api.running.get("clusterCIDR") or ""),
        detect_local_mode=api.running.get("detectLocalMode") or "ClusterCIDR",
    )
    local, family = local_addresses.read(), rules.family
    policy = Policies(config, lambda: wanted.here, lambda: local).of(family)
    candidates = local if policy.node_port_addresses is None else policy.node_port_addresses
    fit = {each for each in candidates if each.version == family and not each.is_loopback and not each.is_link_local}
    pods = policy.pods.cidr if isinstance(policy.pods, PodNetwork) else None
    return show.View(rules, node, tuple(sorted(fit, key=int)), pods)


# --- the API -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Api:
    """`client` is None where no API is known; `why` says why. `running`: the configuration of the proxy that runs here."""

    node: str
    running: dict[str, Any]
    client: Client | None = None
    why: str = ""


@contextlib.asynccontextmanager
async def _api(arguments: argparse.Namespace, *, needed: bool) -> AsyncIterator[Api]:
    running = await _running()
    node = arguments.node or str(running.get("hostnameOverride") or "") or socket.gethostname().lower()
    api = Api(node, running)
    path = arguments.kubeconfig or str((running.get("clientConnection") or {}).get("kubeconfig") or "")
    if not path:
        api.why = "no proxy answers at 127.0.0.1:10249 and --kubeconfig names no API"
    elif not arguments.kubeconfig and not os.access(path, os.R_OK):
        api.why = f"the proxy's kubeconfig {path} cannot be read from here"
    if api.why:
        if needed:
            raise UsageError(f"names are looked up in the API, but {api.why}; give --kubeconfig FILE")
        yield api
        return
    async with Client(Connection.from_kubeconfig(path), user_agent="wherry-proxy-show", timeout=10) as client:
        api.client = client
        yield api


async def _running() -> dict[str, Any]:
    """The configuration of the proxy that runs in this network namespace; empty where none answers."""
    try:
        timeout = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(_CONFIGZ) as answer:
            document = await answer.json(content_type=None)
    except (aiohttp.ClientError, OSError, ValueError, TimeoutError):
        return {}
    found = document.get("kubeproxy.config.k8s.io") if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


async def _wanted(api: Api, *, needed: bool) -> tuple[Wanted, list[str]]:
    """(what the API wants, notes for the reader)."""
    if api.client is None:
        return NOTHING, [f"the API was not asked: {api.why}"]
    try:
        return await asked(api.client, api.node), []
    except (ApiError, ApiUnreachable) as error:
        if needed:
            raise UsageError(f"the API at {api.client.server}: {error}") from error
        return NOTHING, [f"the API at {api.client.server} did not answer, so this is the kernel's side only: {error}"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
