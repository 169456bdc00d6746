"""Flows that a rule comes too late for. The kernel asks a NAT rule once per flow; with UDP, where a flow ends only when nobody
sends for half a minute, a sender that never rests would go on to the pod that had the port before, or to nobody.

After the rules are in, flows to the port are deleted unless they lead to the pod already; after they are gone, those that do.
Only what was sent to the node itself counts: somebody's flow to that port of another machine passes by undisturbed.
"""

from __future__ import annotations

from linux.rtnetlink import Socket, packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.hostports.mapping import Pod, Port

_UDP = 17


def forget(family: int, ports: Iterable[Port], pod: Pod | None, *, gone: bool) -> int:
    """How many flows were deleted. `gone`: the ports lead to the pod no more. OSError where the kernel tracks no flows."""
    wanted = [port for port in ports if port.protocol == "udp"]
    if not wanted:
        return 0
    from linux.conntrack import Conntrack, Flow, Interrupted, endpoint

    own: dict[bytes, bool] = {}
    with Conntrack(family) as table, Socket() as host:
        found: list[Flow] = []
        for port in wanted:
            target = endpoint(packed(pod.address), port.pod) if pod is not None else None
            limited = packed(port.address) if port.address else b""

            def stale(to: bytes, answers: bytes, target: bytes | None = target, limited: bytes = limited) -> bool:
                address = to[:-2]
                if limited and address != limited:
                    return False
                if gone:  # without an address of the pod's: whatever was redirected
                    if answers != target if target is not None else answers == to:
                        return False
                elif answers == target:
                    return False
                if address not in own:
                    own[address] = host.route_to(address)[1]
                return own[address]

            try:
                found += table.flows(_UDP, stale, port=port.host)
            except Interrupted as error:  # the rest began while the table was read, under the rules as they are now
                found += error.flows
        return table.delete(found)
