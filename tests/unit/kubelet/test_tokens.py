"""Tokens are asked for once, renewed at 80 % of their life, and kept while the API is away."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from kube.client import Client, Connection
from kube.meta import ObjectMeta
from kube.pods import Pod, PodSpec
from kube.sources import ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeProjection
from kubelet.tokens import Refused, Tokens, Wish
from tests.unit.kube.http import Exchange, serving

START = datetime(2026, 1, 1, tzinfo=UTC)
PATH = "POST /api/v1/namespaces/ns/serviceaccounts/robot/token"


@dataclass
class Issuer:
    """An API server that numbers its tokens; `mood` is what it answers with instead."""

    now: datetime = START
    lifetime: int = 3600
    asked: list[dict[str, Any]] = field(default_factory=list)
    mood: tuple[str, bytes] | None = None

    async def __call__(self, exchange: Exchange) -> None:
        if self.mood is not None:
            await exchange.answer(self.mood[1], self.mood[0])
            return
        self.asked.append(orjson.loads(exchange.body))
        expires = (self.now + timedelta(seconds=self.lifetime)).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = {"token": f"token-{len(self.asked)}", "expirationTimestamp": expires}
        await exchange.answer(orjson.dumps({"spec": {"expirationSeconds": self.lifetime}, "status": status}))


def pod(*sources: ServiceAccountTokenProjection, account: str = "robot") -> Pod:
    projected = ProjectedVolumeSource(sources=tuple(VolumeProjection(service_account_token=s) for s in sources))
    spec = PodSpec(service_account_name=account, volumes=(Volume(name="v", projected=projected),))
    return Pod(metadata=ObjectMeta(name="p", namespace="ns", uid="u1"), spec=spec)


PLAIN = ServiceAccountTokenProjection(path="token")
HOUR = Wish("", 3600)


async def with_issuer(test: Callable[[Issuer, Tokens, list[str]], Awaitable[None]]) -> None:
    issuer = Issuer()
    async with serving(issuer) as server, Client(Connection(server.url)) as client:
        await test(issuer, Tokens(client, lambda: issuer.now), server.seen)


async def test_a_token_is_bound_to_its_pod_and_asked_for_once() -> None:
    async def test(issuer: Issuer, tokens: Tokens, seen: list[str]) -> None:
        vault = ServiceAccountTokenProjection(audience="vault", expiration_seconds=600, path="vault")
        asked = pod(PLAIN, PLAIN, vault)
        first = await tokens.of(asked)
        assert first == {HOUR: "token-1", Wish("vault", 600): "token-2"}
        assert await tokens.of(asked) == first
        assert seen == [PATH, PATH]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u1"}
        assert [one["spec"] for one in issuer.asked] == [
            {"audiences": [], "expirationSeconds": 3600, "boundObjectRef": bound},
            {"audiences": ["vault"], "expirationSeconds": 600, "boundObjectRef": bound},
        ]
        tokens.forget("u1")
        assert (await tokens.of(asked))[HOUR] == "token-3"

    await with_issuer(test)


@pytest.mark.parametrize(("lifetime", "young", "old"), [(600, 479, 481), (3600, 2879, 2881), (999_999, 86_399, 86_401)])
async def test_it_is_renewed_when_four_fifths_of_its_life_or_a_day_are_over(
    lifetime: int, young: int, old: int
) -> None:
    async def test(issuer: Issuer, tokens: Tokens, _seen: list[str]) -> None:
        issuer.lifetime = lifetime
        assert (await tokens.of(pod(PLAIN)))[HOUR] == "token-1"
        issuer.now = START + timedelta(seconds=young)
        assert (await tokens.of(pod(PLAIN)))[HOUR] == "token-1"
        issuer.now = START + timedelta(seconds=old)
        assert (await tokens.of(pod(PLAIN)))[HOUR] == "token-2"

    await with_issuer(test)


async def test_an_old_token_serves_while_the_api_is_away_and_not_beyond_its_end() -> None:
    async def test(issuer: Issuer, tokens: Tokens, _seen: list[str]) -> None:
        await tokens.of(pod(PLAIN))
        issuer.mood = ("503 Service Unavailable", b'{"message":"busy","reason":"ServiceUnavailable"}')
        issuer.now = START + timedelta(minutes=59)
        assert (await tokens.of(pod(PLAIN)))[HOUR] == "token-1"
        issuer.now = START + timedelta(minutes=61)
        refused = (await tokens.of(pod(PLAIN)))[HOUR]
        assert isinstance(refused, Refused)
        assert refused.words == "failed to fetch token: busy (503 ServiceUnavailable)"
        issuer.mood = None
        assert (await tokens.of(pod(PLAIN)))[HOUR] == "token-2"

    await with_issuer(test)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (("404 Not Found", b'{"message":"serviceaccounts \\"robot\\" not found","reason":"NotFound"}'), "not found"),
        (("200 OK", b'{"status":{}}'), "no TokenRequest"),
        (("200 OK", b"<html>"), "the answer is no dict"),
    ],
)
async def test_no_token(answer: tuple[str, bytes], words: str) -> None:
    async def test(issuer: Issuer, tokens: Tokens, _seen: list[str]) -> None:
        issuer.mood = answer
        refused = (await tokens.of(pod(PLAIN)))[HOUR]
        assert isinstance(refused, Refused)
        assert refused.words.startswith("failed to fetch token: ")
        assert words in refused.words

    await with_issuer(test)


async def test_a_pod_without_an_account_gets_none() -> None:
    async def test(_issuer: Issuer, tokens: Tokens, seen: list[str]) -> None:
        refused = (await tokens.of(pod(PLAIN, account="")))[HOUR]
        assert isinstance(refused, Refused)
        assert "serviceAccountName" in refused.words
        assert seen == []

    await with_issuer(test)
