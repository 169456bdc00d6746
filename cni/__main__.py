"""wherry-cni: one CNI call, from the environment and stdin to stdout and an exit status.

ADD reserves an address, then wires the pod; a failure undoes both before it is reported. DEL removes the link, then frees
the address (in that order: an address is free when nothing answers to it any more), and frees it even when the kernel
refuses the removal. An error is JSON on stdout and exit status 1, as the specification has it; a bug is a traceback on
stderr, which runtimes report as such.

Imports stand where they are needed: VERSION and every refusal at the door then cost hardly more than the interpreter.
"""

from __future__ import annotations

import os
import sys

from cni.codec import encode
from cni.config import parse_call, parse_config, parse_ledger, parse_version, read_lease
from cni.spec import (
    ALREADY_ATTACHED,
    CHECK_FAILED,
    INCOMPATIBLE_VERSION,
    INVALID_CONFIGURATION,
    IO_FAILURE,
    KERNEL_REFUSED,
    NEWEST,
    NO_FREE_ADDRESS,
    VERSIONS,
    CniError,
    parse_result,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from cni.codec import Json
    from cni.model import Attachment, Call, Config

_ABOUT = """wherry-cni: the CNI plugin of Wherry, a bridge and its addresses in one.
A container runtime calls it with CNI_* variables and a network configuration on stdin;
see docs/cni.md. It speaks CNI """


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status; ``argv`` is not looked at (CNI passes everything else otherwise)."""
    del argv
    command = os.environ.get("CNI_COMMAND", "")
    if not command:
        sys.stderr.write(f"{_ABOUT}{', '.join(VERSIONS)}.\n")
        return 0
    data = sys.stdin.buffer.read()
    try:
        answer = _answer(command, data)
    except CniError as error:
        return _say(error.as_json(_spoken_version(data)), 1)
    except OSError as error:
        return _say(_translated(error, command).as_json(_spoken_version(data)), 1)
    return 0 if answer is None else _say(answer, 0)


def _answer(command: str, data: bytes) -> dict[str, Json] | None:
    if command == "VERSION":
        return {"cniVersion": parse_version(data) or NEWEST, "supportedVersions": VERSIONS}
    call = parse_call(os.environ)
    match call.command:
        case "ADD":
            return _add(call, parse_config(data))
        case "DEL":
            _del(call, parse_ledger(data))
        case _:
            _check(call, parse_config(data))
    return None


def _translated(error: OSError, command: str) -> CniError:
    from linux.rtnetlink import RefusedError

    if isinstance(error, RefusedError):
        return CniError(KERNEL_REFUSED, str(error.strerror))
    return CniError(IO_FAILURE, f"{command} failed: {error}")


def _add(call: Call, config: Config) -> dict[str, Json]:
    from cni import apply, plan

    netns = apply.open_namespace(call)
    wanted = _reserve(call, config)
    try:
        macs = apply.attach(wanted, netns)
    except BaseException:
        try:
            _del(call, config.ledger)
        except OSError as error:  # the first failure is the one to report; the runtime's DEL tries this again
            sys.stderr.write(f"wherry-cni: undoing the failed ADD of {call.container}: {error}\n")
        raise
    return plan.result(config, call, wanted, *macs).as_json(config.version)


def _reserve(call: Call, config: Config) -> Attachment:
    from cni import plan, store
    from cni.model import address_text

    lease = read_lease(config)
    with store.Ledger(config.ledger) as ledger:
        holders = ledger.holders()
        for address, holder in holders.items():
            if holder == (call.container, call.ifname):
                raise CniError(
                    ALREADY_ATTACHED,
                    f"container {call.container} holds {address_text(address)} on {call.ifname} already: DEL comes first",
                )
        free = plan.free_address(lease.subnet, holders, ledger.last())
        if free is None:
            raise CniError(NO_FREE_ADDRESS, f"no address of {lease.subnet} is free: {len(holders)} are held")
        ledger.reserve(free, call.container, call.ifname)
    return plan.attachment(config, lease, call, free)


def _del(call: Call, ledger: str) -> None:
    from cni import apply, store

    try:
        apply.detach(call)
    finally:
        store.release(ledger, call.container, call.ifname)


def _check(call: Call, config: Config) -> None:
    from cni import apply, plan, store

    if config.version < "0.4.0":
        raise CniError(INCOMPATIBLE_VERSION, f"CHECK came with cniVersion 0.4.0; the network is at {config.version}")
    if config.previous is None:
        raise CniError(INVALID_CONFIGURATION, "CHECK needs prevResult, the result of the ADD")
    given = parse_result(encode(config.previous).encode()).ips()
    address = next((int(each.ip) for each in given if each.version == 4), None)
    if address is None:
        raise CniError(INVALID_CONFIGURATION, "prevResult holds no IPv4 address of the container")
    held = store.held(config.ledger, call.container, call.ifname)
    wanted = plan.attachment(config, read_lease(config), call, address)
    found = plan.differences(wanted, apply.observe(wanted, apply.open_namespace(call), held))
    if found:
        raise CniError(CHECK_FAILED, found[0], "; ".join(found[1:]))


def _spoken_version(data: bytes) -> str:
    """The version in which to complain: the caller's, where that is one we speak."""
    try:
        version = parse_version(data)
    except CniError:
        return NEWEST
    return version if version in VERSIONS else NEWEST


def _say(answer: dict[str, Json], status: int) -> int:
    sys.stdout.write(encode(answer) + "\n")
    sys.stdout.flush()
    return status


if __name__ == "__main__":
    sys.exit(main())
