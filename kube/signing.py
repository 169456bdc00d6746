"""certificates.k8s.io/v1."""

import msgspec

from kube.meta import Condition, Object, Typed


class SigningRequestSpec(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`request` is base64 of a PEM certificate request."""

    request: str = ""
    signer_name: str = ""
    usages: tuple[str, ...] = ()
    expiration_seconds: int | None = None
    username: str = ""


class SigningRequestStatus(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`certificate` is base64 of the PEM chain, once the signer has issued it."""

    conditions: tuple[Condition, ...] = ()
    certificate: str = ""


class SigningRequest(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    spec: SigningRequestSpec = SigningRequestSpec()
    status: SigningRequestStatus = msgspec.field(default_factory=SigningRequestStatus)
