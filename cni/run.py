"""One CNI call from its environment and stdin to its stdout and exit status: what the program and the resident agent both run.

Nothing of the process is touched (its environment, working directory, streams), so calls can run side by side in threads; the
network namespace is a thread's own. Imports stand where they are needed: VERSION and every refusal at the door then cost hardly
more than the interpreter.

Three fates of a failure. CniError is the answer as it stands. An OSError is the kernel's or the disk's no: 102 where the kernel
refused a request about links, 5 otherwise. Anything else is a bug: code 999, and the traceback on stderr (which in
the agent is its log).
"""

from __future__ import annotations

from cni.call import parse_call
from cni.caseless import fold
from cni.codec import decode, encode
from cni.spec import (
    INCOMPATIBLE_VERSION,
    INTERNAL,
    INVALID_CONFIGURATION,
    INVALID_ENVIRONMENT,
    INVALID_NAMESPACE,
    IO_FAILURE,
    KERNEL_REFUSED,
    LIMITED_CONNECTIVITY,
    NEWEST,
    NOT_AVAILABLE,
    UNDECODABLE,
    VERSIONS,
    CniError,
    is_identifier,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.call import Call, Entry, Plugin
    from cni.codec import Json

_EARLIER = (None, "", "0.1.0", "0.2.0")
"""Nobody can be attached by us at these versions, but the reference plugins may have done it before us: DEL answers nothing, so
there is nothing to spell in them."""
_SINCE = {"CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}


def answer(kind: str, environment: Mapping[str, str], stdin: bytes, entry: Entry | None = None) -> tuple[bytes, int]:
    """(stdout, exit status) of the plugin ``kind``, called with these CNI_* variables and this configuration."""
    said: dict[str, Json] | None
    command = environment.get("CNI_COMMAND", "")
    try:
        said, status = _answer(kind, command, environment, stdin, entry), 0
    except CniError as error:
        said, status = error.as_json(_spoken_version(stdin)), 1
    except OSError as error:
        said, status = _translated(error, command).as_json(_spoken_version(stdin)), 1
    except RecursionError:  # what decodes may yet be too deep to be told or handed on
        words = "the network configuration on stdin is nested too deeply"
        said, status = CniError(UNDECODABLE, words).as_json(_spoken_version(stdin)), 1
    except Exception as error:  # the one door: a runtime must be told, and the traceback be kept
        import sys
        import traceback

        traceback.print_exc(file=sys.stderr)
        what = f"{kind} has a bug: {type(error).__name__}: {error}"
        said, status = CniError(INTERNAL, what).as_json(_spoken_version(stdin)), 1
    return (encode(said) + "\n").encode() if said is not None else b"", status


def _answer(
    kind: str, command: str, environment: Mapping[str, str], stdin: bytes, entry: Entry | None
) -> dict[str, Json] | None:
    if command == "VERSION":
        return {"cniVersion": _version(stdin) or NEWEST, "supportedVersions": VERSIONS}
    from cni.plugins import NAMES, named

    plugin = named(kind)
    if plugin is None:
        raise CniError(INVALID_ENVIRONMENT, f"{kind!r} is no plugin: start this program as {', '.join(NAMES)}")
    call = parse_call(environment, entry)
    config = _config(command, stdin)
    match command:
        case "ADD":
            _refuse_home(call)
            return plugin.add(call, config).as_json(str(config["cniVersion"]))
        case "DEL":
            plugin.delete(call, config)
        case "CHECK":
            _refuse_home(call)
            plugin.check(call, config)
        case "STATUS":
            _status(plugin, call, config)
        case _:
            plugin.gc(call, config)
    return None


def _status(plugin: Plugin, call: Call, config: Mapping[str, Json]) -> None:
    """Whatever an ADD would meet, the answer to STATUS is that none would succeed."""
    try:
        plugin.status(call, config)
    except CniError as error:
        if error.code in (NOT_AVAILABLE, LIMITED_CONNECTIVITY):
            raise
        raise CniError(NOT_AVAILABLE, error.message, error.details) from None


def _config(command: str, stdin: bytes) -> Mapping[str, Json]:
    """The configuration on stdin, as far as it is every plugin's: an object with a version that we speak and a name."""
    try:
        said = decode(stdin)
    except ValueError as error:
        raise CniError(UNDECODABLE, f"the network configuration on stdin is not JSON: {error}") from None
    if not isinstance(said, dict):
        raise CniError(UNDECODABLE, "the network configuration on stdin must be a JSON object")
    fold(said)
    version, name = said.get("cniVersion"), said.get("name")
    if command == "DEL" and version in _EARLIER:
        version = version or "0.1.0"
        said = {**said, "cniVersion": version}
    elif version not in VERSIONS:
        spoken = f"{', '.join(VERSIONS[:-1])} or {VERSIONS[-1]}"
        raise CniError(INCOMPATIBLE_VERSION, f"cniVersion {encode(version)} is not supported: use {spoken}")
    since = _SINCE.get(command, "")
    if version < since:
        raise CniError(
            INCOMPATIBLE_VERSION, f"{command} came with cniVersion {since}; the network is at {version}: raise it"
        )
    if not isinstance(name, str) or not is_identifier(name):
        raise CniError(
            INVALID_CONFIGURATION,
            f"name {encode(name)} must be letters, digits, '_', '.' and '-': it names the network",
        )
    return said


def _refuse_home(call: Call) -> None:
    """The plugin's own namespace is no container's. (A DEL that names it touches nothing in it, and still frees the rest.)"""
    from linux.netns import identity, is_namespace

    if not call.may_be_home and is_namespace(call.netns) and identity(call.netns) == identity():
        raise CniError(
            INVALID_NAMESPACE,
            f"{call.netns} is the plugin's own network namespace, not a container's (CNI_NETNS_OVERRIDE=1 allows it)",
        )


def _translated(error: OSError, command: str) -> CniError:
    from linux.netlink import RefusedError

    if isinstance(error, RefusedError):
        return CniError(KERNEL_REFUSED, str(error.strerror))
    return CniError(IO_FAILURE, f"{command} failed: {error}")


def _version(stdin: bytes) -> str:
    """The version that a VERSION call speaks, "" when its input names none (libcni before 0.5 sends nothing)."""
    try:
        said = decode(stdin) if stdin.strip() else None
    except ValueError as error:
        raise CniError(UNDECODABLE, f"the input is not JSON: {error}") from None
    version = said.get("cniVersion") if isinstance(said, dict) else None
    return version if isinstance(version, str) else ""


def _spoken_version(stdin: bytes) -> str:
    """The version in which to complain: the caller's, where that is one we speak."""
    try:
        version = _version(stdin)
    except CniError:
        return NEWEST
    return version if version in VERSIONS else NEWEST
