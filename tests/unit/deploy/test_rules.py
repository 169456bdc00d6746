"""Recording and alerting rules of deploy/prometheus, by promtool: their syntax, and what they make of made-up series.

Of each alert the series that raise it and those that do not are in ALERTS; promtool's own test language is written from that,
so that an alert without a test is seen.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from metrics import families
from metrics.selection import select
from tests.requirements import requires, tool

HERE = Path(__file__).parent
DEPLOYED = HERE.parents[2] / "deploy" / "prometheus"
RULES = DEPLOYED / "rules"

_C = 'job="kubelet-cadvisor",node="n1",namespace="a",pod="p",container="c"'
_POD = 'job="kubelet-cadvisor",node="n1",namespace="a",pod="p",container="",name=""'
_ROOT = 'job="kubelet-cadvisor",node="n1",container="",pod=""'
_PERIODS = f"container_cpu_cfs_periods_total{{{_C}}}"
_QUEUED = 'kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"}'
_SYNCED = 'kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}'
_RELIST = 'node_quantile:kubelet_pleg_relist_duration_seconds:histogram_quantile{quantile="0.99"}'
_LATENCY = 'cluster_quantile:apiserver_request_duration_seconds:histogram_quantile{quantile="0.99"}'

Series = dict[str, str]
ALERTS: dict[str, tuple[Series, Series]] = {
    "KubeletDown": ({'up{job="kubelet",node="n1"}': "0x60"}, {'up{job="kubelet",node="n1"}': "0x3 1x57"}),
    "KubeAPIDown": ({'up{job="apiserver"}': "0x60"}, {'up{job="apiserver"}': "1x60"}),
    "WherryDaemonDown": ({'up{job="overlay"}': "0x60"}, {'up{job="overlay"}': "1x60"}),
    "CPUThrottlingHigh": (
        {_PERIODS: "0+600x60", f"container_cpu_cfs_throttled_periods_total{{{_C}}}": "0+200x60"},
        {_PERIODS: "0+600x60", f"container_cpu_cfs_throttled_periods_total{{{_C}}}": "0+100x60"},
    ),
    "ContainerOOMKilled": (
        {f"container_oom_events_total{{{_POD}}}": "0x55 1x5"},
        {f"container_oom_events_total{{{_POD}}}": "0x5 1x55", f"container_oom_events_total{{{_ROOT}}}": "0x55 1x5"},
    ),
    "ContainerMemoryNearLimit": (
        {
            f"container_memory_working_set_bytes{{{_C}}}": "96x60",
            f"container_spec_memory_limit_bytes{{{_C}}}": "100x60",
        },
        {f"container_memory_working_set_bytes{{{_C}}}": "96x60", f"container_spec_memory_limit_bytes{{{_C}}}": "0x60"},
    ),
    "ContainerScrapeError": ({'container_scrape_error{job="metrics"}': "1x60"}, {"container_scrape_error": "0x60"}),
    "NodeMemoryShort": (
        {f'container_pressure_memory_stalled_seconds_total{{{_ROOT},id="/"}}': "0+12x60"},
        {f'container_pressure_memory_stalled_seconds_total{{{_ROOT},id="/kubepods"}}': "0+12x60"},
    ),
    "NodeFilesystemAlmostFull": (
        {
            f'container_fs_usage_bytes{{{_ROOT},device="/dev/vda"}}': "91x60",
            f'container_fs_limit_bytes{{{_ROOT},device="/dev/vda"}}': "100x60",
        },
        {
            f'container_fs_usage_bytes{{{_ROOT},device="/dev/vda"}}': "89x60",
            f'container_fs_limit_bytes{{{_ROOT},device="/dev/vda"}}': "100x60",
        },
    ),
    "KubeletPlegDurationHigh": ({_RELIST: "11x60"}, {_RELIST: "1x60"}),
    "KubeletRuntimeErrors": (
        {'kubelet_runtime_operations_errors_total{job="kubelet",operation_type="pull_image"}': "0+12x60"},
        {'kubelet_runtime_operations_errors_total{job="kubelet",operation_type="pull_image"}': "0+1x60"},
    ),
    "KubeletClientCertificateExpiration": (
        {"kubelet_certificate_manager_client_ttl_seconds": "600000x60"},
        {"kubelet_certificate_manager_client_ttl_seconds": "700000x60"},
    ),
    "KubeletServerCertificateExpiration": (
        {"kubelet_certificate_manager_server_ttl_seconds": "600000x60"},
        {"kubelet_certificate_manager_server_ttl_seconds": "700000x60"},
    ),
    "KubeAPILatencyHigh": ({_LATENCY: "1.5x60"}, {_LATENCY: "0.5x60"}),
    "KubeAPIErrorsHigh": (
        {
            'apiserver_request_total{job="apiserver",code="200"}': "0+90x60",
            'apiserver_request_total{job="apiserver",code="500"}': "0+10x60",
        },
        {
            'apiserver_request_total{job="apiserver",code="200"}': "0+90x60",
            'apiserver_request_total{job="apiserver",code="404"}': "0+10x60",
        },
    ),
    "KubeProxySyncFailures": (
        {"kubeproxy_sync_proxy_rules_nftables_sync_failures_total": "0+1x60"},
        {"kubeproxy_sync_proxy_rules_iptables_restore_failures_total": "3x60"},
    ),
    "KubeProxyRulesStale": (
        {_QUEUED: "1000x60", _SYNCED: "900x60"},
        {_QUEUED: "1000x60", _SYNCED: "1001x60"},
    ),
    "WherryProxyRefusedServicePorts": (
        {"wherry_proxy_refused_service_ports": "2x60"},
        {"wherry_proxy_refused_service_ports": "0x60"},
    ),
    "WherryProxyRulesChangedByOthers": (
        {"wherry_proxy_repairs_total": "0+1x60"},
        {"wherry_proxy_repairs_total": "0x50 1x10"},
    ),
    "WherryOverlayDrift": (
        {'wherry_overlay_drift_repaired_total{object="route"}': "0+1x60"},
        {'wherry_overlay_drift_repaired_total{object="route"}': "0x50 1x10"},
    ),
    "WherryOverlaySyncFailures": (
        {'wherry_overlay_sync_failures_total{loop="IPv4"}': "0+1x60"},
        {'wherry_overlay_sync_failures_total{loop="IPv4"}': "4x60"},
    ),
    "WherryOverlayRefusedNodes": ({"wherry_overlay_refused_nodes": "1x60"}, {"wherry_overlay_refused_nodes": "0x60"}),
    "WherryOverlayLeaseEnds": (
        {"wherry_overlay_lease_expiry_timestamp_seconds": "4800x60"},
        {"wherry_overlay_lease_expiry_timestamp_seconds": "0x60"},
    ),
}
"""By alert: series, a sample a minute, after an hour of which it fires, and such that it does not."""


def promtool(*words: str) -> None:
    requires("promtool")
    argv = [tool("promtool") or "promtool", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def rules(kind: str) -> Iterator[dict[str, Any]]:
    for file in sorted(RULES.glob("*.yml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from (rule for rule in group["rules"] if kind in rule)


def test_rules_are_clean() -> None:
    promtool("check", "rules", *map(str, sorted(RULES.glob("*.yml"))))


def test_what_is_recorded(tmp_path: Path) -> None:
    made = tmp_path / "recording.test.yml"
    made.write_text((HERE / "recording.test.yml").read_text().replace("RULES", str(RULES)))
    promtool("test", "rules", str(made))


def _world(series: Series, *, fire: bool) -> dict[str, Any]:
    """All series at once; each alert counted after an hour. (promtool's own alert tests want labels and texts in full.)"""
    samples = [{"labels": "{}", "value": 1}] if fire else []
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                "eval_time": "60m",
                "exp_samples": samples,
            }
            for alert in ALERTS
        ],
    }


def test_alerts_fire_and_keep_silent(tmp_path: Path) -> None:
    bad = {name: values for series, _ in ALERTS.values() for name, values in series.items()}
    good = {name: values for _, series in ALERTS.values() for name, values in series.items()}
    assert len(bad) == sum(len(series) for series, _ in ALERTS.values()), "two alerts' series are the same"
    worlds = [_world(bad, fire=True), _world(good, fire=False)]
    made = tmp_path / "alerts.test.yml"  # JSON is YAML
    made.write_text(
        json.dumps({"rule_files": [str(RULES / "alerts.yml")], "evaluation_interval": "1m", "tests": worlds})
    )
    promtool("test", "rules", str(made))


def test_each_alert_has_its_test_and_its_words() -> None:
    alerts = {rule["alert"]: rule for rule in rules("alert")}
    assert alerts.keys() == ALERTS.keys()
    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}, name
        assert rule["annotations"].keys() == {"summary", "description"}, name


@pytest.mark.parametrize("name", ["prometheus.yml", "kubernetes.yml"])
def test_what_rules_read_of_containers_is_scraped(name: str) -> None:
    """The scrape's `metrics` parameter selects each container family that a rule reads."""
    configuration = yaml.safe_load((DEPLOYED / name).read_text())
    (job,) = (one for one in configuration["scrape_configs"] if one["job_name"] == "kubelet-cadvisor")
    words = ",".join(job["params"]["metrics"]).split(",")
    selected = {family.name for family in select(words).families}
    known = {family.name for family in families.FAMILIES}
    read = {word for rule in (*rules("record"), *rules("alert")) for word in re.findall(r"\w+", rule["expr"])}
    assert read & known
    assert read & known <= selected


@pytest.mark.parametrize("name", ["prometheus.yml", "kubernetes.yml"])
def test_configuration_is_clean(tmp_path: Path, name: str) -> None:
    """Debian's promtool does not know kubernetes_sd_configs: the rest of that file is checked without them."""
    configuration = yaml.safe_load((DEPLOYED / name).read_text())
    for job in configuration["scrape_configs"]:
        for role in job.pop("kubernetes_sd_configs", ()):
            assert role.keys() == {"role"}
            assert role["role"] in {"node", "endpoints"}
    made = tmp_path / name
    made.write_text(json.dumps(configuration))
    (tmp_path / "rules").symlink_to(RULES)
    promtool("check", "config", "--syntax-only", str(made))
