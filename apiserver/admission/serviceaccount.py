"""ServiceAccount: every pod runs as somebody, and has that somebody's token where clients look for it.

The token volume (`kube-api-access-xxxxx`) is a projected one: a token bound to the pod, the cluster's CA from the ConfigMap
kube-root-ca.crt, and the namespace. Where the account or the pod says `automountServiceAccountToken: false` it is left out,
the pod's word winning. Mirror pods show what a kubelet runs from a file; what they may not have, the file may not name.

The controllers make `default` in each new namespace, which takes them a moment, and clients create a namespace and pods in
it in one go. Upstream therefore looks ten times within one to two seconds; we wait as long for the event.
Upstream: plugin/pkg/admission/serviceaccount.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from apiserver.admission.attributes import PODS, Attributes, Operation, Plugin, Rule
from apiserver.admission.sight import Sight
from apiserver.cache import Event, Frames, bucket_of_object
from apiserver.naming import derived_name

Obj = dict[str, Any]
DEFAULT: Final = "default"
PATIENCE: Final = 1.5
MIRROR_POD: Final = "kubernetes.io/config.mirror"
TOKEN_PATH: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_SECONDS: Final = 3607
VOLUME: Final = "kube-api-access-"
ENFORCE_SECRETS: Final = "kubernetes.io/enforce-mountable-secrets"
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_PARTS: Final = (
    ("initContainers", "init container"),
    ("containers", "container"),
    ("ephemeralContainers", "ephemeral container"),
)
_SECRET_REFERENCES: Final = ("azureFile", "cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos")
_UPDATE: Final[frozenset[Operation]] = frozenset({"UPDATE"})


def plugin(sight: Sight, patience: float) -> Plugin:
    accounts = _Accounts(sight, patience)
    return Plugin(
        "ServiceAccount",
        mutating=(
            Rule(accounts.ask, PODS),
            Rule(accounts.ephemeral, PODS, _UPDATE, frozenset({"ephemeralcontainers"})),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Accounts:
    sight: Sight
    patience: float

    def ask(self, attributes: Attributes) -> Awaitable[None] | None:
        if MIRROR_POD in (attributes.new["metadata"].get("annotations") or {}):
            mirror_pod(attributes)
            return None
        name = account_name(attributes.new)
        account = self.sight.get("serviceaccounts", attributes.namespace, name)
        if account is None:
            return self._again(attributes, name)
        use(attributes, name, account)
        return None

    def ephemeral(self, attributes: Attributes) -> None:
        name = account_name(attributes.new)
        account = self.sight.get("serviceaccounts", attributes.namespace, name)
        if account is not None and enforces(account):
            limit_secrets(attributes, name, account)

    async def _again(self, attributes: Attributes, name: str) -> None:
        await self.sight.fresh()
        if name == DEFAULT and self.sight.entry("serviceaccounts", attributes.namespace, name) is None:
            await self._appearing(attributes.namespace, name)
        account = self.sight.get("serviceaccounts", attributes.namespace, name)
        if account is None:
            why = f'serviceaccount "{name}" not found'
            raise attributes.refused(f"error looking up service account {attributes.namespace}/{name}: {why}")
        use(attributes, name, account)

    async def _appearing(self, namespace: str, name: str) -> None:
        shelf = self.sight.shelf("serviceaccounts")
        appeared: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def look(event: Event, _frames: Frames) -> None:
            if event.new is not None and not appeared.done():
                appeared.set_result(None)

        if shelf is None:
            return
        with shelf.watched(look, bucket_of_object(namespace, name)):
            try:
                await asyncio.wait_for(appeared, self.patience)
            except TimeoutError:
                return


def account_name(pod: Obj) -> str:
    spec = pod["spec"]
    return str(spec.get("serviceAccountName") or spec.get("serviceAccount") or DEFAULT)


def mirror_pod(attributes: Attributes) -> None:
    spec = attributes.new["spec"]
    if spec.get("serviceAccountName"):
        raise attributes.refused("a mirror pod may not reference service accounts")
    if any(True for _ in secret_names(spec)):
        raise attributes.refused("a mirror pod may not reference secrets")
    for volume in spec.get("volumes") or ():
        sources = (volume.get("projected") or {}).get("sources") or ()
        if any("serviceAccountToken" in source for source in sources):
            raise attributes.refused("a mirror pod may not use ServiceAccount volume projections")


def secret_names(spec: Obj) -> Iterator[str]:
    for reference in spec.get("imagePullSecrets") or ():
        yield reference.get("name", "")
    for part, _ in _PARTS:
        for container in spec.get(part) or ():
            yield from (name for _, name in _environment(container))
    for volume in spec.get("volumes") or ():
        yield from _volume_secrets(volume)


def _environment(container: Obj) -> Iterator[tuple[str, str]]:
    """The variables that come from Secrets, with the Secrets' names; "" where a whole Secret is taken."""
    for source in container.get("envFrom") or ():
        if reference := source.get("secretRef"):
            yield "", reference.get("name", "")
    for variable in container.get("env") or ():
        if reference := (variable.get("valueFrom") or {}).get("secretKeyRef"):
            yield variable.get("name", ""), reference.get("name", "")


def _volume_secrets(volume: Obj) -> Iterator[str]:
    if secret := volume.get("secret"):
        yield secret.get("secretName", "")
    for source in (volume.get("projected") or {}).get("sources") or ():
        if secret := source.get("secret"):
            yield secret.get("name", "")
    for kind in _SECRET_REFERENCES:
        reference = (volume.get(kind) or {}).get("secretRef")
        if name := (reference or {}).get("name") or (
            kind == "azureFile" and (volume.get(kind) or {}).get("secretName")
        ):
            yield name
    if reference := (volume.get("csi") or {}).get("nodePublishSecretRef"):
        yield reference.get("name", "")


def enforces(account: Obj) -> bool:
    return (account["metadata"].get("annotations") or {}).get(ENFORCE_SECRETS) in _TRUE


def use(attributes: Attributes, name: str, account: Obj) -> None:
    spec = attributes.new["spec"]
    spec["serviceAccountName"] = spec["serviceAccount"] = name
    asked = spec.get("automountServiceAccountToken")
    if asked if asked is not None else account.get("automountServiceAccountToken", True):
        mount_token(spec, account["metadata"].get("uid", ""))
    if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = [dict(one) for one in account["imagePullSecrets"]]
    if enforces(account):
        limit_secrets(attributes, name, account)


def mount_token(spec: Obj, account: str) -> None:
    """In every container that mounts nothing of its own there; ephemeral containers come without. The volume is called the
    same in all pods of an account, so that pods of one controller have one spec (`seen`)."""
    volumes = spec.get("volumes") or []
    present = next((one["name"] for one in volumes if one.get("name", "").startswith(VOLUME)), None)
    name = present or derived_name(VOLUME, account)
    mounted = False
    for part in ("initContainers", "containers"):
        for container in spec.get(part) or ():
            mounts = container.get("volumeMounts") or []
            if any(mount.get("mountPath") == TOKEN_PATH for mount in mounts):
                continue
            container["volumeMounts"] = [*mounts, {"name": name, "readOnly": True, "mountPath": TOKEN_PATH}]
            mounted = True
    if mounted and present is None:
        spec["volumes"] = [*volumes, {"name": name, "projected": _token_sources()}]


def _token_sources() -> Obj:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return {
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace]}},
        ],
        "defaultMode": 0o644,
    }


def limit_secrets(attributes: Attributes, name: str, account: Obj) -> None:
    """An account with the annotation lets its pods use the Secrets that it lists, and no others."""
    spec = attributes.new["spec"]
    mountable = {one.get("name") for one in account.get("secrets") or ()}
    tail = f"is not allowed because service account {name} does not reference that"
    for volume in spec.get("volumes") or ():
        if (secret := (volume.get("secret") or {}).get("secretName")) and secret not in mountable:
            raise attributes.refused(f'volume with secret.secretName="{secret}" {tail} secret')
    for part, word in _PARTS:
        for container in spec.get(part) or ():
            for variable, secret in _environment(container):
                if secret not in mountable:
                    where = f"envVar {variable}" if variable else "envFrom"
                    raise attributes.refused(
                        f'{word} {container.get("name", "")} with {where} referencing secret.secretName="{secret}" {tail} secret'
                    )
    pulling = {one.get("name") for one in account.get("imagePullSecrets") or ()}
    for index, one in enumerate(spec.get("imagePullSecrets") or ()):
        if one.get("name") not in pulling:
            raise attributes.refused(f'imagePullSecrets[{index}].name="{one.get("name")}" {tail} imagePullSecret')
