"""The kubelet's own series: names and labels that dashboards read."""

from collections.abc import Mapping

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from kube.pods import Pod
from kube.slis import Health
from kubelet.metrics import Metrics, Mounted, Wanted


def lines(registry: CollectorRegistry) -> set[str]:
    return {line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")}


def pod(uid: str, annotations: Mapping[str, str] = {}) -> Pod:
    volumes = [{"name": "a", "emptyDir": {}}, {"name": "b", "secret": {"secretName": "s"}}]
    meta = {"name": uid, "namespace": "default", "uid": uid, "annotations": dict(annotations)}
    return msgspec.convert({"metadata": meta, "spec": {"containers": [], "volumes": volumes}}, Pod)


def test_what_is_counted_where_it_happens() -> None:
    metrics = Metrics("node1")
    metrics.operation("run_podsandbox", 0.1, failed=True)
    metrics.starting("pod_sandbox")
    metrics.starting("init_container")
    metrics.start_failed("init_container", "ErrImagePull")
    metrics.image_pulled(11 << 20, 2.0)
    metrics.image_collected("space")
    metrics.asked("GET", "api:6443", "200", 0.01)
    metrics.relisted(0.01, 1.0)
    metrics.fallbacks(lambda: 3)
    with metrics.cgroup("create"), metrics.request("GET", "exec", "readwrite"):
        assert (
            'kubelet_http_inflight_requests{long_running="true",method="GET",path="exec",server_type="readwrite"} 1.0'
            in (lines(metrics.registry))
        )
    with pytest.raises(OSError), metrics.cgroup("destroy"):
        raise OSError
    with metrics.storage("volume_mount", "secret"):
        pass
    with pytest.raises(OSError), metrics.storage("volume_mount", "secret"):
        raise OSError
    of_secrets = 'operation_name="volume_mount",status="{}",volume_plugin="kubernetes.io/secret"'
    for status in ("success", "fail-unknown"):
        labels = f'migrated="false",{of_secrets.format(status)}'
        assert f"storage_operation_duration_seconds_count{{{labels}}} 1.0" in lines(metrics.registry)
    assert {
        'kubelet_node_name{node="node1"} 1.0',
        'kubelet_runtime_operations_total{operation_type="run_podsandbox"} 1.0',
        'kubelet_runtime_operations_errors_total{operation_type="run_podsandbox"} 1.0',
        "kubelet_started_pods_total 1.0",
        "kubelet_started_pods_errors_total 0.0",
        'kubelet_started_containers_total{container_type="init_container"} 1.0',
        'kubelet_started_containers_errors_total{code="ErrImagePull",container_type="init_container"} 1.0',
        'kubelet_image_pull_duration_seconds_count{image_size_in_bytes="10MB-100MB"} 1.0',
        'kubelet_image_garbage_collected_total{reason="space"} 1.0',
        'rest_client_requests_total{code="200",host="api:6443",method="GET"} 1.0',
        'kubelet_cgroup_manager_duration_seconds_count{operation_type="create"} 1.0',
        'kubelet_cgroup_manager_duration_seconds_count{operation_type="destroy"} 1.0',
        'kubelet_http_requests_total{long_running="true",method="GET",path="exec",server_type="readwrite"} 1.0',
        "kubelet_pleg_relist_interval_seconds_count 1.0",
        'storage_operation_errors_total{operation_name="volume_mount",volume_plugin="kubernetes.io/secret"} 1.0',
        "kubelet_lifecycle_handler_http_fallbacks_total 3.0",
    } <= lines(metrics.registry)


def test_pods_and_volumes() -> None:
    registry = CollectorRegistry()
    ours, static = pod("one"), pod("two", {"kubernetes.io/config.source": "file"})
    registry.register(Wanted(lambda: [ours, static], lambda: [ours]))
    registry.register(Mounted(lambda: [ours, static], {"one": {"a": "/a", "b": "/b"}, "two": {"a": "/a"}}))
    assert lines(registry) == {
        'kubelet_desired_pods{static=""} 1.0',
        'kubelet_desired_pods{static="true"} 1.0',
        'kubelet_active_pods{static=""} 1.0',
        'kubelet_active_pods{static="true"} 0.0',
        'volume_manager_total_volumes{plugin_name="kubernetes.io/empty-dir",state="actual_state_of_world"} 2.0',
        'volume_manager_total_volumes{plugin_name="kubernetes.io/empty-dir",state="desired_state_of_world"} 2.0',
        'volume_manager_total_volumes{plugin_name="kubernetes.io/secret",state="actual_state_of_world"} 1.0',
        'volume_manager_total_volumes{plugin_name="kubernetes.io/secret",state="desired_state_of_world"} 2.0',
    }


def test_health_over_time() -> None:
    registry, said = CollectorRegistry(), [""]
    registry.register(Health({"syncloop": lambda: said[-1] or None}))
    assert 'kubernetes_healthcheck{name="syncloop",type="healthz"} 1.0' in lines(registry)
    said.append("no look at the runtime")
    assert {
        'kubernetes_healthcheck{name="syncloop",type="healthz"} 0.0',
        'kubernetes_healthchecks_total{name="syncloop",status="error",type="healthz"} 1.0',
    } <= lines(registry)
