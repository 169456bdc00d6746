"""``ipMasq``: what leaves a container for elsewhere than its own network leaves with the node's address.

By iptables, as the reference plugin: a chain for each container, CNI-<hash of network and container>, to which POSTROUTING
jumps for the container's address; in it the container's own network and multicast pass, the rest is masqueraded.

    -A POSTROUTING -s 10.1.2.7/32 -m comment --comment "name: \\"pods\\" id: \\"c0ffee\\"" -j CNI-3d1e...
    -A CNI-3d1e... -d 10.1.2.0/24 -j ACCEPT
    -A CNI-3d1e... ! -d 224.0.0.0/4 -j MASQUERADE

By nftables: one rule for each address in chain masq_checks of table inet cni_plugins_masquerade, found again by the hash at
the head of its comment. Without a word from the configuration: iptables where it is installed, else nftables.

Removal reads POSTROUTING (or the chain) for what is the container's, and needs no address; nor does it matter which of the two
an ADD would take today.
"""

from __future__ import annotations

from cni.digest import digest
from cni.model import parse_interface, subnet_of
from cni.nat import Host, Tables, is_nowhere
from cni.spec import IO_FAILURE, NOT_AVAILABLE, CniError
from linux.rtnetlink import unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cni.call import Call
    from cni.model import Bridge, Layout
    from cni.spec import Result

    Addresses = Sequence[tuple[bytes, int]]

_TABLE = "inet cni_plugins_masquerade"
_CHECKS = "masq_checks"
_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
_LONGEST_COMMENT = 128
_PATIENCE = 60.0  # seconds for one nft
_COMMANDS = {4: "iptables", 6: "ip6tables"}


def setup(call: Call, wanted: Bridge, found: Layout) -> None:
    addresses = [(address, length) for address, length, _ in found.addresses]
    own = _chain(call, wanted.network)
    with Host(call.environment) as host:
        if _backend(host, wanted.backend) == "nftables":
            _nft_setup(host, call, wanted.network, addresses)
            return
        for family in sorted({_family(address) for address, _ in addresses}):
            tables, lines = Tables(family, host), _rules(call, wanted.network, family, addresses)
            refused = tables.write(lines)
            if refused:  # a chain of this container's is there: an ADD that was killed left it
                _iptables_remove(tables, lambda chain, _: chain == own)
                refused = tables.write(lines)
            if refused:
                raise CniError(IO_FAILURE, f"ipMasq: {refused}")


def remove(call: Call, network: str, backend: str, families: Iterable[int] = (4, 6)) -> None:
    own, mark = _chain(call, network), _mark(network, call.ifname, call.container)
    with Host(call.environment) as host:
        for each in _backends(host, backend):
            if each == "nftables":
                _nft_remove(host, lambda comment: comment.startswith(mark))
                continue
            found = [_iptables_remove(tables, lambda chain, _: chain == own) for tables in _every(host, families)]
            if any(found):
                return  # an ADD writes one of them


def collect(call: Call, network: str, backend: str, valid: Iterable[tuple[str, str]]) -> None:
    """Removes the rules of this network that belong to none of the valid attachments."""
    valid = list(valid)
    kept = tuple(_mark(network, ifname, container) for container, ifname in valid)
    ours = _hash(network) + "-"
    comments = {_comment(network, container) for container, _ in valid}
    head = _comment(network, "")[:-1]
    with Host(call.environment) as host:
        for each in _backends(host, backend):
            if each == "nftables":
                _nft_remove(host, lambda comment: comment.startswith(ours) and not comment.startswith(kept))
                continue
            for tables in _every(host, (4, 6)):
                _iptables_remove(tables, lambda _, comment: comment.startswith(head) and comment not in comments)


def differences(call: Call, wanted: Bridge, previous: Result) -> list[str]:
    """What of the container's rules is missing, as sentences."""
    addresses, host = [parse_interface(each.address) for each in previous.of_container()], Host(call.environment)
    found: list[str] = []
    for each in _backends(host, wanted.backend) or [_backend(host, wanted.backend)]:
        missing = (_nft_missing if each == "nftables" else _iptables_missing)(host, call, wanted.network, addresses)
        if not missing:
            return []
        found = found or missing  # of the one that an ADD would take
    return found


def status(call: Call, backend: str) -> None:
    """Refused where the rules could not be written."""
    host = Host(call.environment)
    iptables = _backend(host, backend) == "iptables"
    said = Tables(4, host).usable() if iptables else _nft(host, "list tables")[0]
    if said:
        raise CniError(NOT_AVAILABLE, f"ipMasq: {said}")


def _backend(host: Host, asked: str) -> str:
    return asked or ("iptables" if host.find("iptables") else "nftables")


def _backends(host: Host, asked: str) -> list[str]:
    """Those in which an ADD may have written: what is not installed (any more) can be asked for nothing."""
    programs = {"iptables": "iptables", "nftables": "nft"}
    return [name for name, program in programs.items() if asked in ("", name) and host.find(program)]


def _family(address: bytes) -> int:
    return 4 if len(address) == 4 else 6


def _every(host: Host, families: Iterable[int]) -> list[Tables]:
    """Those of these families whose commands are there: where one is not, no rule can be."""
    return [Tables(family, host) for family in families if host.find(_COMMANDS[family])]


# --- iptables ------------------------------------------------------------------------------------------------


def _chain(call: Call, network: str) -> str:
    return "CNI-" + digest(network + call.container)[:24]


def _comment(network: str, container: str) -> str:
    return f'name: "{network}" id: "{container}"'


def _rules(call: Call, network: str, family: int, addresses: Addresses) -> list[str]:
    """The transaction's lines; it is refused whole where the container's chain is there already."""
    chain = _chain(call, network)
    comment = '-m comment --comment "' + _comment(network, call.container).replace('"', '\\"') + '"'
    lines = [f"-N {chain}"]
    ours = [(address, length) for address, length in addresses if _family(address) == family]
    lines += [
        f"-A {chain} -d {subnet} {comment} -j ACCEPT"
        for subnet in dict.fromkeys(subnet_of(address, length) for address, length in ours)
    ]
    lines.append(f"-A {chain} ! -d {_MULTICAST[family]} {comment} -j MASQUERADE")
    lines += [f"-A POSTROUTING -s {unpacked(address)}/{len(address) * 8} {comment} -j {chain}" for address, _ in ours]
    return lines


def _iptables_missing(host: Host, call: Call, network: str, addresses: Addresses) -> list[str]:
    found = []
    for family in sorted({_family(address) for address, _ in addresses}):
        tables = Tables(family, host)
        lines = [line for line in _rules(call, network, family, addresses) if line.startswith("-A")]
        gone = [line for line in lines if tables.write([line.replace("-A", "-C", 1)])]
        found += [f"the rule {line!r} of table nat is missing" for line in gone]
    return found


def _iptables_remove(tables: Tables, doomed: Callable[[str, str], bool]) -> bool:
    """Removes the jumps from POSTROUTING for which `doomed`, of chain and comment, and the chains with them; whether there
    were any."""
    found = []
    for rule in tables.rules("POSTROUTING") or ():
        _, _, chain = rule.rpartition(" -j ")
        _, quoted, rest = rule.partition('--comment "')
        comment = rest.rpartition('" -j ')[0].replace('\\"', '"') if quoted else ""
        if chain.startswith("CNI-") and doomed(chain, comment):
            found.append((rule, chain))
    chains = list(dict.fromkeys(chain for _, chain in found))
    if not chains:
        return False
    lines = [f"-D POSTROUTING {rule}" for rule, _ in found]
    lines += [f"-F {chain}" for chain in chains] + [f"-X {chain}" for chain in chains]
    refused = tables.write(lines)
    if refused and any((chain in rule) for rule in tables.rules("POSTROUTING") or () for chain in chains):
        raise CniError(IO_FAILURE, f"ipMasq: {refused}")
    return True


# --- nftables ------------------------------------------------------------------------------------------------


def _hash(text: str) -> str:
    return digest(text)[:16]


def _mark(network: str, ifname: str, container: str) -> str:
    """The head of a rule's comment: which network and which attachment of it."""
    return f"{_hash(network)}-{_hash(f'{ifname}:{container}')}"


def _nft_setup(host: Host, call: Call, network: str, addresses: Addresses) -> None:
    said = f"{_mark(network, call.ifname, call.container)}, net: {network}, if: {call.ifname}, id: {call.container}"
    comment = said[:_LONGEST_COMMENT]
    lines = [
        f'add table {_TABLE} {{ comment "Masquerading for plugins from github.com/containernetworking/plugins" ; }}',
        f"add chain {_TABLE} {_CHECKS}",
        f"add chain {_TABLE} postrouting {{ type nat hook postrouting priority 100 ; }}",
        f"flush chain {_TABLE} postrouting",
        f"add rule {_TABLE} postrouting ip daddr 224.0.0.0/4 return",
        f"add rule {_TABLE} postrouting ip6 daddr ff00::/8 return",
        f"add rule {_TABLE} postrouting goto {_CHECKS}",
    ]
    _nft_remove(host, lambda each: each.startswith(comment[:33]))  # what an ADD that was killed left
    for address, length in addresses:
        ip, subnet = "ip" if len(address) == 4 else "ip6", subnet_of(address, length)
        match = f"{ip} saddr {unpacked(address)} {ip} daddr != {subnet}"
        lines.append(f'add rule {_TABLE} {_CHECKS} {match} masquerade comment "{comment}"')
    refused, _ = _nft(host, "\n".join(lines))
    if refused:
        raise CniError(IO_FAILURE, f"ipMasq: {refused}")


def _nft_missing(host: Host, call: Call, network: str, addresses: Addresses) -> list[str]:
    mark = _mark(network, call.ifname, call.container)
    there = [rule for rule, comment, _ in _nft_rules(host) if comment.startswith(mark)]
    return [
        f"the rule that masquerades {unpacked(address)} is missing"
        for address, _ in addresses
        if not any(f" {unpacked(address)} " in f"{rule} " for rule in there)
    ]


def _nft_rules(host: Host) -> list[tuple[str, str, str]]:
    """(rule, comment, handle) of every address that is masqueraded; none where the table is not there."""
    if host.find("nft") is None:
        return []  # without the command no rule can be, and nobody is kept from going
    refused, listed = _nft(host, f"list chain {_TABLE} {_CHECKS}", "--handle", "--numeric")
    if refused:
        if is_nowhere(refused):
            return []
        raise CniError(IO_FAILURE, f"ipMasq: {refused}")
    found = []
    for line in listed.splitlines():
        rule, quoted, rest = line.strip().partition(' comment "')
        comment, _, handle = rest.rpartition('" # handle ')
        if quoted and handle:
            found.append((rule, comment, handle))
    return found


def _nft_remove(host: Host, doomed: Callable[[str], bool]) -> None:
    lines = [
        f"delete rule {_TABLE} {_CHECKS} handle {handle}" for _, comment, handle in _nft_rules(host) if doomed(comment)
    ]
    for line in lines:  # one by one: a rule that somebody else has removed meanwhile must not keep the others
        _nft(host, line)


def _nft(host: Host, text: str, *options: str) -> tuple[str, str]:
    """("" or why it was refused, what it printed)."""
    program = host.find("nft")
    if program is None:
        raise CniError(NOT_AVAILABLE, "ipMasq: neither iptables nor nft is on PATH: install one")
    ended = host.run([program, *options, "-f", "-"], f"{text}\n", timeout=_PATIENCE)
    return (str(ended) if ended.status else "", ended.stdout.decode(errors="replace"))
