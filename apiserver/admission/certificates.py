"""CertificateSubjectRestriction: nobody asks for a client certificate of the group system:masters through a CSR."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from apiserver.admission.attributes import Attributes, Plugin, Rule

_SIGNER: Final = "kubernetes.io/kube-apiserver-client"
_MASTERS: Final = "system:masters"


def subject_restriction() -> Plugin:
    kinds = frozenset({"certificatesigningrequests.certificates.k8s.io"})
    return Plugin("CertificateSubjectRestriction", validating=(Rule(_ask, kinds),))


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
