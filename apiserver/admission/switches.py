"""Plugins that are off unless switched on: AlwaysPullImages and DenyServiceExternalIPs."""

from __future__ import annotations

from typing import Any, Final

from apiserver.admission.attributes import PODS, WRITE, Attributes, Plugin, Rule

Obj = dict[str, Any]
_PARTS: Final = ("initContainers", "containers", "ephemeralContainers")


def always_pull_images() -> Plugin:
    """Who may use a private image is asked at each start, not only where the node has it already."""

    def ask(attributes: Attributes) -> None:
        spec = attributes.new["spec"]
        for part in _PARTS:
            for container in spec.get(part) or ():
                container["imagePullPolicy"] = "Always"

    return Plugin("AlwaysPullImages", mutating=(Rule(ask, PODS, WRITE, frozenset({"", "ephemeralcontainers"})),))


def deny_external_ips() -> Plugin:
    def ask(attributes: Attributes) -> None:
        before = set(((attributes.old or {}).get("spec") or {}).get("externalIPs") or ())
        if set(attributes.new["spec"].get("externalIPs") or ()) - before:
            raise attributes.refused("Use of external IPs is denied by admission control")

    return Plugin("DenyServiceExternalIPs", validating=(Rule(ask, frozenset({"services"}), WRITE),))
