"""Secrets that hold a ServiceAccount's token for good: type kubernetes.io/service-account-token, made by hand.

    metadata.annotations: {kubernetes.io/service-account.name: NAME}  ->  data: {token, ca.crt, namespace}

A key is a Secret (`namespace/name`). What is missing in it is filled in; a Secret whose account is gone, or was made again, is
deleted, as upstream's tokens controller does (kubernetes/pkg/controller/serviceaccount/tokens_controller.go). The token
itself is asked of the API, bound to the Secret, for as long as it gives one (2^32 seconds unless it says less, and then a new
one is asked for in time); it dies with the Secret. So no key leaves the API server, where upstream shares it.
"""

import base64
import binascii
import json
import time
from collections.abc import Mapping

from controllers import apply
from controllers.model import Amend, Delete
from controllers.observe import World
from kube.core import Secret, ServiceAccount
from kube.errors import NotFound
from kube.informer import Change, Informer
from kube.reconcile import Keys, by_key
from kube.resources import SECRETS, SERVICEACCOUNTS

TYPE = "kubernetes.io/service-account-token"
ACCOUNT = "kubernetes.io/service-account.name"
ACCOUNT_UID = "kubernetes.io/service-account.uid"
FOR_GOOD = 1 << 32
LOOK_AGAIN = 24 * 3600.0


class AccountTokens:
    def __init__(self, world: World, secrets: Informer[Secret], root_ca: str) -> None:
        """`secrets` is the informer of Secrets of that type, `root_ca` a PEM bundle; "" puts none into them."""
        self._world = world
        self._client = world.client
        self._secrets = secrets
        self._root_ca = root_ca
        self.keys: Keys[str] = Keys()
        secrets.subscribe(lambda change: self.keys.add(change.key))
        world.service_accounts.subscribe(self._account_changed)

    async def run(self) -> None:
        await by_key(self.sync, self.keys, workers=2, name="serviceaccount token")

    def _account_changed(self, change: Change[ServiceAccount]) -> None:
        namespace, _, name = change.key.partition("/")
        for secret in self._secrets.items():
            metadata = secret.metadata
            if metadata.namespace == namespace and metadata.annotations.get(ACCOUNT) == name:
                self.keys.add(f"{namespace}/{metadata.name}")

    async def sync(self, key: str) -> float | None:
        namespace, _, name = key.partition("/")
        secret = self._secrets.get(name, namespace)
        if secret is None or secret.metadata.deletion_timestamp is not None:
            return None
        account = await self._account(namespace, secret.metadata.annotations.get(ACCOUNT, ""))
        if (
            account is None
            or secret.metadata.annotations.get(ACCOUNT_UID, account.metadata.uid) != account.metadata.uid
        ):
            await apply.delete(Delete(SECRETS, namespace, name, secret.metadata.uid), self._client)
            return None
        wanted = lacking(secret, namespace, self._root_ca)
        annotations = {} if ACCOUNT_UID in secret.metadata.annotations else {ACCOUNT_UID: account.metadata.uid}
        left = life_left(secret.data.get("token", ""), time.time())
        if left <= 0:
            try:
                wanted |= {"token": await self._token(secret, account)}
            except NotFound:
                return None  # one of the two is gone by now: its informer will say
        if not wanted and not annotations:
            return min(left, LOOK_AGAIN)
        data = {field: base64.b64encode(value.encode()).decode() for field, value in wanted.items()}
        body = {"metadata": {"uid": secret.metadata.uid, "annotations": annotations}, "data": data}
        await apply.amend(Amend(SECRETS, namespace, name, body), self._client)
        return None

    async def _account(self, namespace: str, name: str) -> ServiceAccount | None:
        """What the informer does not show is asked for: it may be younger than the Secret's event."""
        if found := self._world.service_accounts.get(name, namespace):
            return found
        try:
            return await self._client.get(SERVICEACCOUNTS, name, namespace) if name else None
        except NotFound:
            return None

    async def _token(self, secret: Secret, account: ServiceAccount) -> str:
        metadata = secret.metadata
        bound = {"apiVersion": "v1", "kind": "Secret", "name": metadata.name, "uid": metadata.uid}
        answer = await self._client.create_subresource(
            SERVICEACCOUNTS,
            account.metadata.name,
            "token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": FOR_GOOD, "boundObjectRef": bound},
            },
            metadata.namespace,
        )
        return str(answer["status"]["token"])


def lacking(secret: Secret, namespace: str, root_ca: str) -> dict[str, str]:
    """What is not as it should be in a Secret's data, but for the token."""
    wanted: Mapping[str, str] = {"namespace": namespace} | ({"ca.crt": root_ca} if root_ca else {})
    have = {
        key: base64.b64decode(value).decode(errors="replace") for key, value in secret.data.items() if key in wanted
    }
    return {key: value for key, value in wanted.items() if have.get(key) != value}


def life_left(token: str, now: float) -> float:
    """Seconds until a token should be replaced, at four fifths of its life; 0 for none at all. What is no token of this kind
    somebody has put there, and it stays."""
    if not token:
        return 0.0
    try:
        claims = base64.b64decode(token).split(b".")[1]
        said = json.loads(base64.urlsafe_b64decode(claims + b"=" * (-len(claims) % 4)))
        issued, expires = float(said["iat"]), float(said["exp"])
    except (binascii.Error, ValueError, LookupError, TypeError):
        return LOOK_AGAIN
    return issued + 0.8 * (expires - issued) - now
