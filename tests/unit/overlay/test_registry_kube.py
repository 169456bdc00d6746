"""The way to the API server, net-conf.json as a file, and the memory of what the Nodes said."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from kube.core import Node, NodeAddress, NodeSpec, NodeStatus
from kube.errors import UsageError
from kube.meta import Condition, ObjectMeta
from overlay.registry import annotations, kube, memory

PREFIX = "flannel.alpha.coreos.com/"
KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: a
contexts: [{name: a, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://10.0.0.1:6443"}}]
users: [{name: u, user: {token: t}}]
"""


def test_the_way_is_the_kubeconfigs_but_for_an_url(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(KUBECONFIG)
    assert kube.connection(str(file), "").server == "https://10.0.0.1:6443"
    found = kube.connection(str(file), "https://10.0.0.9:6443/")
    assert (found.server, found.token) == ("https://10.0.0.9:6443", "t")


def test_an_url_alone_is_enough() -> None:
    assert kube.connection("", "http://127.0.0.1:8080").server == "http://127.0.0.1:8080"
    with pytest.raises(UsageError, match="--kube-api-url: 'api:6443' is not https://host:port"):
        kube.connection("", "api:6443")


@pytest.mark.parametrize(
    ("host", "server"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")]
)
def test_in_a_pod_it_is_the_service_accounts(
    host: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "ca.crt").write_text("ca")
    monkeypatch.setattr(kube, "ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = kube.connection("", "")
    assert (found.server, found.token, found.ca) == (server, "secret", b"ca")


def test_outside_of_one_a_kubeconfig_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UsageError, match="--kubeconfig is required outside of a Pod"):
        kube.connection("", "")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setattr(kube, "ACCOUNT", tmp_path)
    with pytest.raises(UsageError, match="mount the service account's token"):
        kube.connection("", "")


def test_a_net_conf_that_is_not_there_or_not_right_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--net-config-path /nowhere/net-conf\.json: No such file"):
        kube.network("/nowhere/net-conf.json")
    file = tmp_path / "net-conf.json"
    file.write_text("{}")
    with pytest.raises(UsageError, match=r"--net-config-path .*net-conf\.json: Network: "):
        kube.network(str(file))


def node(name: str) -> Node:
    return Node(
        metadata=ObjectMeta(
            name=name,
            uid="u",
            resource_version="77",
            creation_timestamp=datetime.fromtimestamp(1000, UTC),
            annotations={f"{PREFIX}public-ip": "10.0.0.1", "somebody/elses": "word"},
            labels={"a": "b"},
        ),
        spec=NodeSpec(pod_cidr="10.244.1.0/24", pod_cidrs=("10.244.1.0/24", "fd00::/64")),
        status=NodeStatus(
            conditions=(
                Condition(type="Ready", status="True"),
                Condition(type="NetworkUnavailable", status="False", reason="FlannelIsUp"),
            ),
            addresses=(NodeAddress(type="InternalIP", address="10.0.0.1"),),
        ),
    )


def test_what_a_network_is_made_of_is_remembered(tmp_path: Path) -> None:
    file = tmp_path / "run" / "nodes.json"
    memory.keep(file, "node2", [node("node1"), node("node2")], PREFIX)
    recalled, age = memory.recall(file)
    assert recalled.node == "node2"
    assert [one.metadata.name for one in recalled.nodes] == ["node1", "node2"]
    assert 0 <= age < 60
    first = recalled.nodes[0]
    assert annotations.claim(first, PREFIX) == annotations.claim(node("node1"), PREFIX)
    assert first.metadata.annotations == {f"{PREFIX}public-ip": "10.0.0.1"}
    assert first.metadata.resource_version == "", "whatever the API server says is newer"
    assert [one.type for one in first.status.conditions] == ["NetworkUnavailable"]
    assert memory.remove(file)
    assert not memory.remove(file)


@pytest.mark.parametrize("text", ["", "[", '{"a": 1}', '[{"metadata": 7}]', '[{"x":' + "[" * 100_000])
def test_a_memory_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "nodes.json"
    assert memory.recall(file) == (memory.NOTHING, 0.0)
    file.write_text(text)
    assert memory.recall(file) == (memory.NOTHING, 0.0)


def test_a_memory_that_cannot_be_kept_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory.keep(tmp_path / "file" / "nodes.json", "node1", [node("node1")], PREFIX)
