"""node.k8s.io v1: by which handler of the runtime a pod is run."""

from kube.meta import Typed


class RuntimeClass(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    handler: str = ""
