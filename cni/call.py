"""What a runtime asks of a plugin: the CNI_* variables of one call, checked at the door, and what a plugin is.

| variable          | ADD, CHECK | DEL      | GC, STATUS | VERSION |
|-------------------|------------|----------|------------|---------|
| CNI_CONTAINERID   | needed     | needed   |            |         |
| CNI_NETNS         | needed     | may be   |            |         |
| CNI_IFNAME        | needed     | needed   |            |         |
| CNI_PATH          | needed     | needed   | needed     |         |
| CNI_ARGS          | may be     | may be   |            |         |

(https://www.cni.dev/docs/spec/, section 2.) ``CNI_NETNS_OVERRIDE`` lets a caller name the plugin's own namespace, which is
otherwise refused with code 8, as libcni's plugins have it.
"""

from __future__ import annotations

from cni.spec import INVALID_ENVIRONMENT, CniError, is_identifier, is_link_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final, Protocol

    from cni.codec import Json
    from cni.spec import Result

    class Plugin(Protocol):
        """A plugin is a module with these. They raise CniError (or OSError, which the door translates) and nothing else; the
        configuration is the decoded JSON of stdin, whose ``cniVersion`` and ``name`` the door has checked. They touch no
        state of the process (os.environ, the working directory, sys.stdout): the agent runs them in threads."""

        def add(self, call: Call, config: Mapping[str, Json]) -> Result: ...
        def delete(self, call: Call, config: Mapping[str, Json]) -> None: ...
        def check(self, call: Call, config: Mapping[str, Json]) -> None: ...
        def status(self, call: Call, config: Mapping[str, Json]) -> None: ...
        def gc(self, call: Call, config: Mapping[str, Json]) -> None: ...

    class Entry(Protocol):
        """The call's place among those under way (``cni.journal``)."""

        @property
        def descriptor(self) -> int: ...
        def begin(self) -> None: ...


COMMANDS = ("ADD", "DEL", "CHECK", "STATUS", "GC")  # VERSION asks nothing of a plugin

_ATTACHMENT = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH")
_REQUIRED = {
    "ADD": _ATTACHMENT,
    "CHECK": _ATTACHMENT,
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
}
_TRUE = {"1", "t", "T", "true", "TRUE", "True"}  # Go's strconv.ParseBool
_OURS = {"IP", "MAC", "IgnoreUnknown"}


class Call:
    """``netns`` is empty where it is not known (DEL); ``args`` are the pairs of CNI_ARGS; ``path`` the directories in which
    delegates are looked for; ``environment`` what a delegated program inherits. ``own``: delegates are this program's own
    modules whatever ``path`` holds. ``entry``: where others see that the call is under way, None where nobody does."""

    __slots__ = ("args", "command", "container", "entry", "environment", "ifname", "netns", "own", "path")

    def __init__(
        self,
        command: str,
        container: str = "",
        ifname: str = "",
        netns: str = "",
        *,
        args: Mapping[str, str] | None = None,
        path: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        own: bool = False,
        entry: Entry | None = None,
    ) -> None:
        self.command: Final = command
        self.container: Final = container
        self.netns: Final = netns
        self.ifname: Final = ifname
        self.args: Final = args or {}
        self.path: Final = path
        self.environment: Final = environment or {}
        self.own: Final = own
        self.entry: Final = entry

    def begin(self) -> None:
        """An ADD says it before it makes the first thing that a DEL would take away, and after it has seen that this attachment
        is no other ADD's: from here on it is undone when it is cut off."""
        if self.entry is not None:
            self.entry.begin()

    @property
    def may_be_home(self) -> bool:
        """Whether CNI_NETNS may be the plugin's own namespace."""
        return self.environment.get("CNI_NETNS_OVERRIDE", "") in _TRUE

    def asking(self, command: str, *, own: bool | None = None) -> Call:
        """The same call with another command (an ADD that failed asks its delegate to DEL)."""
        environment = {**self.environment, "CNI_COMMAND": command}
        return Call(
            command,
            self.container,
            self.ifname,
            self.netns,
            args=self.args,
            path=self.path,
            environment=environment,
            own=self.own if own is None else own,
            entry=self.entry,
        )


def parse_call(variables: Mapping[str, str], entry: Entry | None = None) -> Call:
    """The call that the CNI_* variables spell; CniError names the variable that is missing or malformed."""
    command = variables.get("CNI_COMMAND", "")
    required = _REQUIRED.get(command)
    if required is None:
        raise _refused(f"CNI_COMMAND must be {', '.join(COMMANDS)} or VERSION, not {command!r}")
    missing = [name for name in required if not variables.get(name)]
    if missing:
        raise _refused(f"{command} needs the environment variable {', '.join(missing)}")
    container, ifname = variables.get("CNI_CONTAINERID", ""), variables.get("CNI_IFNAME", "")
    if container and not is_identifier(container):
        raise _refused(f"CNI_CONTAINERID must be letters, digits, '_', '.' and '-', not {container!r}")
    if ifname and not is_link_name(ifname):
        raise _refused(f"CNI_IFNAME must name an interface in at most 15 bytes, not {ifname!r}")
    return Call(
        command,
        container,
        ifname,
        variables.get("CNI_NETNS", ""),
        args=parse_args(variables.get("CNI_ARGS", "")) if command != "DEL" else {},  # nothing keeps a pod from going
        path=tuple(filter(None, variables.get("CNI_PATH", "").split(":"))),
        environment=variables,
        entry=entry,
    )


def parse_args(text: str) -> dict[str, str]:
    """The pairs of CNI_ARGS, "KEY=VALUE;KEY=VALUE". A key that no plugin of ours knows is refused unless IgnoreUnknown is true;
    Kubernetes' own (K8S_*) pass always."""
    found = {}
    for pair in filter(None, text.split(";")):
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise _refused(f"CNI_ARGS must be KEY=VALUE pairs with ';' between them; {pair!r} is none")
        found[key] = value
    unknown = [key for key in found if key not in _OURS and not key.startswith("K8S_")]
    if unknown and found.get("IgnoreUnknown", "") not in _TRUE:
        raise _refused(f"CNI_ARGS: nobody here knows {', '.join(unknown)}: remove it, or add IgnoreUnknown=1")
    return found


def _refused(message: str) -> CniError:
    return CniError(INVALID_ENVIRONMENT, message)
