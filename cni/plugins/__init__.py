"""One module for each plugin's name, all in one program: what it was started as, or asked for, chooses the module.

A module here is a ``cni.call.Plugin``: five functions of a call and the decoded configuration.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.call import Plugin

MAIN = "wherry-cni"
NAMES = (MAIN, "bridge", "host-local", "loopback", "portmap", "bandwidth", "flannel")
"""Under which the program may be started. All of them are one file in one directory (``cni.delegate`` counts on it)."""


def named(kind: str) -> Plugin | None:
    """The plugin of this name, None when it is none of ours. Only the module that is needed is loaded."""
    match kind:
        case "wherry-cni":
            from cni.plugins import wherry

            return wherry
        case "bridge":
            from cni.plugins import bridge

            return bridge
        case "host-local":
            from cni.plugins import host_local

            return host_local
        case "loopback":
            from cni.plugins import loopback

            return loopback
        case "flannel":
            from cni.plugins import flannel

            return flannel
        case "portmap":
            from cni.plugins import portmap

            return portmap
        case "bandwidth":
            from cni.plugins import bandwidth

            return bandwidth
        case _:
            return None
