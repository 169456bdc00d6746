"""Who may use the kubelet's API: certificates, tokens, nobody; what the API server is asked, and how often."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kube.errors import UsageError
from kubelet.runtime import Channel
from kubelet.server.access import ACCESS_REVIEWS, Access, Denied, Policy, User, of_certificate, question
from kubelet.server.api import root_of
from kubelet.server.tls import tls_context
from kubelet.streams.idle import Idle, Watched
from tests.unit.kubelet.serving import CA, Reviews, serving


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def access(policy: Policy = Policy()) -> tuple[Access, Reviews, Clock]:  # noqa: B008
    reviews, clock = Reviews(), Clock()
    return Access("node1", policy, reviews, clock=clock), reviews, clock


@pytest.mark.parametrize(
    ("method", "path", "verb", "subresources"),
    [
        ("GET", "/metrics", "get", ("metrics",)),
        ("GET", "/metrics/cadvisor", "get", ("metrics",)),
        ("GET", "/metricsx", "get", ("proxy",)),
        ("GET", "/stats/summary", "get", ("stats",)),
        ("GET", "/logs/", "get", ("log",)),
        ("GET", "/pods", "get", ("pods", "proxy")),
        ("GET", "/runningpods/", "get", ("pods", "proxy")),
        ("GET", "/healthz/syncloop", "get", ("healthz", "proxy")),
        ("GET", "/configz", "get", ("configz", "proxy")),
        ("GET", "/exec/ns/pod/c", "get", ("proxy",)),
        ("POST", "/exec/ns/pod/c", "create", ("proxy",)),
        ("PUT", "/debug/flags/v", "update", ("proxy",)),
        ("DELETE", "/", "delete", ("proxy",)),
    ],
)
def test_the_question(method: str, path: str, verb: str, subresources: tuple[str, ...]) -> None:
    assert question(method, path) == (verb, subresources)


def test_a_certificates_user() -> None:
    subject = ((("organizationName", "a"),), (("organizationName", "b"),), (("commonName", "me"),))
    assert of_certificate({"subject": subject}) == User("me", ("a", "b", "system:authenticated"))
    assert of_certificate({"subject": subject[:2]}) is None


async def test_a_certificate_without_a_name_and_a_token_of_odd_bytes_are_nobodys() -> None:
    door, reviews, _ = access(Policy(mode="AlwaysAllow"))
    assert await door.who({"subject": ((("organizationName", "system:masters"),),)}, "") is None
    for token in ("a\udc80", "a\x00", "a b", "\u00e9"):
        assert await door.who(None, f"Bearer {token}") is None
    assert reviews.asked == []


async def test_a_token_is_asked_about_once() -> None:
    door, reviews, clock = access()
    reviews.users["secret"] = {"username": "scraper", "groups": ["g"], "uid": "1", "extra": {"k": ["v"]}}
    user = User("scraper", ("g", "system:authenticated"), "1", {"k": ("v",)})
    assert await door.who(None, "Bearer secret") == user
    assert await door.who(None, "bearer  secret") == user
    assert len(reviews.asked) == 1
    clock.now += 121
    del reviews.users["secret"]
    assert await door.who(None, "Bearer secret") is None
    assert await door.who(None, "Bearer secret") is None  # a no is kept, too
    assert len(reviews.asked) == 2
    assert await door.who(None, "Basic secret") is None
    assert await door.who(None, "") is None


async def test_while_the_api_is_away_nothing_is_kept() -> None:
    door, reviews, _ = access()
    reviews.away = True
    assert await door.who(None, "Bearer secret") is None
    me = User("me", ("system:authenticated",))
    about = "user=me, verb=get, resource=nodes, subresource=metrics"
    assert await door.refused(me, "GET", "/metrics") == Denied(500, f"Authorization error ({about})")
    assert await door.refused(User("root", ("system:masters",)), "POST", "/exec/a/b/c") is None
    reviews.away = False
    reviews.users["secret"] = {"username": "me"}
    reviews.allowed.add(("me", "get", "metrics"))
    assert await door.who(None, "Bearer secret") == me
    assert await door.refused(me, "GET", "/metrics") is None


async def test_yes_is_kept_longer_than_no() -> None:
    door, reviews, clock = access()
    me = User("me", ("system:authenticated",), extra={"k": ("v",)})
    assert await door.refused(me, "GET", "/pods") == Denied(
        403, "Forbidden (user=me, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"
    )
    assert [spec["resourceAttributes"]["subresource"] for _, spec in reviews.asked] == ["pods", "proxy"]
    assert reviews.asked[0][1]["extra"] == {"k": ["v"]}
    reviews.allowed.add(("me", "get", "pods"))
    assert await door.refused(me, "GET", "/pods") is not None
    clock.now += 31
    assert await door.refused(me, "GET", "/pods") is None
    reviews.allowed.clear()
    clock.now += 299
    assert await door.refused(me, "GET", "/pods") is None
    clock.now += 2
    assert await door.refused(me, "GET", "/pods") is not None


async def test_always_allow_asks_nobody() -> None:
    door, reviews, _ = access(Policy(mode="AlwaysAllow", anonymous=True, tokens=False))
    who = await door.who(None, "")
    assert who == User("system:anonymous", ("system:unauthenticated",))
    assert await door.refused(who, "POST", "/exec/a/b/c") is None
    assert await door.who(None, "Bearer x") is None  # who shows a wrong thing is not nobody
    assert reviews.asked == []


async def test_a_denial_outweighs_a_yes() -> None:
    async def review(path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        assert path == ACCESS_REVIEWS
        return {"status": {"allowed": True, "denied": True}}

    door = Access("node1", Policy(), review)
    assert await door.refused(User("me"), "GET", "/metrics") is not None


def anyone() -> aiohttp.TCPConnector:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return aiohttp.TCPConnector(ssl=context)


async def test_a_token_opens_the_port(tmp_path: Path) -> None:
    async with serving(tmp_path) as world, aiohttp.ClientSession(connector=anyone()) as session:
        world.reviews.users["secret"] = {"username": "prometheus"}
        world.reviews.allowed.add(("prometheus", "get", "metrics"))
        for token, path, status in (
            ("secret", "/metrics", 200),
            ("secret", "/pods", 403),
            ("wrong", "/metrics", 401),
        ):
            headers = {"Authorization": f"Bearer {token}"}
            async with session.get(world.url + path, headers=headers) as response:
                assert response.status == status, await response.text()


async def test_without_debugging_handlers(tmp_path: Path) -> None:
    async with serving(tmp_path, commands=False) as world:
        for path in ("/exec/a/b/c", "/containerLogs/a/b/c", "/logs/", "/debug/pprof/", "/runningpods/"):
            assert await world.get(path) == (405, "Debug endpoints are disabled.")
        assert (await world.get("/pods"))[0] == 200


async def test_the_read_only_port_has_no_commands(tmp_path: Path) -> None:
    async with serving(tmp_path, read_only=True) as world, aiohttp.ClientSession(connector=anyone()) as session:
        for path, status in (("/pods", 200), ("/metrics", 200), ("/healthz/ping", 200), ("/exec/a/b/c", 404)):
            async with session.get(world.url + path) as response:
                assert response.status == status
        assert world.reviews.asked == []


async def test_a_mirrors_uid_is_the_static_pods(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        await world.start("sleep", "60")
        path = "/exec/default/web/{}/main?command=echo&command=x&output=1"
        for uid in ("uid-web", "uid-mirror"):
            assert (await world.talk(path.format(uid), "v5.channel.k8s.io"))[1] == (1, b"x\n")
        assert await world.get(path.format("uid-other")) == (404, "pod does not exist")


async def test_what_is_idle_is_closed(tmp_path: Path) -> None:
    async with serving(tmp_path, patience=0.2) as world:
        await world.start("sleep", "60")
        found = await world.talk("/exec/default/web/main?command=sleep&command=60&output=1", "v5.channel.k8s.io")
        assert found == [(1, b"")]


async def test_what_passes_keeps_a_stream_open() -> None:
    class Source:
        async def read(self) -> tuple[Channel, bytes]:
            return Channel.STDOUT, b"x"

    touched: list[int] = []
    stream = Watched(Source(), lambda: touched.append(1))  # type: ignore[arg-type]
    await stream.read()
    assert touched == [1]
    ended: list[int] = []

    async def work() -> None:
        ended.append(1)

    await Idle(0.0).during(work)
    await Idle(60.0).during(work)
    assert ended == [1, 1]


def test_ciphers_and_versions(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(CA.certificate)
    ca = str(tmp_path / "ca.pem")
    context = tls_context("n", "", "", ca, ciphers=("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",), least="VersionTLS13")
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    below = {each["name"] for each in context.get_ciphers() if each["protocol"] != "TLSv1.3"}
    assert below == {"ECDHE-RSA-AES128-GCM-SHA256"}
    with pytest.raises(UsageError, match="tlsCipherSuites: 'RC4'"):
        tls_context("n", "", "", ca, ciphers=("RC4",))


def test_how_a_path_is_counted() -> None:
    assert [root_of(p) for p in ("/metrics", "/metrics/cadvisor", "/exec/a/b/c", "/pods/", "/")] == [
        "metrics", "metrics/cadvisor", "exec", "pods", "",
    ]  # fmt: skip
