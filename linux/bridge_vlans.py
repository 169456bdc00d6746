"""The VLANs of a bridge's ports: which frames a port lets in and out, and with which tag they leave.

A port has one VLAN for frames that come in untagged (its PVID) and any number that it carries; each leaves tagged or not. A
new port has the bridge's default VLAN (1, untagged, PVID). All of it goes through AF_BRIDGE's own link messages
(include/uapi/linux/if_bridge.h).
"""

from __future__ import annotations

import errno
import struct

from linux.netlink import Conversation, RefusedError
from linux.wire import ACK, attribute, attributes, nest, spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_DELLINK, _GETLINK, _SETLINK = 17, 18, 19
_AF_BRIDGE = 7
_IFLA_AF_SPEC, _IFLA_EXT_MASK = 26, 29
_FILTER_VLANS = 2
_BRIDGE_FLAGS, _BRIDGE_VLAN_INFO = 0, 2
_MASTER = 1
_PVID, _UNTAGGED = 2, 4

_LINK = struct.Struct("=BxHiII")
_VLAN = struct.Struct("=HH")  # flags, VLAN
_SHORT = struct.Struct("=H")
_NUMBER = struct.Struct("=I")


def set_port(index: int, *, untagged: int = 0, tagged: Sequence[int] = (), keep: bool = True) -> None:
    """The port's VLANs: ``untagged`` for frames without a tag (0: none), ``tagged`` carried as they are. ``keep``: what it has
    already (the bridge's default) stays."""
    with Conversation() as talk:
        for vlan, _, _ in [] if keep else port(index, talk):
            try:
                talk.ask(_DELLINK, ACK, _body(index, vlan, 0), f"take VLAN {vlan} from bridge port number {index}")
            except RefusedError as error:
                if error.errno != errno.ENOENT:
                    raise
        if untagged:
            body = _body(index, untagged, _PVID | _UNTAGGED)
            talk.ask(_SETLINK, ACK, body, f"put bridge port number {index} into VLAN {untagged}")
        for vlan in tagged:
            talk.ask(_SETLINK, ACK, _body(index, vlan, 0), f"let bridge port number {index} carry VLAN {vlan}")


def port(index: int, talk: Conversation) -> list[tuple[int, bool, bool]]:
    """The port's VLANs: (VLAN, untagged, whether untagged frames go there)."""
    asked = _LINK.pack(_AF_BRIDGE, 0, 0, 0, 0) + attribute(_IFLA_EXT_MASK, _NUMBER.pack(_FILTER_VLANS))
    found = []
    for body in talk.dump(_GETLINK, asked, "list the VLANs of the bridge ports"):
        if _LINK.unpack_from(body)[2] != index:
            continue
        spec = attributes(body, _LINK.size).get(_IFLA_AF_SPEC, b"")
        for number, start, _ in spans(spec, 0, len(spec)):
            if number == _BRIDGE_VLAN_INFO:
                flags, vlan = _VLAN.unpack_from(spec, start)
                found.append((vlan, bool(flags & _UNTAGGED), bool(flags & _PVID)))
    return found


def _body(index: int, vlan: int, flags: int) -> bytes:
    told = attribute(_BRIDGE_FLAGS, _SHORT.pack(_MASTER)) + attribute(_BRIDGE_VLAN_INFO, _VLAN.pack(flags, vlan))
    return _LINK.pack(_AF_BRIDGE, 0, index, 0, 0) + nest(_IFLA_AF_SPEC, told)
