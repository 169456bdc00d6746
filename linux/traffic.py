"""How fast a link may send: queueing disciplines ("qdiscs") and what steers packets between links, over netlink.

The kernel holds back only what leaves a link. What a pod sends arrives at the node's end of its pair, so it is led through
a link of its own first, an ``ifb`` ("intermediate functional block"), which sends it on to where it came from:

    to the pod      node's end: root qdisc tbf
    from the pod    node's end: ingress qdisc -> filter: everything to the ifb -> ifb: root qdisc tbf -> node's end again

A token bucket (tbf) sends at ``rate`` and lets ``burst`` bytes go at once; what waits longer than 25 ms is dropped. The
kernel keeps the burst as a time, in ticks of 64 ns, in 32 bits: it ends at 274 seconds' worth.

The CNI plugin starts a process per pod and imports this. (Linux: net/sched/sch_tbf.c, act_mirred.c, cls_u32.c)
"""

from __future__ import annotations

import errno
import struct

from linux.netlink import Conversation, RefusedError
from linux.wire import ACK, CREATE, EXCLUSIVE, REPLACE, as_text, attribute, attributes, nest, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

LATENCY = 0.025  # seconds

_NEWLINK, _GETLINK, _SETLINK = 16, 18, 19
_NEWQDISC, _DELQDISC, _GETQDISC = 36, 37, 38
_NEWTFILTER, _GETTFILTER = 44, 46
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_INFO_KIND = 3, 4, 18, 20, 1
_IFF_UP = 1
_KIND, _OPTIONS = 1, 2  # TCA_*
_TBF_PARMS, _TBF_RATE64 = 1, 4
_U32_CLASSID, _U32_SEL, _U32_ACT = 1, 5, 7
_ACT_KIND, _ACT_OPTIONS = 1, 2
_MIRRED_PARMS = 2
_ROOT, _INGRESS, _INGRESS_HANDLE, _TBF_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000, 0x00010000
_EVERYTHING = (1 << 16) | 0x0300  # priority 1, ETH_P_ALL in the network's order
_TERMINAL = 1  # TC_U32_TERMINAL: what matches is done with
_STOLEN, _REDIRECT = 4, 1  # TC_ACT_STOLEN, TCA_EGRESS_REDIR
_TICKS_PER_SECOND = 1_000_000_000 // 64
_MOST = 0xFFFFFFFF

_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_TC = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info
_RATE = struct.Struct("=BBHhHI")  # struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate
_TBF = struct.Struct("=12s12sIII")  # struct tc_tbf_qopt: rate, peakrate, limit, buffer, mtu
_SELECTOR = struct.Struct("=BBBxHHhhI")  # struct tc_u32_sel: flags, offshift, nkeys, offmask, off, offoff, hoff, hmask
_KEY = struct.Struct("=IIii")  # struct tc_u32_key: mask, val, off, offmask
_MIRRED = struct.Struct("=IIiiiiI")  # struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex
_NUMBER = struct.Struct("=I")
_LONG = struct.Struct("=Q")


class Bucket:
    """A token bucket as the kernel keeps it: bytes a second, bytes that may wait, ticks that the burst is worth."""

    __slots__ = ("buffer", "limit", "rate")

    def __init__(self, rate: int, limit: int, buffer: int) -> None:
        self.rate: Final = rate
        self.limit: Final = limit
        self.buffer: Final = buffer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bucket) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Bucket(rate={self.rate}, limit={self.limit}, buffer={self.buffer})"

    @property
    def _key(self) -> tuple[int, int, int]:
        return self.rate, self.limit, self.buffer


def bucket(rate: int, burst: int) -> Bucket:
    """For bytes a second and bytes at once, as the reference plugin reckons them; but where the burst is worth more time than the
    kernel can count, it ends there (the reference's number wraps around, and its queue holds half an hour)."""
    microseconds = min(burst * 1_000_000 // rate, _MOST * 64 // 1000)
    buffer = min(microseconds * _TICKS_PER_SECOND // 1_000_000, _MOST)
    queue = int(rate * LATENCY) + min(burst, rate * _MOST * 64 // 1_000_000_000)
    return Bucket(rate, min(queue, _MOST), buffer)


class Traffic:
    """One conversation with the kernel about the namespace in which it was opened. Raises RefusedError."""

    __slots__ = ("_talk",)

    def __init__(self) -> None:
        self._talk = Conversation()

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *_: object) -> None:
        self._talk.close()

    def create_ifb(self, name: str, mtu: int, alias: str) -> None:
        """Up. EEXIST when the name is taken. The alias tells whose it is."""
        body = (
            _LINK.pack(0, 0, 0, _IFF_UP, _IFF_UP) + text(_IFLA_IFNAME, name) + attribute(_IFLA_MTU, _NUMBER.pack(mtu))
        )
        body += nest(_IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, b"ifb"))
        self._talk.ask(_NEWLINK, CREATE | EXCLUSIVE | ACK, body, f"create ifb {name}")
        named = _LINK.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name) + attribute(_IFLA_IFALIAS, alias.encode())
        self._talk.ask(_SETLINK, ACK, named, f"name the owner of ifb {name}")

    def aliases(self) -> dict[str, str]:
        """name -> alias, of the links that have one."""
        found = {}
        for body in self._talk.dump(_GETLINK, _LINK.pack(0, 0, 0, 0, 0), "list the links"):
            parts = attributes(body, _LINK.size)
            if alias := as_text(parts.get(_IFLA_IFALIAS)):
                found[as_text(parts.get(_IFLA_IFNAME))] = alias
        return found

    def limit(self, index: int, to: Bucket) -> None:
        """The link sends through this token bucket and nothing else."""
        rate = _RATE.pack(0, 0, 0, 0, 0, min(to.rate, _MOST))
        parts = [attribute(_TBF_PARMS, _TBF.pack(rate, bytes(_RATE.size), to.limit, to.buffer, 0))]
        if to.rate >= _MOST:
            parts.append(attribute(_TBF_RATE64, _LONG.pack(to.rate)))
        body = _TC.pack(0, index, _TBF_HANDLE, _ROOT, 0) + text(_KIND, "tbf") + nest(_OPTIONS, *parts)
        self._talk.ask(_NEWQDISC, CREATE | REPLACE | ACK, body, f"limit the rate of link number {index}")

    def redirect(self, index: int, to: int) -> None:
        """Everything that arrives through the link leaves by the link `to` first. When that is deleted, nothing passes any
        more: `let_pass` comes before."""
        self.let_pass(index)  # what another process left there
        self._talk.ask(_NEWQDISC, CREATE | EXCLUSIVE | ACK, _ingress(index), f"watch what link number {index} receives")
        mirred = nest(
            1,
            text(_ACT_KIND, "mirred"),
            nest(_ACT_OPTIONS, attribute(_MIRRED_PARMS, _MIRRED.pack(0, 0, _STOLEN, 0, 0, _REDIRECT, to))),
        )
        body = _TC.pack(0, index, 0, _INGRESS_HANDLE, _EVERYTHING) + text(_KIND, "u32")
        body += nest(
            _OPTIONS,
            attribute(_U32_CLASSID, _NUMBER.pack(0x10001)),
            attribute(_U32_SEL, _SELECTOR.pack(_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + _KEY.pack(0, 0, 0, 0)),
            nest(_U32_ACT, mirred),
        )
        self._talk.ask(
            _NEWTFILTER, CREATE | EXCLUSIVE | ACK, body, f"lead what link number {index} receives to number {to}"
        )

    def let_pass(self, index: int) -> None:
        """What arrives through the link goes its way, if it did not."""
        self._remove(_ingress(index), f"let what link number {index} receives pass")

    def unlimit(self, index: int) -> None:
        """The link sends as it would by itself."""
        self._remove(_TC.pack(0, index, _TBF_HANDLE, _ROOT, 0), f"lift the limit of link number {index}")

    def limit_of(self, index: int) -> Bucket | None:
        """The link's token bucket; None when something else decides there."""
        for body in self._talk.dump(_GETQDISC, _TC.pack(0, index, 0, 0, 0), f"list the qdiscs of link number {index}"):
            _, where, _, parent, _ = _TC.unpack_from(body)
            parts = attributes(body, _TC.size)
            if where != index or parent != _ROOT or as_text(parts.get(_KIND)) != "tbf":
                continue
            options = attributes(parts.get(_OPTIONS, b""))
            rate, _, limit, buffer, _ = _TBF.unpack_from(options[_TBF_PARMS])
            wide = options.get(_TBF_RATE64)
            return Bucket(_LONG.unpack(wide)[0] if wide else _RATE.unpack(rate)[5], limit, buffer)
        return None

    def redirected(self, index: int) -> list[int]:
        """The links that what arrives through this one is led to."""
        asked = _TC.pack(0, index, 0, _INGRESS_HANDLE, 0)
        found = []
        for body in self._talk.dump(_GETTFILTER, asked, f"list the filters of link number {index}"):
            options = attributes(attributes(body, _TC.size).get(_OPTIONS, b""))
            action = attributes(attributes(options.get(_U32_ACT, b"")).get(1, b""))
            parms = attributes(action.get(_ACT_OPTIONS, b"")).get(_MIRRED_PARMS)
            if parms:
                found.append(int(_MIRRED.unpack_from(parms)[6]))
        return found

    def _remove(self, qdisc: bytes, what: str) -> None:
        try:
            self._talk.ask(_DELQDISC, ACK, qdisc, what)
        except RefusedError as error:  # EINVAL: there is a qdisc of another kind
            if error.errno not in {errno.ENOENT, errno.EINVAL, errno.ENODEV}:
                raise


def _ingress(index: int) -> bytes:
    return _TC.pack(0, index, _INGRESS_HANDLE, _INGRESS, 0) + text(_KIND, "ingress")
