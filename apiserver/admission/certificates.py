"""Certificates: who may approve and who may sign for a signer (CertificateApproval, CertificateSigning: the Authorizer is
asked for the verbs `approve` and `sign` on `signers`), and that nobody asks for a client certificate of the group
system:masters through a CertificateSigningRequest (CertificateSubjectRestriction).
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from apiserver.admission.attributes import Attributes, Operation, Plugin, Rule
from apiserver.authorization import Attributes as Question
from apiserver.authorization import Authorizer

_KINDS: Final = frozenset({"certificatesigningrequests.certificates.k8s.io"})
_UPDATE: Final[frozenset[Operation]] = frozenset({"UPDATE"})
_SIGNER: Final = "kubernetes.io/kube-apiserver-client"
_MASTERS: Final = "system:masters"


def subject_restriction() -> Plugin:
    return Plugin("CertificateSubjectRestriction", validating=(Rule(_ask, _KINDS),))


def approval(authorizer: Authorizer) -> Plugin:
    def ask(attributes: Attributes) -> None:
        _permitted(authorizer, attributes, "approve")

    return Plugin("CertificateApproval", validating=(Rule(ask, _KINDS, _UPDATE, frozenset({"approval"})),))


def signing(authorizer: Authorizer) -> Plugin:
    def ask(attributes: Attributes) -> None:
        new, old = attributes.new.get("status") or {}, (attributes.old or {}).get("status") or {}
        if any(new.get(field) != old.get(field) for field in ("certificate", "conditions")):
            _permitted(authorizer, attributes, "sign")

    return Plugin("CertificateSigning", validating=(Rule(ask, _KINDS, _UPDATE, frozenset({"status"})),))


def _permitted(authorizer: Authorizer, attributes: Attributes, verb: str) -> None:
    """For the signer by its name, or for all of its domain."""
    signer = ((attributes.old or {}).get("spec") or {}).get("signerName", "")
    for name in (signer, f"{signer.partition('/')[0]}/*"):
        asked = Question(attributes.user, verb, "certificates.k8s.io", "*", "signers", name=name)
        if authorizer.decide(asked).allowed:
            return
    raise attributes.refused(f'user not permitted to {verb} requests with signerName "{signer}"')


def _ask(attributes: Attributes) -> None:
    spec = attributes.new.get("spec") or {}
    if spec.get("signerName") == _SIGNER and _MASTERS in organizations(spec.get("request") or ""):
        raise attributes.refused(f"use of {_SIGNER} signer with {_MASTERS} group is not allowed")


def organizations(request: str) -> tuple[str, ...]:
    """The groups that a base64 PEM request asks for; none for what is no request, which validation refuses."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        subject = x509.load_pem_x509_csr(base64.b64decode(request)).subject
    except (ValueError, binascii.Error):
        return ()
    return tuple(str(one.value) for one in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME))
