"""A pod as this kubelet reads it: the shared types, and the fields that only a kubelet can be asked for.

Most of these are asked of kubelets and not done by this one. They are decoded all the same, because what is not seen is
silently ignored: `kubelet.admission.refusals` says no to them in words.
"""

from typing import Any

import msgspec

from kube import pods
from kube.resources import PODS, Resource

Raw = dict[str, Any]


class SecurityContext(pods.SecurityContext, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    se_linux_options: Raw | None = None


class PodSecurityContext(pods.PodSecurityContext, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    se_linux_options: Raw | None = None


class Container(pods.Container, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    security_context: SecurityContext | None = None
    volume_devices: tuple[Raw, ...] = ()


class PodSpec(pods.PodSpec, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    init_containers: tuple[Container, ...] = ()
    containers: tuple[Container, ...] = ()
    security_context: PodSecurityContext | None = None
    host_users: bool | None = None
    resource_claims: tuple[Raw, ...] = ()


class Pod(pods.Pod, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    spec: PodSpec = msgspec.field(default_factory=PodSpec)


PODS_WHOLE: Resource[pods.Pod] = Resource(PODS.group, PODS.version, PODS.plural, PODS.kind, PODS.namespaced, Pod)
