"""The official Python client, unchanged."""

from collections.abc import Iterator

import pytest
from kubernetes import client, config, watch
from kubernetes.stream import stream

from tests.cluster.conftest import Lab, until

# Its WebSocket client leaves closing its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture
def api(demo: Lab) -> Iterator[client.ApiClient]:
    with config.new_client_from_config(demo.kubeconfig) as made:
        yield made


def test_lists_and_reads(api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    assert {node.metadata.name for node in core.list_node().items} == {"node1", "node2", "node3"}
    assert core.read_namespaced_service("hello", "default").spec.ports[0].port == 80
    assert client.AppsV1Api(api).read_namespaced_deployment("hello", "default").status.ready_replicas == 3


def test_creates_watches_patches_and_deletes(api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="official"), data={"a": "1"})
    created = core.create_namespaced_config_map("default", body)
    core.patch_namespaced_config_map("official", "default", {"data": {"b": "2"}})
    core.delete_namespaced_config_map("official", "default")
    events = []
    for event in watch.Watch().stream(
        core.list_namespaced_config_map,
        "default",
        field_selector="metadata.name=official",
        resource_version=str(int(created.metadata.resource_version) - 1),
        timeout_seconds=5,
    ):
        events.append(event["type"])
        if event["type"] == "DELETED":
            break
    assert events == ["ADDED", "MODIFIED", "DELETED"]


def test_errors_carry_a_status(api: client.ApiClient) -> None:
    with pytest.raises(client.ApiException) as caught:
        client.CoreV1Api(api).read_namespaced_pod("nobody", "default")
    assert caught.value.status == 404
    assert 'pods \\"nobody\\" not found' in caught.value.body


def test_execs_over_websocket(api: client.ApiClient, demo: Lab) -> None:
    pod = demo.pods("app=hello")[0]["metadata"]["name"]
    core = client.CoreV1Api(api)
    said = stream(
        core.connect_get_namespaced_pod_exec,
        pod,
        "default",
        command=["hostname"],
        stdout=True,
        stderr=True,
        stdin=False,
        tty=False,
    )
    assert said.strip() == pod


def test_logs(api: client.ApiClient, demo: Lab) -> None:
    pod = demo.pods("app=hello")[0]["metadata"]["name"]
    core = client.CoreV1Api(api)
    until(lambda: "serving on port 8080" in core.read_namespaced_pod_log(pod, "default"))
