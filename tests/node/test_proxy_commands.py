"""`wherry proxy show` and `wherry proxy trace` over the rules of a running proxy, of each mode."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kube.errors import UsageError
from kube.resources import PODS, SERVICEACCOUNTS
from linux import netns as kernel_netns
from proxy import commands
from tests.node.proxy_world import Cluster, Kernel, running, until
from tests.node.service_world import HERE, HERE_TOO, NODE, OUTSIDER, POD, THERE, Make, built
from tests.requirements import requires

WEB, EMPTY, NODE_PORT = "172.30.0.41", "172.30.0.42", 30080


class Said(NamedTuple):
    code: int
    text: str
    error: str

    @property
    def document(self) -> Any:
        return json.loads(self.text)


@pytest.fixture
def cluster(netns: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cluster]:
    requires("netns", "iptables-nft-restore", "iptables-legacy-restore")
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with built(netns) as world, running(world, tmp_path) as made:
        yield made


def proxy(cluster: Cluster, *words: str) -> Said:
    """`wherry proxy WORDS` on the node, without a process of its own."""

    def run() -> int:
        with contextlib.redirect_stdout(out):
            try:
                return commands.main(words)
            except UsageError as error:
                errors.append(str(error))
                return 2

    out, errors = io.StringIO(), [""]
    code: int = kernel_netns.call(cluster.world.node.path, run)
    return Said(code, out.getvalue(), errors[-1])


def wherry(cluster: Cluster, *words: str) -> Said:
    """`wherry proxy WORDS` on the node, as people start it."""
    argv = [sys.executable, "-m", "wherry", "proxy", *words]
    process = cluster.world.node.start(*argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, error = process.communicate(timeout=60)
    return Said(process.returncode, out.decode(), error.decode())


def state(said: Said, name: str) -> tuple[str, set[str], set[str]]:
    """(state, missing, stale) of a Service port."""
    found = next(each for each in said.document["services"] if each["name"] == name)
    places = found["places"]
    return (
        found["state"],
        {end for each in places for end in each["missing"]},
        {end for each in places for end in each["stale"]},
    )


@pytest.mark.parametrize("kernel", list(Kernel))
def test_they_tell_what_packets_meet(cluster: Cluster, kernel: Kernel) -> None:
    daemon = cluster.start_proxy(kernel=kernel, nodePortAddresses=["192.168.0.0/24"])
    cluster.make_service("web", WEB, HERE, THERE, node_port=NODE_PORT)
    cluster.make_service("empty", EMPTY)
    cluster.answers(POD, WEB, 80, HERE, THERE)
    cluster.answers(POD, EMPTY, 80, "refused")

    said = wherry(cluster, "trace", "--from", POD, "--to", f"{WEB}:80", "-o", "json")
    found = said.document
    assert (said.code, found["service"], found["packet"]["interface"]) == (0, "default/web:http", "cni0")
    ends = {each["address"]: (each["share"], each["masqueraded"], each["through"]) for each in found["outcomes"]}
    assert set(ends) == {f"{HERE}:8080", f"{THERE}:8080"}
    assert {share for share, _, _ in ends.values()} == {0.5}
    assert {masqueraded for _, masqueraded, _ in ends.values()} == {False}
    assert not found["notes"]

    outside = proxy(cluster, "trace", "--from", OUTSIDER, "--to", f"{NODE}:{NODE_PORT}", "-o", "json")
    assert {each["masqueraded"] for each in outside.document["outcomes"]} == {True}
    refused = proxy(cluster, "trace", "--from", POD, "--to", f"{EMPTY}:80")
    assert (refused.code, "default/empty:http decides" in refused.text, "refused at once" in refused.text) == (
        1,
        True,
        True,
    )

    by_name = proxy(cluster, "trace", "--from", POD, "--to", "default/web", "-o", "json")
    assert by_name.document["outcomes"] == found["outcomes"]
    unknown = proxy(cluster, "trace", "--from", POD, "--to", "default/nobody:80")
    assert (unknown.code, "Service default/nobody is not there" in unknown.error) == (2, True)

    shown = proxy(cluster, "show", "-o", "json")
    assert (shown.code, shown.document["inSync"], len(shown.document["modes"])) == (0, True, 1), shown
    assert not shown.document["notes"]
    web = next(each for each in shown.document["services"] if each["name"] == "default/web:http")
    assert web["packets"] >= 20

    daemon.end(signal.SIGKILL)
    cluster.set_endpoints("web", HERE, HERE_TOO)
    cluster.delete_service("empty")
    late = wherry(
        cluster, "show", "--kubeconfig", str(cluster.home / "admin.kubeconfig"), "--node", "node1", "-o", "json"
    )
    assert late.code == 1
    assert state(late, "default/web:http") == ("1 missing, 1 stale", {f"{HERE_TOO}:8080"}, {f"{THERE}:8080"})
    assert state(late, "default/empty:http")[0] == "stale: no such Service"
    alone = proxy(cluster, "show")
    assert (alone.code, "not compared with the API" in alone.text) == (0, True)

    cluster.start_proxy(kernel=kernel, nodePortAddresses=["192.168.0.0/24"])
    until(lambda: proxy(cluster, "show", "default/web").code == 0, "it is in sync again")


def test_pods_are_found_by_name_and_other_tables_have_their_say(cluster: Cluster) -> None:
    cluster.start_proxy()
    cluster.make_service("web", WEB, HERE)
    cluster.answers(POD, WEB, 80, HERE)
    spec = {"nodeName": "node1", "containers": [{"name": "c", "image": "i"}]}

    async def pod(client: Any) -> None:
        await client.create(SERVICEACCOUNTS, {"metadata": {"name": "default"}}, "default")
        await client.create(PODS, {"metadata": {"name": "client"}, "spec": spec}, "default")
        status = {"status": {"phase": "Running", "podIP": POD, "podIPs": [{"ip": POD}]}}
        await client.patch(PODS, "client", status, "default", subresource="status")

    cluster.api(pod)
    named = proxy(cluster, "trace", "--from", "default/client", "--to", "default/web:http")
    assert (named.code, f"TCP from {POD} to {WEB}:80" in named.text) == (0, True), named

    node = cluster.world.node
    node.run("nft", "add table inet firewall")
    node.run("nft", "add chain inet firewall forward { type filter hook forward priority 10; policy drop; }")
    node.run("nft", "add rule inet firewall forward ct state established,related accept")
    dropped = proxy(cluster, "trace", "--from", POD, "--to", f"{WEB}:80")
    assert (dropped.code, "dropped without an answer" in dropped.text, "inet firewall" in dropped.text) == (
        1,
        True,
        True,
    )
    assert cluster.names(POD, WEB, 80, times=2) == {"silence"}
    broken = proxy(cluster, "show")
    assert (broken.code, "1 missing" in broken.text) == (1, True)
