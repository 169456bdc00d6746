"""Identity, audit and fairness against the live server: every kubectl there is, the Python client, and two loads at once."""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import kubernetes
import orjson
import pytest
import yaml

from kube import certificates
from kube.client import Client
from kube.errors import NotFound
from kube.resources import SECRETS, SERVICEACCOUNTS
from tests import etcd
from tests.fakes.centre import centre, eventually
from tests.node.apiserver import Server, running
from tests.node.test_apiserver_clients import Kubectl
from tests.requirements import kubectls, requires

ACCOUNT = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: bob}\n"
BOB = "system:serviceaccount:default:bob"
POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, nonResourceURLs: [/readyz*]}
- {level: Request, verbs: [create], resources: [{group: "", resources: [serviceaccounts/token]}]}
- {level: Metadata, resources: [{group: "", resources: [configmaps]}]}
"""


def without_certificate(server: Server) -> Kubectl:
    """A kubectl that shows nothing of its own."""
    config = yaml.safe_load(server.kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {}
    path = server.directory / "plain.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    plain = Kubectl("", server)
    plain.argv[2] = str(path)
    return plain


@pytest.mark.parametrize("path", kubectls() or [""], ids=lambda path: Path(path).name)
async def test_kubectl_identity(path: str, tmp_path: Path) -> None:
    requires("kubectl")
    async with running(tmp_path) as server:
        kubectl, plain = Kubectl(path, server), without_certificate(server)
        plain.argv[0] = path
        await kubectl("apply", "-f", "-", stdin=ACCOUNT)
        token = (await kubectl("create", "token", "bob", "--duration=20m")).strip()
        assert len(token.split(".")) == 3
        assert "bob" in await plain("--token", token, "get", "serviceaccounts")
        who = await plain("--token", token, "auth", "whoami")
        assert BOB in who
        assert "system:serviceaccounts:default" in who
        assert "yes" in await plain("--token", token, "auth", "can-i", "create", "pods")
        assert "*.*" in await kubectl("auth", "can-i", "--list")
        assert "no" in await plain("auth", "can-i", "--token", token, "impersonate", "users", code=1)
        assert "Unauthorized" in await plain("--token", token + "x", "get", "pods", code=1)
        assert "jane" in await kubectl("auth", "whoami", "--as=jane", "--as-group=devs")
        assert 'User "system:serviceaccount:default:bob" cannot impersonate resource "users"' in await plain(
            "--token", token, "get", "pods", "--as=jane", code=1
        )
        await kubectl("delete", "serviceaccount", "bob")
        assert "Unauthorized" in await plain("--token", token, "get", "pods", code=1)


async def test_python_client_with_a_token(tmp_path: Path) -> None:
    async with running(tmp_path) as server:

        def requested() -> str:
            config = kubernetes.config.new_client_from_config(str(server.kubeconfig))
            core = kubernetes.client.CoreV1Api(config)
            core.create_namespaced_service_account("default", {"metadata": {"name": "bob"}})
            request = kubernetes.client.AuthenticationV1TokenRequest(
                spec=kubernetes.client.V1TokenRequestSpec(audiences=[], expiration_seconds=700)
            )
            return str(core.create_namespaced_service_account_token("bob", "default", request).status.token)

        def used(token: str) -> tuple[str, bool]:
            settings = kubernetes.client.Configuration(host=server.url)
            settings.api_key = {"authorization": f"Bearer {token}"}
            settings.ssl_ca_cert = str(server.directory / "ca.crt")
            client = kubernetes.client.ApiClient(settings)
            assert kubernetes.client.CoreV1Api(client).list_namespace().items
            mine = kubernetes.client.AuthenticationV1Api(client).create_self_subject_review({})
            asked = {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}
            allowed = kubernetes.client.AuthorizationV1Api(client).create_self_subject_access_review(asked)
            return mine.status.user_info.username, allowed.status.allowed

        token = await asyncio.to_thread(requested)
        assert await asyncio.to_thread(used, token) == (BOB, True)
        server.kill()
        await server.start()
        assert await asyncio.to_thread(used, token) == (BOB, True)  # the key is kept


async def test_wrong_settings_are_told(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        server.kill()
        nonsense = tmp_path / "nonsense"
        nonsense.write_text("rules: 5")
        for flag, why in (
            (f"--service-account-signing-key-file={nonsense}", "no PEM block holds a private key"),
            (f"--token-auth-file={nonsense}", "line 1: write it as token,user,uid"),
            ("--service-account-max-token-expiration=1m", "at least 1h"),
            ("--audit-log-path=-", "--audit-policy-file"),
        ):
            argv = [sys.executable, "-m", "apiserver", "--config", str(tmp_path / "config.yaml"), flag]
            done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=30)
            assert done.returncode == 2, done.stderr
            assert why in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1


async def test_audit_log(tmp_path: Path) -> None:
    policy, path = tmp_path / "policy.yaml", tmp_path / "audit" / "audit.log"
    policy.write_text(POLICY)
    async with running(tmp_path, f"--audit-policy-file={policy}", f"--audit-log-path={path}") as server:

        def work() -> None:
            config = kubernetes.config.new_client_from_config(str(server.kubeconfig))
            core = kubernetes.client.CoreV1Api(config)
            core.create_namespaced_config_map("default", {"metadata": {"name": "a"}})
            for _ in kubernetes.watch.Watch().stream(core.list_config_map_for_all_namespaces, timeout_seconds=1):
                break
            core.list_namespace()

        await asyncio.to_thread(work)
        server.kill(15)  # type: ignore[arg-type]
        events = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        mine = [one for one in events if one["user"]["username"] == "kubernetes-admin"]
        created, *rest = [one for one in mine if one["verb"] == "create"]
        assert not rest
        assert created["objectRef"]["name"] == "a"
        assert created["sourceIPs"] == ["127.0.0.1"]
        assert created["userAgent"].startswith("OpenAPI-Generator")
        assert created["level"] == "Metadata"
        assert "requestObject" not in created
        assert [one["stage"] for one in mine if one["verb"] == "watch"] == ["ResponseStarted", "ResponseComplete"]
        assert not [one for one in events if one["objectRef"]["resource"] == "namespaces"]


async def load(server: Server, user: str, connections: int, seconds: float, pause: float = 0.0) -> dict[str, Any]:
    argv = [
        sys.executable,
        "-m",
        "tests.node.loads",
        str(server.port),
        user,
        str(connections),
        str(seconds),
        str(pause),
    ]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.alone
async def test_one_hot_client_starves_nobody(tmp_path: Path) -> None:
    """200 connections that write as fast as they can, and one that writes now and then. The hot one once as system:masters,
    who is exempt from flow control: what nobody does about it is the measure."""
    tokens = tmp_path / "tokens.csv"
    tokens.write_text('hot,hot,1\nexempt,exempt,2,"system:masters"\npolite,polite,3\n')
    async with running(tmp_path, f"--token-auth-file={tokens}") as server:

        async def beside(user: str) -> tuple[dict[str, Any], dict[str, Any]]:
            async def later() -> dict[str, Any]:
                await asyncio.sleep(2)  # 200 TLS handshakes are nobody's turn
                return await load(server, "polite", 1, 4, 0.02)

            async with asyncio.TaskGroup() as group:
                hot, polite = group.create_task(load(server, user, 200, 7)), group.create_task(later())
            return hot.result(), polite.result()

        wild, waiting = await beside("exempt")
        tame, served = await beside("hot")
        assert served["others"] == {}  # nobody refused it
        without, within = (statistics.median(one["latencies"]) for one in (waiting, served))
        last = served["latencies"][int(len(served["latencies"]) * 0.99)]
        print(f"polite p50 {within * 1000:.0f} ms, p99 {last * 1000:.0f} ms; without turns p50 {without * 1000:.0f} ms")
        print(f"hot: {tame['created']} created, without turns {wild['created']}")
        assert within < without / 2
        assert last < max(waiting["latencies"]) * 2
        assert tame["created"] > wild["created"] / 3  # the machine is shared; on a quiet one they are alike


async def test_secrets_are_filled_with_tokens(tmp_path: Path) -> None:
    """A Secret of type service-account-token, made by hand: filled, good for its account, and gone with it."""
    async with centre(tmp_path, scheduler=False) as made, made.client() as client:
        await client.create(SERVICEACCOUNTS, {"metadata": {"name": "bob"}}, "default")
        named = {"kubernetes.io/service-account.name": "bob"}
        secret = {"metadata": {"name": "s", "annotations": named}, "type": "kubernetes.io/service-account-token"}
        await client.create(SECRETS, secret, "default")

        async def filled() -> Any:
            found = await client.get(SECRETS, "s", "default")
            return found.data if found.data.keys() == {"token", "ca.crt", "namespace"} else None

        data = await eventually("the Secret is filled", filled)
        assert base64.b64decode(data["namespace"]) == b"default"
        assert b"BEGIN CERTIFICATE" in base64.b64decode(data["ca.crt"])
        review = {"spec": {"token": base64.b64decode(data["token"]).decode()}}

        async def known() -> bool:
            answer = await client.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body=review)
            status = orjson.loads(answer)["status"]
            return bool(status.get("authenticated")) and status["user"]["username"] == BOB

        assert await known()
        await client.delete(SERVICEACCOUNTS, "bob", "default")

        async def gone() -> bool:
            try:
                await client.get(SECRETS, "s", "default")
            except NotFound:
                return True
            return False

        await eventually("the Secret goes with its account", gone)
        assert not await known()


async def test_a_token_made_by_one_server_is_good_at_another(tmp_path: Path) -> None:
    """Two servers on one etcd, with one key: accounts and tokens are made here and used there at once."""
    requires("etcd")
    key = tmp_path / "sa.key"
    key.write_bytes(certificates.signing_key())
    homes = [tmp_path / name for name in "ab"]
    for home in homes:
        home.mkdir()
    async with AsyncExitStack() as stack:
        store = stack.enter_context(etcd.running(tmp_path / "etcd"))
        flags = (f"--etcd-servers={store.url}", f"--service-account-signing-key-file={key}")
        here, there = [await stack.enter_async_context(running(home, *flags)) for home in homes]
        client = await stack.enter_async_context(Client(here.connection()))
        anybody = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)))
        for number in range(30):
            name = f"account-{number}"
            await client.create(SERVICEACCOUNTS, {"metadata": {"name": name}}, "default")
            answer = await client.create_subresource(SERVICEACCOUNTS, name, "token", {}, "default")
            shown = {"Authorization": f"Bearer {answer['status']['token']}"}
            async with anybody.get(
                f"{there.url}/api/v1/namespaces/default/serviceaccounts/{name}", headers=shown
            ) as got:
                assert got.status == 200, await got.text()


async def test_a_token_in_the_subprotocols_of_a_websocket(tmp_path: Path) -> None:
    """What browsers do, which cannot set headers: whoever gets as far as `no such pod` has been recognised."""
    async with running(tmp_path) as server, Client(server.connection()) as client:
        await client.create(SERVICEACCOUNTS, {"metadata": {"name": "bob"}}, "default")
        answer = await client.create_subresource(SERVICEACCOUNTS, "bob", "token", {}, "default")
        token = base64.urlsafe_b64encode(answer["status"]["token"].encode()).decode().rstrip("=")
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as browser:
            for shown, code in ((token, 404), (token[:-8], 401)):
                protocols = (f"base64url.bearer.authorization.k8s.io.{shown}", "v5.channel.k8s.io")
                url = f"{server.url}/api/v1/namespaces/default/pods/none/exec?command=ls&stdout=true"
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await browser.ws_connect(url, protocols=protocols)
                assert refused.value.status == code
