"""Role bindings and certificate requests as rows; roles themselves have no columns of their own upstream."""

from datetime import datetime, timedelta
from typing import Any, Final

from apiserver.printers import text
from apiserver.printers.columns import AGE, NAME, Column, Json, Printer, Printers, columns, wide


def role_binding(obj: Json, now: datetime) -> list[Any]:
    role, subjects = obj.get("roleRef", {}), obj.get("subjects", [])
    users, groups = ([one.get("name", "") for one in subjects if one.get("kind") == kind] for kind in ("User", "Group"))
    accounts = [
        f"{one.get('namespace', '')}/{one.get('name', '')}" for one in subjects if one.get("kind") == "ServiceAccount"
    ]
    shown = (", ".join(names) for names in (users, groups, accounts))
    return [text.name(obj), f"{role.get('kind', '')}/{role.get('name', '')}", text.age(obj, now), *shown]


def signing_request(obj: Json, now: datetime) -> list[Any]:
    spec = obj.get("spec", {})
    asked = spec.get("expirationSeconds")
    return [
        text.name(obj),
        text.age(obj, now),
        spec.get("signerName") or text.NONE,
        spec.get("username", ""),
        text.NONE if asked is None else text.human(timedelta(seconds=asked)),
        _signing_status(obj.get("status", {})),
    ]


def _signing_status(status: Json) -> str:
    """Denied wins over Approved; what came after is added."""
    types = {one.get("type") for one in status.get("conditions", ())}
    words = ["Denied" if "Denied" in types else "Approved" if "Approved" in types else "Pending"]
    if "Failed" in types:
        words.append("Failed")
    if status.get("certificate"):
        words.append("Issued")
    return ",".join(words)


_BINDING: Final = Printer(
    columns(
        Column("Role", "What is granted."),
        after=(
            wide("Users", "Users it is granted to."),
            wide("Groups", "Groups it is granted to."),
            wide("ServiceAccounts", "ServiceAccounts it is granted to."),
        ),
    ),
    role_binding,
)
PRINTERS: Final[Printers] = {
    ("rbac.authorization.k8s.io", "RoleBinding"): _BINDING,
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): _BINDING,
    ("certificates.k8s.io", "CertificateSigningRequest"): Printer(
        (
            NAME,
            AGE,
            Column("SignerName", "Who shall sign it."),
            Column("Requestor", "Who asks."),
            Column("RequestedDuration", "How long it shall be valid."),
            Column("Condition", "What became of it."),
        ),
        signing_request,
    ),
}
