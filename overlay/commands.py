"""`wherry overlay show`: what people see of the overlay.

It looks at the network namespace it is started in, and at the registry, with the daemon's own eyes (`situation`, `look`), and
changes nothing. The configuration is that of the daemon which runs here (its /configz), or what is given in the daemon's own
flags, or that of an installed host; the daemon itself need not run.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import aiohttp
from prometheus_client import CollectorRegistry

from kube import settings
from kube.errors import ApiError, Retry, UsageError
from linux import links, sysctl
from linux.capabilities import Capability, effective
from linux.netlink import Conversation
from overlay import checksum, keys, masquerade, show, subnetenv, sysctls, wish
from overlay.config import Config, load
from overlay.look import Look, look
from overlay.model import Backend, NotYet
from overlay.netconf import Network
from overlay.registry.opened import opened
from overlay.router import rules_of
from overlay.series import Series
from overlay.show import Entry, Peer, Report, State
from overlay.situation import Situation
from overlay.subnets import Subnets

_DOOR = "127.0.0.1:10262"
_INSTALLED = "/etc/wherry/overlay.yaml"
_PATIENCE = 10.0
"""Seconds for the registry to answer in."""
_SHOWN = """\
Without flags the configuration is that of the daemon that runs here, else /etc/wherry/overlay.yaml. The daemon's own flags
name another: --kubeconfig and --net-config-path, --etcd-endpoints, --config, ...

examples:
  wherry overlay show
  wherry overlay show node2 -o json
  wherry overlay show --kubeconfig=/etc/wherry/overlay.kubeconfig --ip-masq
  wherry lab shell node2 -- wherry overlay show

exit status: 0 all as wanted, 1 something is not, 2 it could not be told"""


def main(argv: Sequence[str]) -> int:
    """The exit status of one `wherry overlay` command; raises UsageError for what the user can set right."""
    flags, ours = parted(argv)
    arguments = _parser().parse_args(ours)
    if not effective(Capability.NET_ADMIN):
        raise UsageError("the kernel's rules and tunnels are read with CAP_NET_ADMIN: run as root (sudo)")
    return asyncio.run(_shown(arguments, flags))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wherry overlay", description="what the overlay has made on this node")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    showing = commands.add_parser(
        "show",
        help="peers, what is programmed for each, and what is not as wanted",
        epilog=_SHOWN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="wherry overlay show [NODE] [-o json] [the daemon's flags]",
    )
    showing.add_argument("node", nargs="?", default="", metavar="NODE", help="one node, with every entry")
    showing.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="how to say it (default text)"
    )
    return parser


def parted(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the daemon's flags, ours)."""
    known, truths = {*settings.flags(Config), "--config", "--kubeconfig-file"}, settings.flags(Config, bool)
    theirs: list[str] = []
    ours: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        flag, given, _ = word.partition("=")
        flag = f"--{flag.lstrip('-')}" if len(flag.lstrip("-")) > 1 else flag
        if not word.startswith("-") or flag not in known:
            ours.append(word)
            continue
        theirs.append(word)
        if not given and flag not in truths and rest:
            theirs.append(rest.pop(0))
    return theirs, ours


async def _shown(arguments: argparse.Namespace, flags: Sequence[str]) -> int:
    config = load(flags) if flags else await _running()
    try:
        report = await _report(config)
    except (NotYet, Retry, ApiError, OSError) as error:
        raise UsageError(str(error)) from error
    only = arguments.node
    if only and only != report.node and only not in {peer.node for peer in report.peers}:
        raise UsageError(
            f"node {only} is neither this one ({report.node}) nor known to the registry at {report.registry}"
        )
    report = show.narrowed(report, only)
    if arguments.output == "json":
        print(json.dumps(show.document(report), indent=2))
    else:
        from overlay import screen  # half of this command's start is rich

        screen.print_report(report, detail=bool(only))
    return 0 if report.ok else 1


# --- the configuration ---------------------------------------------------------------------------------------------


async def _running() -> Config:
    """That of the daemon in this network namespace, or of the host."""
    answer = await _asked(_DOOR, "/configz")
    if answer is not None:
        return configured(answer[1])
    if Path(_INSTALLED).exists():
        return load(["--config", _INSTALLED])
    raise UsageError(
        f"no daemon answers at {_DOOR} and there is no {_INSTALLED}: give the daemon's flags, e.g. --kubeconfig FILE "
        f"--net-config-path FILE"
    )


def configured(text: str) -> Config:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise UsageError(f"what answers at {_DOOR}/configz is no overlay daemon; give the daemon's flags")
    whole = {"apiVersion": "wherry.io/v1alpha1", "kind": "OverlayConfiguration", **document}
    file = os.memfd_create("configz")
    try:
        os.write(file, json.dumps(whole).encode())
        return load(["--config", f"/proc/self/fd/{file}"])
    finally:
        os.close(file)


async def _asked(door: str, path: str) -> tuple[int, str] | None:
    """(status, body); None where nobody answers."""
    try:
        timeout = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"http://{door}{path}") as answer:
            return answer.status, await answer.text()
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None


# --- the report ----------------------------------------------------------------------------------------------------


async def _report(config: Config) -> Report:
    """Raises NotYet, Retry, ApiError, OSError, UsageError."""
    async with opened(config, read_only=True) as subnets, _read(subnets):
        net = await subnets.network()
        if net.kind is Backend.WIREGUARD and not keys.file(config.subnet_file).exists():
            raise NotYet(f"there is no key {keys.file(config.subnet_file)} yet: the daemon makes it at its first start")
        tunnels = wish.tunnels(net)
        situation = Situation(config, subnets, net, tunnels, Series(CollectorRegistry()), lambda: None)
        trouble = await _looked(situation)
        claims = subnets.claims()
        paths: list[show.Path] = []
        looks: list[Look] = []
        with Conversation() as ip:
            names = {link.index: link.name for link in links.links(ip)}
            for tunnel in tunnels:
                try:
                    seen = await look(
                        ip, tunnel, net, claims.leases, situation.now, blackhole=config.ip_blackhole_route
                    )
                except NotYet as error:
                    paths.append(show.Path(tunnel.name, tunnel.families, trouble=trouble or str(error)))
                else:
                    looks.append(seen)
                    paths.append(show.path(tunnel, seen, names))
    nodes = [lease.node for each in looks for lease in each.own.values()]
    return Report(
        node=nodes[0] if nodes else config.hostname_override or os.uname().nodename.lower(),
        backend=net.kind,
        registry=subnets.where,
        paths=tuple(paths),
        beside=tuple([entry async for entry in _beside(config, net, looks)]),
        others=tuple(Peer(node, None, refused=words) for node, words in claims.refused.items()),
        notes=(*await _daemon(config), *_checksums(paths)),
    )


@contextlib.asynccontextmanager
async def _read(subnets: Subnets) -> AsyncIterator[None]:
    """While the registry is being read; it has answered. Raises UsageError; what is raised meanwhile comes out as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(subnets.run(lambda: None))
            try:
                async with asyncio.timeout(_PATIENCE):
                    await subnets.synced.wait()
            except TimeoutError as error:
                raise UsageError(f"the registry at {subnets.where} did not answer within {_PATIENCE:g} s") from error
            yield
            reading.cancel()
    except ExceptionGroup as error:
        if len(error.exceptions) > 1:
            raise
        raise error.exceptions[0] from None


async def _looked(situation: Situation) -> str:
    """What keeps us from knowing who and where this node is, if it is not of one family alone."""
    try:
        await situation.look()
    except NotYet as error:
        return "" if situation.now.bases or situation.now.own else str(error)
    return ""


async def _beside(config: Config, net: Network, looks: Sequence[Look]) -> AsyncIterator[Entry]:
    own = {family: lease.subnet for each in looks for family, lease in each.own.items()}
    networks = {family: pods for family in own if (pods := net.pods(family)) is not None}
    if own:
        path = Path(config.subnet_file)
        text = subnetenv.render(networks, own, min(each.wish.mtu for each in looks), masquerade=config.ip_masq)
        yield _file(path, text)
    for name in (sysctls.FORWARDING[family] for family in own):
        value = sysctl.read(name)
        yield (
            Entry("sysctl", f"{name}=1", State.OK) if value == "1" else Entry("sysctl", f"{name}=1", State.WRONG, value)
        )
    for family, pods in networks.items():
        differing = await masquerade.differences(rules_of(config, pods, own[family]), nftables=net.nftables)
        words = f"IPv{family:d}, for {own[family]}"
        yield Entry("rules", words, State.WRONG, "; ".join(differing)) if differing else Entry("rules", words)


def _file(path: Path, text: str) -> Entry:
    if not subnetenv.differs(path, text):
        return Entry("subnet.env", str(path))
    if not path.exists():
        return Entry("subnet.env", str(path), State.MISSING)
    return Entry("subnet.env", str(path), State.WRONG, ", ".join(_other_lines(path.read_text(errors="replace"), text)))


def _other_lines(there: str, wanted: str) -> Iterator[str]:
    lines = there.splitlines()
    yield from (f"{line} is missing" for line in wanted.splitlines() if line not in lines)


async def _daemon(config: Config) -> list[str]:
    """What the daemon says of itself."""
    if not config.door:
        return []
    answer = await _asked(config.door.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]"), "/readyz")
    if answer is None:
        return [f"no daemon answers at {config.door}: nobody mends what is not as wanted"]
    status, text = answer
    return [] if status == 200 else [f"the daemon is not ready: {' '.join(text.split())}"]


def _checksums(paths: Sequence[show.Path]) -> Iterator[str]:
    for path in paths:
        if path.name and (words := checksum.state(path.name)):
            yield f"{path.name} {words}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
