"""host-local: addresses from this node's ranges, remembered in files (``cni.store``).

As the reference plugin: its keys, its files, its order. What it does better: a reservation appears whole, a DEL needs no
ranges (they may have changed since), several addresses are all had or none, and GC and STATUS are done.
"""

from __future__ import annotations

from cni import ranges, store
from cni.config import DATA_DIR, mapping, path, text
from cni.spec import (
    ALREADY_ATTACHED,
    CHECK_FAILED,
    INVALID_CONFIGURATION,
    NO_FREE_ADDRESS,
    NOT_AVAILABLE,
    Address,
    CniError,
    Result,
    previous_result,
    valid_attachments,
)
from linux.rtnetlink import packed, unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cni.call import Call
    from cni.codec import Json
    from cni.ranges import Range


def add(call: Call, config: Mapping[str, Json]) -> Result:
    sets, routes = ranges.parse_ranges(config), ranges.parse_routes(config)
    requested = ranges.parse_requested(call, config)
    dns = _resolv_conf(text(mapping(config, "ipam"), "resolvConf", ""))
    with store.Ledger(ledger_of(config)) as ledger:
        held = ledger.held(call.container, call.ifname)
        if held:
            raise CniError(
                ALREADY_ATTACHED,
                f"container {call.container} holds {unpacked(held[0])} on {call.ifname} already: DEL comes first",
            )
        call.begin()
        try:
            given = [_give(ledger, call, place, each, requested) for place, each in enumerate(sets)]
            _refuse_rest(requested)
        except BaseException:
            ledger.release(call.container, call.ifname)
            raise
    return Result((), given, routes, dns)


def delete(call: Call, config: Mapping[str, Json]) -> None:
    store.release(ledger_of(config), call.container, call.ifname)


def check(call: Call, config: Mapping[str, Json]) -> None:
    """The addresses of prevResult that are of these ranges are reserved for the container; without it, some address is."""
    held = store.held(ledger_of(config), call.container, call.ifname)
    previous = previous_result(config)
    if previous is not None:
        sets = ranges.parse_ranges(config)
        given = [packed(each.address.partition("/")[0]) for each in previous.of_container()]
        ours = [each for each in given if any(each in one for every in sets for one in every)]
        missing = [unpacked(each) for each in ours if each not in held]
        if missing:
            raise CniError(CHECK_FAILED, f"address {', '.join(missing)} is not reserved for the container")
    if not held:
        raise CniError(CHECK_FAILED, f"no address is reserved for {call.container} on {call.ifname}")


def status(call: Call, config: Mapping[str, Json]) -> None:
    """Whether an ADD would get its addresses now."""
    del call
    sets = ranges.parse_ranges(config)
    with store.Ledger(ledger_of(config)) as ledger:
        for place, each in enumerate(sets):
            if ledger.first_free(ranges.candidates(each, ledger.last(place))) is None:
                raise CniError(NOT_AVAILABLE, _exhausted(each, len(ledger.holders())))


def gc(call: Call, config: Mapping[str, Json]) -> None:
    del call
    store.collect(ledger_of(config), valid_attachments(config))


def ledger_of(config: Mapping[str, Json]) -> str:
    """The directory of the network's reservations."""
    return f"{path(mapping(config, 'ipam'), 'dataDir', DATA_DIR)}/{text(config, 'name', '')}"


def _give(ledger: store.Ledger, call: Call, place: int, each: Sequence[Range], requested: list[bytes]) -> Address:
    """An address of the set, reserved; a requested one (which is then struck off) before any other."""
    wish = next((address for address in requested if any(address in one for one in each)), None)
    if wish is not None:
        requested.remove(wish)
        if any(wish == one.gateway for one in each):
            raise CniError(INVALID_CONFIGURATION, f"requested address {unpacked(wish)} is the gateway's")
        if wish in ledger.holders():
            raise CniError(
                NO_FREE_ADDRESS, f"requested address {unpacked(wish)} is not available in range set {ranges.said(each)}"
            )
        address: bytes | None = wish
    else:
        address = ledger.first_free(ranges.candidates(each, ledger.last(place)))
    if address is None:
        raise CniError(NO_FREE_ADDRESS, _exhausted(each, len(ledger.holders())))
    ledger.reserve(address, call.container, call.ifname, place)
    home = next(one for one in each if address in one)
    return Address(f"{unpacked(address)}/{home.subnet.length}", unpacked(home.gateway))


def _refuse_rest(requested: Sequence[bytes]) -> None:
    if requested:
        listed = ", ".join(map(unpacked, requested))
        raise CniError(
            INVALID_CONFIGURATION, f"failed to allocate all requested IPs: {listed}: in no range, or too many"
        )


def _exhausted(each: Sequence[Range], held: int) -> str:
    return f"no IP addresses available in range set: {ranges.said(each)}: {held} are held"


def _resolv_conf(name: str) -> dict[str, Json]:
    """The result's ``dns`` from a file like /etc/resolv.conf."""
    if not name:
        return {}
    found: dict[str, list[str]] = {"nameservers": [], "search": [], "options": []}
    domain = ""
    with open(name, encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split("#")[0].split(";")[0].split()
            match words:
                case ["nameserver", address, *_]:
                    found["nameservers"].append(address)
                case ["domain", last, *_]:
                    domain = last
                case ["search", *listed]:
                    found["search"] += listed
                case ["options", *listed]:
                    found["options"] += listed
                case _:
                    pass
    dns: dict[str, Json] = {key: value for key, value in found.items() if value}
    return {**dns, "domain": domain} if domain else dns
