"""Configuration of the metrics daemon: MetricsConfiguration, wherry.io/v1alpha1. Flags that cAdvisor has are named as its, and
may be written with one dash as people do; those that have no meaning here are refused in words."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from kube import settings
from kube.settings import Duration, Foreign, Option

DOCKER = "unix:///var/run/docker.sock"
CONTAINERD = "/run/containerd"
CRIO = "/run/containers/storage/overlay-containers"
_LISTS = "; repeated or with commas"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    listen_ip: Annotated[str, Option("--listen_ip", "address to serve on; all when empty", key="listenIP")] = ""
    port: Annotated[int, Option("--port", "port to serve on; 0 takes a free one")] = 8080
    prometheus_endpoint: Annotated[str, Option("--prometheus_endpoint", "path of the metrics")] = "/metrics"
    url_base_prefix: Annotated[str, Option("--url_base_prefix", "before every path, for use behind a proxy")] = ""

    docker: Annotated[str, Option("--docker", "Docker's endpoint, for container names; empty: none")] = DOCKER
    containerd: Annotated[
        str,
        Option("--containerd", "containerd's state directory (or its socket there), for container names; empty: none"),
    ] = CONTAINERD
    crio: Annotated[
        str, Option("--crio", "the directory of CRI-O's running containers, for container names; empty: none")
    ] = CRIO
    cgroup_root: Annotated[str, Option("--cgroup-root", "the cgroup below which to look")] = "/"
    node_name: Annotated[
        str, Option("--node-name", "only containers of this node (label io.wherry.node), where several share a machine")
    ] = ""
    docker_only: Annotated[bool, Option("--docker_only", "only containers, pods and the root; no systemd slices")] = (
        False
    )
    raw_cgroup_prefix_whitelist: Annotated[
        tuple[str, ...],
        Option("--raw_cgroup_prefix_whitelist", f"of groups that are no container's, only those below these{_LISTS}"),
    ] = ()

    metrics: Annotated[
        tuple[str, ...], Option("--metrics", f"families: mixin, full, or patterns such as container_cpu_*{_LISTS}")
    ] = ("mixin",)
    enable_metrics: Annotated[
        tuple[str, ...], Option("--enable_metrics", f"only these of cAdvisor's groups of families{_LISTS}")
    ] = ()
    disable_metrics: Annotated[
        tuple[str, ...], Option("--disable_metrics", f"none of these of cAdvisor's groups of families{_LISTS}")
    ] = ()
    deny_metrics: Annotated[
        tuple[str, ...],
        Option("--deny_metrics", f"families that are left out whatever else is said, by patterns{_LISTS}"),
    ] = ()
    timestamps: Annotated[bool, Option("--timestamps", "write the time of reading behind each value")] = False
    store_container_labels: Annotated[
        bool, Option("--store_container_labels", "every label of a container becomes container_label_*")
    ] = False
    whitelisted_container_labels: Annotated[
        tuple[str, ...],
        Option("--whitelisted_container_labels", f"labels that become container_label_* in any case{_LISTS}"),
    ] = ()
    env_metadata_whitelist: Annotated[
        tuple[str, ...],
        Option("--env_metadata_whitelist", f"variables (beginnings of names) that become container_env_*{_LISTS}"),
    ] = ()

    storage_duration: Annotated[
        Duration, Option("--storage_duration", "history that is kept in memory; 0 keeps it only while a page is open")
    ] = 0.0
    housekeeping_interval: Annotated[
        Duration,
        Option("--housekeeping_interval", "between two samples of the history; metrics are read when asked for"),
    ] = 1.0
    storage_driver: Annotated[
        str,
        Option("--storage_driver", "where to push each --housekeeping_interval's figures: influxdb; empty: nowhere"),
    ] = ""
    storage_driver_host: Annotated[str, Option("--storage_driver_host", "HOST:PORT of InfluxDB")] = "localhost:8086"
    storage_driver_db: Annotated[str, Option("--storage_driver_db", "the database, which must be there")] = "cadvisor"
    storage_driver_user: Annotated[str, Option("--storage_driver_user", "who writes; empty: nobody")] = "root"
    storage_driver_password: Annotated[str, Option("--storage_driver_password", "and the password")] = "root"
    storage_driver_secure: Annotated[bool, Option("--storage_driver_secure", "speak TLS")] = False
    storage_driver_buffer_duration: Annotated[
        Duration, Option("--storage_driver_buffer_duration", "how long figures gather before they are written")
    ] = 60.0
    storage_driver_influxdb_retention_policy: Annotated[
        str, Option("--storage_driver_influxdb_retention_policy", "InfluxDB's retention policy; empty: its default")
    ] = ""
    machine_id_file: Annotated[
        tuple[str, ...], Option("--machine_id_file", f"where the machine's id is; the first that is there{_LISTS}")
    ] = ("/etc/machine-id", "/var/lib/dbus/machine-id")
    boot_id_file: Annotated[
        tuple[str, ...], Option("--boot_id_file", f"where the boot's id is; the first that is there{_LISTS}")
    ] = ("/proc/sys/kernel/random/boot_id",)
    v: Annotated[int, Option("--v", "4 and above: a line in the log for each reading")] = 0


_LOOP = Foreign("nothing is read between scrapes, so there is no such loop to slow down; leave it out")
_APPLICATION = Foreign("metrics that applications offer are Prometheus' to scrape; leave it out")
_EVENTS = Foreign("no events are kept; leave it out")
_PASSWORDS = Foreign("no passwords are asked for; put a proxy before it, or listen on 127.0.0.1 (--listen_ip)")
_TLS = Foreign("TLS to Docker is not spoken; use its socket (--docker)")
_LOG = Foreign("the log goes to stderr; let the supervisor keep it")
_PERF = Foreign("perf and resctrl counters are not read; leave it out")

FOREIGN = {
    "allow_dynamic_housekeeping": _LOOP,
    "max_housekeeping_interval": _LOOP,
    "global_housekeeping_interval": _LOOP,
    "update_machine_info_interval": _LOOP,
    "application_metrics_count_limit": _APPLICATION,
    "collector_cert": _APPLICATION,
    "collector_key": _APPLICATION,
    "event_storage_age_limit": _EVENTS,
    "event_storage_event_limit": _EVENTS,
    "http_auth_file": _PASSWORDS,
    "http_auth_realm": Foreign(_PASSWORDS.remedy, as_is=("localhost",)),
    "http_digest_file": _PASSWORDS,
    "http_digest_realm": Foreign(_PASSWORDS.remedy, as_is=("localhost",)),
    "dockertls": _TLS,
    "dockertlscert": Foreign(_TLS.remedy, as_is=("cert.pem",)),
    "dockertlskey": Foreign(_TLS.remedy, as_is=("key.pem",)),
    "dockertlsca": Foreign(_TLS.remedy, as_is=("ca.pem",)),
    "docker_root": Foreign("layers are found by their mounts; leave it out", as_is=("/var/lib/docker",)),
    "containerdnamespace": Foreign(
        "containers of every namespace are found; leave it out", as_is=("k8s.io", "default")
    ),
    "podman": Foreign("podman is not asked for names (its containers are there by id); leave it out"),
    "disable_root_cgroup_stats": Foreign("the root costs no more than a container; leave it out"),
    "logtostderr": Foreign(_LOG.remedy, as_is=(True,)),
    "alsologtostderr": Foreign(_LOG.remedy, as_is=(True,)),
    "log_dir": _LOG,
    "log_file": _LOG,
    "stderrthreshold": Foreign(_LOG.remedy, as_is=(0, 2, "INFO", "ERROR")),
    "vmodule": Foreign("one level is for all (--v)"),
    "max_procs": Foreign("one thread reads; leave it out"),
    "profiling": Foreign("there is no profiler inside; py-spy looks from outside"),
    "storage_driver_table": Foreign("InfluxDB's measurements have cAdvisor's names; leave it out", as_is=("stats",)),
    "perf_events_config": _PERF,
    "resctrl_interval": _PERF,
    "referenced_reset_interval": _PERF,
}


def load(argv: Sequence[str]) -> Config:
    return settings.load(
        Config,
        [f"-{word}" if word[:1] == "-" and word[1:2].isalpha() and word != "-h" else word for word in argv],
        prog="wherry-metrics",
        description="Container and machine metrics under cAdvisor's names, for Prometheus.",
        api_version="wherry.io/v1alpha1",
        document_kind="MetricsConfiguration",
        foreign=FOREIGN,
    )
