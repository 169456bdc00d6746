"""Who may come in and what they are told: credentials, reviews, tokens, impersonation, all through the front door."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from apiserver import access
from apiserver.authentication import ANONYMOUS, MASTERS, User, static
from apiserver.authentication.request import bearer, without_proof
from apiserver.authorization import Attributes, Decision, Rules, attributes
from apiserver.config import Config
from apiserver.errors import StatusError
from apiserver.http import routes
from apiserver.http.exchange import Request
from kube import certificates
from kube.errors import UsageError
from tests.unit.apiserver.calls import ADMIN, Calls, serving
from tests.unit.apiserver.protobuf_writer import envelope

ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
AUTHN, AUTHZ = "/apis/authentication.k8s.io/v1", "/apis/authorization.k8s.io/v1"
BOB = "system:serviceaccount:default:bob"
JANE = User("jane", ("devs", "system:authenticated"))

Scenario = Callable[[Calls], Awaitable[None]]


def run(scenario: Scenario, **more: Any) -> None:
    async def whole() -> None:
        async with serving(**more) as calls:
            await calls.post(ACCOUNTS, {"metadata": {"name": "bob"}})
            await scenario(calls)

    asyncio.run(whole())


async def token_for(calls: Calls, name: str = "bob", spec: dict[str, Any] | None = None) -> str:
    answer = await calls.post(f"{ACCOUNTS}/{name}/token", {"spec": spec or {}})
    assert answer.code == 201, answer.json
    return str(answer.json["status"]["token"])


def test_an_accounts_token_is_its_identity() -> None:
    async def scenario(calls: Calls) -> None:
        shown = {"user": ANONYMOUS, "Authorization": f"Bearer {await token_for(calls)}"}
        who = await calls.post(f"{AUTHN}/selfsubjectreviews", {}, **shown)
        assert who.json["status"]["userInfo"]["username"] == BOB
        assert (await calls.get("/api/v1/namespaces/default/configmaps", **shown)).code == 200
        assert (await calls.call("DELETE", f"{ACCOUNTS}/bob")).code == 200
        assert (await calls.get("/api/v1/namespaces/default/configmaps", **shown)).code == 401

    run(scenario)


def test_a_token_in_protobuf_and_where_it_may_be_asked() -> None:
    async def scenario(calls: Calls) -> None:
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 900}}
        sent = {"content_type": "application/vnd.kubernetes.protobuf"}
        answer = await calls.call("POST", f"{ACCOUNTS}/bob/token", envelope(asked), **sent)
        assert (answer.code, answer.json["spec"]["expirationSeconds"]) == (201, 900)
        assert (await calls.post(f"{ACCOUNTS}/eve/token", {})).code == 404
        assert (await calls.get(f"{ACCOUNTS}/bob/token")).code == 405
        dry = await calls.post(f"{ACCOUNTS}/bob/token?dryRun=All", {})
        assert (dry.code, dry.json["status"]["token"]) == (201, "")
        other = await calls.post(f"{ACCOUNTS}/bob/token", {"metadata": {"name": "eve"}})
        assert other.code == 422
        strict = await calls.post(f"{ACCOUNTS}/bob/token?fieldValidation=Strict", {"spec": {"expiration": 5}})
        assert strict.code == 400
        assert strict.json["message"].endswith('strict decoding error: unknown field "spec.expiration"')

    run(scenario)


def test_a_bad_proof_is_worse_than_none() -> None:
    async def scenario(calls: Calls) -> None:
        assert (await calls.get("/version", user=ANONYMOUS)).code == 200
        for shown in ("Basic YTpi", "Bearer nonsense", "Bearer a.b.c", "Bearer ", "bearer"):
            answer = await calls.get("/version", user=ANONYMOUS, Authorization=shown)
            assert (answer.code, answer.json["reason"], answer.json["message"]) == (401, "Unauthorized", "Unauthorized")
        assert (
            await calls.get("/version", user=JANE, Authorization="Bearer nonsense")
        ).code == 200  # a certificate goes first

    run(scenario)


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("GET", "/api", 'forbidden: User "system:anonymous" cannot get path "/api"'),
        ("POST", "/healthz", 'forbidden: User "system:anonymous" cannot post path "/healthz"'),
        (
            "GET",
            "/api/v1/pods",
            'pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" at the cluster scope',
        ),
        (
            "DELETE",
            "/apis/apps/v1/namespaces/n/deployments/d",
            (
                'deployments.apps "d" is forbidden: User "system:anonymous" cannot delete resource "deployments"'
                ' in API group "apps" in the namespace "n"'
            ),
        ),
        (
            "PUT",
            "/api/v1/nodes/k/status",
            (
                'nodes "k" is forbidden: User "system:anonymous" cannot update resource "nodes/status"'
                ' in API group "" at the cluster scope'
            ),
        ),
    ],
)
def test_refusals_in_upstreams_words(method: str, path: str, message: str) -> None:
    async def scenario(calls: Calls) -> None:
        answer = await calls.call(method, path, user=ANONYMOUS)
        assert (answer.code, answer.json["reason"], answer.json["message"]) == (403, "Forbidden", message)

    run(scenario)


def test_what_anonymous_may_see() -> None:
    async def scenario(calls: Calls) -> None:
        for path in ("/healthz", "/livez", "/readyz", "/version", "/version/"):
            assert (await calls.reply("GET", path, user=ANONYMOUS)).code == 200  # type: ignore[union-attr]
        document = (await calls.get("/.well-known/openid-configuration", user=ANONYMOUS, Host="h:1")).json
        assert document["jwks_uri"] == "https://h:1/openid/v1/jwks"
        assert document["issuer"] == "https://kubernetes.default.svc.cluster.local"
        keys = (await calls.get("/openid/v1/jwks", user=ANONYMOUS)).json["keys"]
        assert [one["alg"] for one in keys] == document["id_token_signing_alg_values_supported"] == ["ES256"]

    run(scenario)


def test_without_anonymous_everybody_shows_something() -> None:
    async def scenario(calls: Calls) -> None:
        assert (await calls.get("/version", user=ANONYMOUS)).code == 401
        assert (await calls.get("/version", user=JANE)).code == 200

    run(scenario, config=Config(anonymous_auth=False))


def test_acting_as_somebody_else() -> None:
    async def who(calls: Calls, user: User = ADMIN, **headers: str) -> Any:
        answer = await calls.post(f"{AUTHN}/selfsubjectreviews", {}, user=user, **headers)
        return answer.json["status"]["userInfo"] if answer.code == 201 else (answer.code, answer.json["message"])

    async def scenario(calls: Calls) -> None:
        extra: dict[str, Any] = {"Impersonate_Extra_Acme.io%2fproject": "x"}
        assert await who(calls, Impersonate_User="jane", Impersonate_Group="devs", Impersonate_Uid="7", **extra) == {
            "username": "jane", "uid": "7", "groups": ["devs", "system:authenticated"], "extra": {"acme.io/project": ["x"]},
        }  # fmt: skip
        assert (await who(calls, Impersonate_User=BOB))["groups"] == [
            "system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated",
        ]  # fmt: skip
        assert (await who(calls, Impersonate_User="system:anonymous"))[0] == 403
        words = 'User "jane" cannot impersonate resource "users" in API group "" at the cluster scope'
        assert await who(calls, JANE, Impersonate_User="root") == (403, f'users "root" is forbidden: {words}')
        assert (await who(calls, JANE, Impersonate_User=BOB))[1].startswith('serviceaccounts "bob" is forbidden')
        half = "requested impersonation of groups, a UID or extra fields without impersonating a user"
        for alone in (
            {"Impersonate_Group": "devs"},
            {"Impersonate_Uid": "7"},
            extra,
            {"impersonate_extra_scopes": "x"},
        ):
            assert await who(calls, **alone) == (400, half)

    run(scenario)


def test_token_reviews() -> None:
    async def review(calls: Calls, **spec: Any) -> dict[str, Any]:
        answer = await calls.post(f"{AUTHN}/tokenreviews", {"spec": spec})
        assert answer.code == 201
        return dict(answer.json["status"])

    async def scenario(calls: Calls) -> None:
        token = await token_for(calls)
        good = await review(calls, token=token)
        assert (good["authenticated"], good["user"]["username"]) == (True, BOB)
        assert good["audiences"] == ["https://kubernetes.default.svc.cluster.local"]
        assert good["user"]["extra"]["authentication.kubernetes.io/credential-id"][0].startswith("JTI=")
        vault = await token_for(calls, spec={"audiences": ["vault"]})
        assert "authenticated" not in await review(calls, token=vault)
        assert (await review(calls, token=vault, audiences=["vault"]))["audiences"] == ["vault"]
        bad = await review(calls, token="nonsense")
        assert bad == {
            "user": {},
            "error": "invalid bearer token: not a token: not enough values to unpack (expected 3, got 1)",
        }
        assert (await calls.post(f"{AUTHN}/tokenreviews", {"spec": {}})).code == 400

    run(scenario)


def test_who_am_i_reads_what_it_is_sent() -> None:
    async def scenario(calls: Calls) -> None:
        for body, code in (({}, 201), (b"[", 400), ({"kind": "Pod", "apiVersion": "v1"}, 400)):
            assert (await calls.post(f"{AUTHN}/selfsubjectreviews", body)).code == code
        beta = await calls.post("/apis/authentication.k8s.io/v1beta1/selfsubjectreviews", {})
        assert (beta.code, beta.json["apiVersion"]) == (201, "authentication.k8s.io/v1beta1")
        assert (await calls.get(f"{AUTHN}/selfsubjectreviews")).code == 405

    run(scenario)


class Grudging:
    """May do one thing; has seen what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Attributes] = []

    def decide(self, asked: Attributes) -> Decision:
        self.asked.append(asked)
        if asked.resource == "secrets":
            return Decision(False, "not yours", denied=True)
        return Decision(asked.resource != "nodes", "because")

    def rules(self, user: User, namespace: str) -> Rules:
        return Rules([{"verbs": ["get"], "apiGroups": [""], "resources": [namespace]}], [], True, user.name)


def test_reviews_ask_the_authorizer() -> None:
    grudging = Grudging()

    async def scenario(calls: Calls) -> None:
        async def ask(plural: str, spec: dict[str, Any], where: str = "") -> Any:
            answer = await calls.post(f"{AUTHZ}/{where}{plural}", {"spec": spec}, user=JANE)
            return answer.json["status"] if answer.code == 201 else (answer.code, answer.json["message"])

        pods = {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "n", "name": "p"}}
        nodes = {"resourceAttributes": {"verb": "list", "resource": "nodes"}}
        secrets = {"resourceAttributes": {"verb": "list", "resource": "secrets"}}
        assert await ask("selfsubjectaccessreviews", pods) == {"allowed": True, "reason": "because"}
        assert grudging.asked[-1] == Attributes(JANE, "get", resource="pods", namespace="n", name="p")
        assert await ask("selfsubjectaccessreviews", nodes) == {"allowed": False, "reason": "because"}
        assert await ask("selfsubjectaccessreviews", secrets) == {
            "allowed": False,
            "denied": True,
            "reason": "not yours",
        }
        about = {"user": "bob", "groups": ["g"], "uid": "1", "extra": {"k": ["v"]}}
        assert (await ask("subjectaccessreviews", pods | about))["allowed"]
        assert grudging.asked[-1].user == User("bob", ("g",), "1", (("k", ("v",)),))
        paths = {"nonResourceAttributes": {"path": "/x", "verb": "get"}}
        assert (await ask("selfsubjectaccessreviews", paths))["allowed"]
        assert grudging.asked[-1] == Attributes(JANE, "get", path="/x")
        assert (await ask("localsubjectaccessreviews", pods | about, "namespaces/n/"))["allowed"]
        assert (await ask("localsubjectaccessreviews", pods | about, "namespaces/m/"))[0] == 422
        assert (await ask("localsubjectaccessreviews", pods | about))[0] == 404
        assert "at least one of user or group" in (await ask("subjectaccessreviews", pods))[1]
        assert "exactly one of" in (await ask("selfsubjectaccessreviews", {}))[1]
        assert "in combination" in (await ask("selfsubjectaccessreviews", pods | paths))[1]
        assert await ask("selfsubjectrulesreviews", {"namespace": "n"}) == {
            "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["n"]}],
            "nonResourceRules": [],
            "incomplete": True,
            "evaluationError": "jane",
        }
        assert (await ask("selfsubjectrulesreviews", {}))[0] == 400
        assert (await calls.get("/api/v1/nodes", user=JANE)).code == 403

    run(scenario, authorizer=grudging)


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        ("GET /api/v1/namespaces/n/pods", ("list", "pods", "", "n", "")),
        ("GET /api/v1/pods?watch=1", ("watch", "pods", "", "", "")),
        ("GET /api/v1/pods?watch=false", ("list", "pods", "", "", "")),
        ("GET /api/v1/namespaces/n/secrets?fieldSelector=metadata.name=s", ("list", "secrets", "", "n", "s")),
        ("DELETE /api/v1/namespaces/n/pods", ("deletecollection", "pods", "", "n", "")),
        ("PATCH /api/v1/nodes/k/status", ("patch", "nodes", "status", "", "k")),
        ("POST /api/v1/namespaces/n/pods/p/exec", ("create", "pods", "exec", "n", "p")),
        ("GET /api/v1/namespaces/n", ("get", "namespaces", "", "n", "n")),
        ("GET /api/v1/namespaces", ("list", "namespaces", "", "", "")),
        ("HEAD /version", ("head", "", "", "", "")),
    ],
)
def test_a_request_as_a_question(request_line: str, expected: tuple[str, ...]) -> None:
    method, _, url = request_line.partition(" ")
    path, _, query = url.partition("?")
    values = dict([query.split("=", 1)]) if query else {}
    asked = attributes(JANE, method, path, values, routes.parse(path))
    assert (asked.verb, asked.resource, asked.subresource, asked.namespace, asked.name) == expected


def test_a_token_in_the_subprotocols() -> None:
    text = base64.urlsafe_b64encode(b"tok~en").decode().rstrip("=")
    headers = {"Sec-WebSocket-Protocol": f"base64url.bearer.authorization.k8s.io.{text}, v5.channel.k8s.io"}
    assert bearer(headers) == "tok~en"
    assert without_proof(headers)["Sec-WebSocket-Protocol"] == "v5.channel.k8s.io"
    assert bearer({"Sec-WebSocket-Protocol": "v5.channel.k8s.io"}) is None
    alone = f"base64url.bearer.authorization.k8s.io.{text}"
    for wrong in (alone, f"{alone}, {alone}", "base64url.bearer.authorization.k8s.io.%, v4"):
        with pytest.raises(StatusError, match="Unauthorized"):
            bearer({"Sec-WebSocket-Protocol": wrong})


def test_static_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens.csv"
    path.write_text('# people\nt1,jane,u1,"devs,ops"\nt2,joe,u2\n\n')

    async def scenario(calls: Calls) -> None:
        for token, groups in (("t1", ["devs", "ops"]), ("t2", [])):
            who = await calls.post(f"{AUTHN}/selfsubjectreviews", {}, user=ANONYMOUS, Authorization=f"Bearer {token}")
            assert who.json["status"]["userInfo"]["groups"] == [*groups, "system:authenticated"]

    run(scenario, config=Config(token_auth_file=str(path)))
    for text, why in (("a,b\n", "line 1: write it as"), (",b,c\n", "line 1"), ("\xff", "CSV")):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(UsageError, match=why):
            static.tokens(str(path))
    with pytest.raises(UsageError, match="No such file"):
        static.tokens(str(tmp_path / "none"))


def test_keys_are_kept_and_wrong_ones_told(tmp_path: Path) -> None:
    made = access.load(Config(data_dir=str(tmp_path / "data")))
    assert (tmp_path / "data" / access.KEY_NAME).stat().st_mode & 0o777 == 0o600
    assert access.load(Config(data_dir=str(tmp_path / "data"))).signer.key.kid == made.signer.key.kid
    assert [one.name for one in (tmp_path / "data").iterdir()] == [access.KEY_NAME]
    other = tmp_path / "other.key"
    other.write_bytes(certificates.signing_key())
    both = access.load(Config(data_dir=str(tmp_path / "data"), service_account_key_file=(str(other),)))
    assert len(both.ring.keys) == 2
    other.write_text("nothing")
    for config, flag in (
        (Config(service_account_signing_key_file=str(other)), "--service-account-signing-key-file"),
        (Config(data_dir=str(tmp_path / "data"), service_account_key_file=(str(other),)), "--service-account-key-file"),
        (Config(service_account_signing_key_file="/none"), "No such file"),
        (Config(service_account_issuer=()), "--service-account-issuer"),
        (Config(service_account_issuer=("://x",)), "--service-account-issuer"),
        (Config(service_account_max_token_expiration=60.0), "at least 1h"),
    ):
        with pytest.raises(UsageError, match=flag):
            access.configured_keys(config)


def test_a_request_may_repeat_headers() -> None:
    """Groups come as a header each; a mapping that can hold only one is a test's convenience."""

    class Repeating(dict[str, str]):
        def items(self) -> Any:
            return [("Impersonate-User", "jane"), ("Impersonate-Group", "a"), ("Impersonate-Group", "b")]

    async def body() -> bytes:
        return b"{}"

    async def scenario(calls: Calls) -> None:
        headers = Repeating({"Impersonate-User": "jane"})
        request = Request("POST", f"{AUTHN}/selfsubjectreviews", {}, "", headers, body, User("root", (MASTERS,)))
        reply = await calls.api.dispatch(request)
        assert b'"groups":["a","b","system:authenticated"]' in reply.body  # type: ignore[union-attr]

    run(scenario)
