"""Admission: what the server adds to, or holds against, an object before it is stored.

    decode ─ default ─ mutating rules ─ validate ─ validating rules ─ quota and addresses in one transaction with the object

Each plugin has upstream's name and is a module here; `ORDER` is upstream's order. `--enable-admission-plugins` and
`--disable-admission-plugins` choose among them. ResourceQuota is a part of the commit itself (`quota`), because what it
charges must be on disk exactly when the object is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from apiserver.admission import (
    certificates,
    classes,
    lifecycle,
    limits,
    nodes,
    podsecurity,
    priority,
    runtimeclass,
    serviceaccount,
    storage,
    switches,
    tolerations,
)
from apiserver.admission.attributes import Ask, Attributes, Place, Plugin
from apiserver.admission.quota import NAME as RESOURCE_QUOTA
from apiserver.admission.quota import Quotas
from apiserver.admission.sight import Sight
from apiserver.authorization import Authorizer, Everybody

__all__ = ["DEFAULT", "PLUGINS", "Admission", "Attributes", "Settings", "Sight"]


EVERYBODY: Final = Everybody()


@dataclass(frozen=True, slots=True)
class Settings:
    """`patience`: seconds that a namespace's own ServiceAccount is waited for. `authorizer` says who may approve and sign."""

    not_ready_seconds: int = 300
    unreachable_seconds: int = 300
    patience: float = serviceaccount.PATIENCE
    authorizer: Authorizer = EVERYBODY


Make = Callable[[Sight, Settings], Plugin]

ORDER: Final[tuple[tuple[str, Make], ...]] = (
    ("NamespaceLifecycle", lambda sight, _: lifecycle.plugin(sight)),
    ("LimitRanger", lambda sight, _: limits.plugin(sight)),
    ("ServiceAccount", lambda sight, settings: serviceaccount.plugin(sight, settings.patience)),
    ("TaintNodesByCondition", lambda _sight, _: nodes.plugin()),
    ("AlwaysPullImages", lambda _sight, _: switches.always_pull_images()),
    ("PodSecurity", lambda sight, _: podsecurity.plugin(sight)),
    ("Priority", lambda sight, _: priority.plugin(sight)),
    (
        "DefaultTolerationSeconds",
        lambda _sight, settings: tolerations.default_seconds(settings.not_ready_seconds, settings.unreachable_seconds),
    ),
    ("ExtendedResourceToleration", lambda _sight, _: tolerations.extended_resources()),
    ("DefaultStorageClass", lambda sight, _: classes.default_storage_class(sight)),
    ("StorageObjectInUseProtection", lambda _sight, _: storage.in_use_protection()),
    ("PersistentVolumeClaimResize", lambda sight, _: storage.claim_resize(sight)),
    ("RuntimeClass", lambda sight, _: runtimeclass.plugin(sight)),
    ("CertificateApproval", lambda _sight, settings: certificates.approval(settings.authorizer)),
    ("CertificateSigning", lambda _sight, settings: certificates.signing(settings.authorizer)),
    ("CertificateSubjectRestriction", lambda _sight, _: certificates.subject_restriction()),
    ("DefaultIngressClass", lambda sight, _: classes.default_ingress_class(sight)),
    ("DenyServiceExternalIPs", lambda _sight, _: switches.deny_external_ips()),
    ("PodTopologyLabels", lambda sight, _: nodes.topology_labels(sight)),
)
PLUGINS: Final = frozenset({name for name, _ in ORDER} | {RESOURCE_QUOTA})
OFF: Final = frozenset({"AlwaysPullImages", "ExtendedResourceToleration", "DenyServiceExternalIPs"})
DEFAULT: Final = PLUGINS - OFF

_Plans = dict[Place, tuple[Ask, ...]]


class Admission:
    def __init__(self, sight: Sight, plugins: frozenset[str] = DEFAULT, settings: Settings = Settings()) -> None:
        self.sight = sight
        self.plugins = tuple(make(sight, settings) for name, make in ORDER if name in plugins)
        self.quotas = Quotas(sight) if RESOURCE_QUOTA in plugins else None
        self._mutating: _Plans = {}
        self._validating: _Plans = {}

    async def mutate(self, attributes: Attributes) -> None:
        """Changes `attributes.new` in place; raises the StatusError that refuses it."""
        for ask in self._mutating.get(attributes.place) or self._plan(attributes, self._mutating):
            waiting = ask(attributes)
            if waiting is not None:
                await waiting

    async def validate(self, attributes: Attributes) -> None:
        for ask in self._validating.get(attributes.place) or self._plan(attributes, self._validating):
            waiting = ask(attributes)
            if waiting is not None:
                await waiting

    def _plan(self, attributes: Attributes, plans: _Plans) -> tuple[Ask, ...]:
        """The rules that have something to say, found once for each kind, operation and subresource."""
        if attributes.place not in plans:
            rules = (
                rule
                for plugin in self.plugins
                for rule in (plugin.mutating if plans is self._mutating else plugin.validating)
                if rule.concerns(attributes.kind, attributes.operation, attributes.subresource)
            )
            plans[attributes.place] = tuple(rule.ask for rule in rules)
        return plans[attributes.place]
