"""RBAC and certificate signing requests: who may do what, and who wants to be whom."""

import base64
import binascii
import re
from typing import Any, Final

from cryptography import x509

from apiserver.validation import names
from apiserver.validation.rules import TOP, Found, Json, Path, Rule, Rules, at_least

_GROUP: Final = "rbac.authorization.k8s.io"
_SUBJECTS: Final = ("Group", "ServiceAccount", "User")
_SPEC: Final[Path] = (TOP, "spec")
_USAGES: Final = (
    "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment",
    "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel",
    "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime",
    "server auth", "signing", "timestamping",
)  # fmt: skip
_SIGNER: Final = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9.]*/.+")
_SHORTEST: Final = 600


def rules(namespaced: bool) -> Any:
    def check(obj: Json, path: Path, found: Found) -> None:
        for index, rule in enumerate(obj.get("rules") or ()):
            _policy_rule(rule, namespaced, ((path, "rules"), index), found)
        aggregation = obj.get("aggregationRule")
        if aggregation is not None and not aggregation.get("clusterRoleSelectors"):
            here = ((path, "aggregationRule"), "clusterRoleSelectors")
            found.required(here, "at least one clusterRoleSelector required if aggregationRule is non-nil")

    return check


def _policy_rule(rule: Json, namespaced: bool, path: Path, found: Found) -> None:
    if not rule.get("verbs"):
        found.required((path, "verbs"), "verbs must contain at least one value")
    if urls := rule.get("nonResourceURLs"):
        if namespaced:
            found.invalid((path, "nonResourceURLs"), urls, "namespaced rules cannot apply to non-resource URLs")
        if any(rule.get(field) for field in ("apiGroups", "resources", "resourceNames")):
            detail = "rules cannot apply to both regular resources and non-resource URLs"
            found.invalid((path, "nonResourceURLs"), urls, detail)
        return
    if not rule.get("apiGroups"):
        found.required((path, "apiGroups"), "resource rules must supply at least one api group")
    if not rule.get("resources"):
        found.required((path, "resources"), "resource rules must supply at least one resource")


def binding(namespaced: bool) -> Any:
    def check(obj: Json, path: Path, found: Found) -> None:
        role, here = obj.get("roleRef", {}), (path, "roleRef")
        if role.get("apiGroup", "") != _GROUP:
            found.unsupported((here, "apiGroup"), role.get("apiGroup", ""), (_GROUP,))
        kinds = ("ClusterRole", "Role") if namespaced else ("ClusterRole",)
        if role.get("kind", "") not in kinds:
            found.unsupported((here, "kind"), role.get("kind", ""), kinds)
        if not role.get("name"):
            found.required((here, "name"))
        else:
            for text in names.path_segment(role["name"]):
                found.invalid((here, "name"), role["name"], text)
        for index, subject in enumerate(obj.get("subjects", ())):
            _subject(subject, namespaced, ((path, "subjects"), index), found)

    return check


def _subject(subject: Json, namespaced: bool, path: Path, found: Found) -> None:
    kind, name = subject.get("kind", ""), subject.get("name", "")
    if not name:
        found.required((path, "name"))
    match kind:
        case "ServiceAccount":
            for text in names.dns_subdomain(name) if name else ():
                found.invalid((path, "name"), name, text)
            if subject.get("apiGroup"):
                found.unsupported((path, "apiGroup"), subject["apiGroup"], ("",))
            if not namespaced and not subject.get("namespace"):
                found.required((path, "namespace"))
        case "User" | "Group":
            if subject.get("apiGroup", "") != _GROUP:
                found.unsupported((path, "apiGroup"), subject.get("apiGroup", ""), (_GROUP,))
        case other:
            found.unsupported((path, "kind"), other, _SUBJECTS)


def binding_update(new: Json, old: Json, found: Found) -> None:
    if new.get("roleRef") != old.get("roleRef"):
        found.invalid((TOP, "roleRef"), new.get("roleRef"), "cannot change roleRef")


def signing_request(spec: Json, path: Path, found: Found) -> None:
    _request(spec.get("request", ""), (path, "request"), found)
    usages = spec.get("usages", [])
    if not usages:
        found.required((path, "usages"))
    for index, one in enumerate(usages):
        if one not in _USAGES:
            found.unsupported(((path, "usages"), index), one, _USAGES)
        if one in usages[:index]:
            found.duplicate(((path, "usages"), index), one)
    signer = spec.get("signerName", "")
    if not signer:
        found.required((path, "signerName"))
    elif signer == "kubernetes.io/legacy-unknown":
        found.invalid((path, "signerName"), signer, "the legacy signerName is not allowed via this API version")
    elif not _SIGNER.fullmatch(signer):
        detail = 'must be a fully qualified domain and path of the form "example.com/signer-name"'
        found.invalid((path, "signerName"), signer, detail)


def _request(text: str, path: Path, found: Found) -> None:
    """A PEM block of type CERTIFICATE REQUEST that its own key has signed."""
    try:
        pem = base64.b64decode(text)
        request = x509.load_pem_x509_csr(pem)
        if not request.is_signature_valid:
            found.invalid(path, text, "x509: ECDSA verification failure")
    except (ValueError, binascii.Error):
        found.invalid(path, text, "PEM block type must be CERTIFICATE REQUEST")


def signing_request_update(new: Json, old: Json, found: Found) -> None:
    """Approval and denial exclude each other, once given they stay, and a certificate is issued once."""
    if new.get("spec") != old.get("spec"):
        found.invalid(_SPEC, new.get("spec"), names.IMMUTABLE)
    path: Path = (TOP, "status")
    after = new.get("status", {}).get("conditions", ())
    types = [one.get("type") for one in after]
    if "Approved" in types and "Denied" in types:
        detail = "Approved and Denied conditions are mutually exclusive"
        found.invalid(((path, "conditions"), types.index("Denied")), "Denied", detail)
    for one in old.get("status", {}).get("conditions", ()):
        kind = one.get("type")
        if kind in ("Approved", "Denied", "Failed") and kind not in types:
            found.forbidden((path, "conditions"), f'updates may not remove a condition of type "{kind}"')
    issued = old.get("status", {}).get("certificate")
    if issued and new.get("status", {}).get("certificate") != issued:
        found.forbidden((path, "certificate"), "updates may not set certificate content once set")


def _condition(one: Json, path: Path, found: Found) -> None:
    status = one.get("status", "")
    if not status:
        found.required((path, "status"))
    elif status not in ("False", "True", "Unknown"):
        found.unsupported((path, "status"), status, ("False", "True", "Unknown"))
    elif one.get("type") in ("Approved", "Denied", "Failed") and status != "True":
        found.unsupported((path, "status"), status, ("True",))


RULES: Final[Rules] = {
    "rbac.v1.Role": Rule(checks=(rules(True),)),
    "rbac.v1.ClusterRole": Rule(checks=(rules(False),)),
    "rbac.v1.RoleBinding": Rule(checks=(binding(True),)),
    "rbac.v1.ClusterRoleBinding": Rule(checks=(binding(False),)),
    "certificates.v1.CertificateSigningRequest": Rule(required=("spec",)),
    "certificates.v1.CertificateSigningRequestSpec": Rule(
        {"expirationSeconds": at_least(_SHORTEST, "may not specify a duration less than 600 seconds (10 minutes)")},
        checks=(signing_request,),
    ),
    "certificates.v1.CertificateSigningRequestCondition": Rule(required=("type",), checks=(_condition,)),
}
