"""wherry-cni: bridge and IPAM in one.

ADD reserves an address, then wires the pod; a failure undoes both before it is reported. DEL removes the link, then frees
the address (in that order: an address is free when nothing answers to it any more), and frees it even when the kernel
refuses the removal.
"""

from __future__ import annotations

import sys

from cni.codec import encode
from cni.config import ledger_of, parse_config, read_lease
from cni.spec import (
    ALREADY_ATTACHED,
    CHECK_FAILED,
    INVALID_CONFIGURATION,
    NO_FREE_ADDRESS,
    CniError,
    parse_result,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.call import Call
    from cni.codec import Json
    from cni.model import Attachment, Config
    from cni.spec import Result


def add(call: Call, config: Mapping[str, Json]) -> Result:
    from cni import apply, plan

    read = parse_config(config)
    netns = apply.open_namespace(call)
    wanted = _reserve(call, read)
    try:
        macs = apply.attach(wanted, netns)
    except BaseException:
        try:
            delete(call, config)
        except OSError as error:  # the first failure is the one to report; the runtime's DEL tries this again
            sys.stderr.write(f"wherry-cni: undoing the failed ADD of {call.container}: {error}\n")
        raise
    return plan.result(read, call, wanted, *macs)


def delete(call: Call, config: Mapping[str, Json]) -> None:
    from cni import apply, store

    ledger = ledger_of(config)
    try:
        apply.detach(call)
    finally:
        store.release(ledger, call.container, call.ifname)


def check(call: Call, config: Mapping[str, Json]) -> None:
    from cni import apply, plan, store

    read = parse_config(config)
    if read.previous is None:
        raise CniError(INVALID_CONFIGURATION, "CHECK needs prevResult, the result of the ADD")
    given = parse_result(encode(read.previous).encode()).ips()
    address = next((int(each.ip) for each in given if each.version == 4), None)
    if address is None:
        raise CniError(INVALID_CONFIGURATION, "prevResult holds no IPv4 address of the container")
    held = [int.from_bytes(each, "big") for each in store.held(read.ledger, call.container, call.ifname)]
    wanted = plan.attachment(read, read_lease(read), call, address)
    found = plan.differences(wanted, apply.observe(wanted, apply.open_namespace(call), held))
    if found:
        raise CniError(CHECK_FAILED, found[0], "; ".join(found[1:]))


def status(call: Call, config: Mapping[str, Json]) -> None:
    del call
    read_lease(parse_config(config))


def gc(call: Call, config: Mapping[str, Json]) -> None:
    del call, config


def _reserve(call: Call, config: Config) -> Attachment:
    from cni import plan, store
    from cni.model import address_text

    lease = read_lease(config)
    with store.Ledger(config.ledger) as ledger:
        held = [int.from_bytes(each, "big") for each in ledger.held(call.container, call.ifname)]
        if held:
            raise CniError(
                ALREADY_ATTACHED,
                f"container {call.container} holds {address_text(held[0])} on {call.ifname} already: DEL comes first",
            )
        first, end = lease.subnet.network + 2, lease.subnet.broadcast
        last = int.from_bytes(ledger.last() or b"", "big")
        start = last + 1 if first <= last < end - 1 else first
        found = ledger.first_free(each.to_bytes(4, "big") for each in (*range(start, end), *range(first, start)))
        if found is None:
            raise CniError(NO_FREE_ADDRESS, f"no address of {lease.subnet} is free: {len(ledger.holders())} are held")
        ledger.reserve(found, call.container, call.ifname)
    free = int.from_bytes(found, "big")
    return plan.attachment(config, lease, call, free)
