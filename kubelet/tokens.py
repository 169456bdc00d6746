"""ServiceAccount tokens for projected volumes: asked of the API, bound to the pod, renewed long before they end.

    pod's pass -> a token for each (audience, lifetime) its volumes ask for -> kept by pod -> projected volume
        young enough         the same text, so that nothing is written
        at 80 % of its life, or after 24 hours        a new one; the volume's files are swapped at once
        renewing fails       the old one for as long as it is valid, then the failure, which is the volume's

A pass comes at least each syncFrequency, and a token lives 10 minutes or more, so no timer of its own is needed. Nothing is
on disk but the volume itself: a kubelet that starts anew asks anew. (Upstream: pkg/kubelet/token/token_manager.go.)
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from kube.client import Client
from kube.errors import ApiError, ApiUnreachable
from kube.pods import Pod
from kube.resources import SERVICEACCOUNTS
from kube.sources import ServiceAccountTokenProjection

log = logging.getLogger(__name__)

LIFETIME = 3600  # seconds, the API's default for a projection that names none
LONGEST = timedelta(hours=24)
PATIENCE = 10.0  # seconds a pod's pass waits for the API


@dataclass(frozen=True, slots=True)
class Wish:
    audience: str  # "" is the API server itself
    seconds: int


@dataclass(frozen=True, slots=True)
class Refused:
    """No token, and why."""

    words: str


@dataclass(frozen=True, slots=True)
class _Issued:
    text: str
    expires: datetime
    lifetime: timedelta

    def stale(self, now: datetime) -> bool:
        begun = self.expires - self.lifetime
        return now > begun + LONGEST or now > self.expires - self.lifetime / 5


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    token: str
    expiration_timestamp: datetime


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    expiration_seconds: int = LIFETIME


class _TokenRequest(msgspec.Struct, frozen=True):
    """The answer; its lifetime may be another than the one asked for."""

    status: _Status
    spec: _Spec = _Spec()


def wish_of(source: ServiceAccountTokenProjection) -> Wish:
    return Wish(source.audience, source.expiration_seconds or LIFETIME)


def wishes(pod: Pod) -> Iterator[Wish]:
    for volume in pod.spec.volumes:
        for source in volume.projected.sources if volume.projected else ():
            if source.service_account_token is not None:
                yield wish_of(source.service_account_token)


def request_for(pod: Pod, wish: Wish) -> dict[str, Any]:
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": [wish.audience] if wish.audience else [],
            "expirationSeconds": wish.seconds,
            "boundObjectRef": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": pod.metadata.name,
                "uid": pod.metadata.uid,
            },
        },
    }


class Tokens:
    def __init__(self, client: Client, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._clock = clock
        self._issued: dict[str, dict[Wish, _Issued]] = {}  # by the pod's uid

    async def of(self, pod: Pod) -> Mapping[Wish, str | Refused]:
        """A token for each wish of the pod's volumes, asked for where there is none or it has become old."""
        found: dict[Wish, str | Refused] = {}
        for wish in wishes(pod):
            if wish not in found:
                found[wish] = await self._one(pod, wish)
        return found

    def forget(self, uid: str) -> None:
        self._issued.pop(uid, None)

    async def _one(self, pod: Pod, wish: Wish) -> str | Refused:
        mine = self._issued.setdefault(pod.metadata.uid, {})
        known, now = mine.get(wish), self._clock()
        if known is not None and not known.stale(now):
            return known.text
        fresh = await self._ask(pod, wish)
        if isinstance(fresh, _Issued):
            mine[wish] = fresh
            return fresh.text
        if known is not None and now < known.expires:
            log.warning("pod %s keeps a token that is due to be renewed: %s", pod.metadata.key, fresh.words)
            return known.text
        return fresh

    async def _ask(self, pod: Pod, wish: Wish) -> _Issued | Refused:
        account = pod.spec.service_account_name
        if not account:
            return Refused("failed to fetch token: the pod has no spec.serviceAccountName")
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await self._client.create_subresource(
                    SERVICEACCOUNTS, account, "token", request_for(pod, wish), pod.metadata.namespace
                )
            granted = msgspec.convert(answer, _TokenRequest)
        except TimeoutError:
            return Refused(f"failed to fetch token: no answer from the API within {PATIENCE:g} s")
        except (ApiError, ApiUnreachable) as error:
            return Refused(f"failed to fetch token: {error}")
        except msgspec.ValidationError as error:
            return Refused(f"failed to fetch token: the API's answer is no TokenRequest: {error}")
        lifetime = timedelta(seconds=granted.spec.expiration_seconds)
        return _Issued(granted.status.token, granted.status.expiration_timestamp, lifetime)
