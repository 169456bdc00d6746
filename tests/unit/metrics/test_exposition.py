"""From a snapshot to text: whose labels, which formats, what is kept and what is not."""

import re
import subprocess
import threading
from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Timestamp

from metrics import exposition
from metrics.exposition import FULL, Labels, Page, select
from metrics.model import Counted, Snapshot
from tests.requirements import requires
from tests.unit.metrics import samples

Series = dict[tuple[str, ...], float]


@cache
def parsed(text: bytes) -> list[Metric]:
    return list(text_string_to_metric_families(text.decode()))


def series(text: bytes, name: str, *labels: str) -> Series:
    """Value by the values of `labels`. The parser gives a counter `_total` that lacks it."""
    found: Series = {}
    for family in parsed(text):
        for one in family.samples:
            if one.name == name:
                key = tuple(one.labels.get(label, "") for label in labels)
                assert key not in found, key
                found[key] = one.value
    return found


def other(snapshot: Snapshot, index: int, **changes: object) -> Snapshot:
    """The snapshot with one sample changed."""
    changed = list(snapshot.samples)
    changed[index] = msgspec.structs.replace(changed[index], **changes)
    values = {name: getattr(snapshot, name) for name in Snapshot.__slots__}
    return Snapshot(**{**values, "samples": tuple(changed)})


def test_values_in_their_units() -> None:
    text = Page(FULL).text(samples.snapshot())
    expected = {
        "container_cpu_usage_seconds_total": 2.5,
        "container_cpu_system_seconds_total": 0.8,
        "container_cpu_cfs_throttled_seconds_total": 0.9,
        "container_cpu_cfs_burst_seconds_total": 0.05,
        "container_memory_working_set_bytes": 8_388_608,
        "container_memory_kernel_usage": 65536,
        "container_memory_failcnt_total": 7,
        "container_pressure_cpu_waiting_seconds_total": 1.5,
        "container_pressure_io_stalled_seconds_total": 0.25,
        "container_oom_events_total": 1,
        "container_health_state": 1,
        "container_threads": 5,
        "container_threads_max": 99,
        "container_processes": 3,
        "container_sockets": 4,
        "container_file_descriptors": 20,
        "container_ulimits_soft": 1024,
        "container_last_seen": 1234,
        "container_start_time_seconds": 101,
        "container_spec_cpu_quota": 20000,
        "container_spec_cpu_shares": 102,
        "container_spec_memory_limit_bytes": 67_108_864,
        "container_spec_memory_swap_limit_bytes": 134_217_728,
        "container_spec_memory_reservation_limit_bytes": 33_554_432,
    }
    for name, value in expected.items():
        assert series(text, name, "id")[(samples.WEB,)] == pytest.approx(value), name
    faults = series(text, "container_memory_failures_total", "id", "failure_type", "scope")
    assert [
        faults[samples.WEB, kind, scope] for kind in ("pgfault", "pgmajfault") for scope in ("container", "hierarchy")
    ] == [
        200,
        300,
        2,
        3,
    ]
    devices = series(text, "container_blkio_device_usage_total", "id", "device", "major", "minor", "operation")
    assert devices[samples.WEB, "/dev/vda", "254", "0", "Write"] == 8192
    assert series(text, "container_fs_write_seconds_total", "id", "device") == {("/", "/dev/vda"): 5.0}
    assert series(text, "machine_memory_bytes", "boot_id", "machine_id", "system_uuid") == {("b", "m", "s"): 2**33}
    assert series(text, "machine_load_average", "window") == {("1m",): 0.5, ("5m",): 0.25, ("15m",): 0.125}
    assert series(text, "cadvisor_version_info", "dockerVersion", "kernelVersion") == {("29.0.1", "6.1.0"): 1}


def test_images_are_containers_and_a_pods_network_is_its_sandboxs() -> None:
    text = Page(FULL).text(samples.snapshot())
    images = series(text, "container_memory_rss", "id", "image", "pod", "container")
    assert set(images) == {
        ("/", "", "", ""),
        ("/kubepods", "", "", ""),
        (samples.POD, "", "web-1", ""),
        (samples.SANDBOX, "pause:1", "web-1", ""),
        (samples.WEB, "web:1", "web-1", "web"),
        (samples.LONE, "postgres:15", "", ""),
    }
    received = series(
        text, "container_network_receive_bytes_total", "id", "name", "image", "pod", "namespace", "interface"
    )
    assert received == {
        (samples.SANDBOX, "k8s_POD", "pause:1", "web-1", "default", "eth0"): 1506,
        (samples.LONE, "db", "postgres:15", "", "", "eth0"): 1506,
    }


def test_a_pod_whose_sandbox_cannot_be_read_keeps_its_network() -> None:
    whole = samples.snapshot()
    values = {name: getattr(whole, name) for name in Snapshot.__slots__}
    without = Snapshot(**{**values, "samples": tuple(s for s in whole.samples if s.kind != "sandbox")})
    received = series(Page().text(without), "container_network_receive_bytes_total", "id", "pod")
    assert received[samples.POD, "web-1"] == 1506


def test_what_has_no_information_has_no_row() -> None:
    unlimited = msgspec.structs.replace(
        samples.USAGE,
        limits=msgspec.structs.replace(samples.USAGE.limits, cpu_quota_us=None),
        oom_kills=None,
        pressure=None,
        io={},
    )
    torn = Counted(1, 1, 1.0, whole=False, device="254:1")
    text = Page(FULL).text(other(samples.snapshot(), 4, usage=unlimited, processes=None, layer=torn, started=None))
    for name in (
        *("container_cpu_cfs_periods_total", "container_cpu_cfs_burst_seconds_total", "container_spec_cpu_quota"),
        *("container_oom_events_total", "container_pressure_cpu_waiting_seconds_total", "container_fs_reads_total"),
        *("container_processes", "container_ulimits_soft", "container_fs_usage_bytes", "container_start_time_seconds"),
    ):
        assert (samples.WEB,) not in series(text, name, "id", *(["ulimit"] if "ulimit" in name else [])), name
    assert (samples.WEB,) in series(text, "container_memory_rss", "id")
    assert ("/dev/ram0",) not in series(text, "container_fs_io_current", "device")


def test_a_layers_device_and_its_size() -> None:
    text = Page(FULL).text(samples.snapshot())
    assert series(text, "container_fs_usage_bytes", "id", "device") == {
        ("/", "/dev/vda1"): 10**9,
        (samples.WEB, "/dev/vda1"): 123_456,
    }
    assert series(text, "container_fs_limit_bytes", "id", "device")[samples.WEB, "/dev/vda1"] == 10**10


def test_hostile_label_values_come_out_as_they_went_in() -> None:
    nasty = 'a "quoted"\nname\\n, {x="y"} é\t\r' + "x" * 4096
    snapshot = other(
        samples.snapshot(), 4, labels=samples.labels(samples.WEB, nasty, nasty, pod=nasty, container=nasty)
    )
    for openmetrics in (False, True):
        text = Page(FULL).whole(snapshot, openmetrics).decode()
        parse = openmetrics_families if openmetrics else text_string_to_metric_families
        found = {s.labels["name"] for f in parse(text) for s in f.samples if s.labels.get("id") == samples.WEB}
        assert found == {nasty}


def test_a_name_that_is_no_utf8_is_written_all_the_same() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    text = Page().text(other(samples.snapshot(), 4, labels=samples.labels(samples.WEB, name)))
    assert "caf?" in text.decode()


def test_containers_own_labels_are_asked_for() -> None:
    own = {"com.docker.compose.service": "shop", "com_docker_compose_service": "twin", "secret": 'x"y'}
    who = msgspec.structs.replace(samples.WHO, labels=own, env={"PATH": "/bin"})
    snapshot = other(samples.snapshot(), 4, identity=who)
    rss = "container_memory_rss"
    service = "container_label_com_docker_compose_service"
    assert b"container_label_" not in Page().text(snapshot)
    everything = Page(labels=Labels(store=True)).text(snapshot)
    assert (samples.WEB, "shop", 'x"y', "/bin") in series(
        everything, rss, "id", service, "container_label_secret", "container_env_PATH"
    )
    chosen = Page(labels=Labels(only=frozenset({"com.docker.compose.service"}))).text(snapshot)
    assert (samples.WEB, "shop", "") in series(chosen, rss, "id", service, "container_label_secret")
    assert (samples.POD, "", "") in series(chosen, rss, "id", service, "container_label_secret")


def test_openmetrics_is_strictly_that() -> None:
    text = Page(FULL, timestamps=True).whole(samples.snapshot(), openmetrics=True).decode()
    families = {family.name: family for family in openmetrics_families(text)}  # type: ignore[no-untyped-call]
    assert families["container_cpu_usage_seconds"].type == "counter"
    assert families["container_memory_failcnt"].type == "unknown"
    assert families["container_memory_rss"].samples[0].timestamp == Timestamp(1234, 500_000_000)
    assert text.endswith("\n# EOF\n")


def test_times_are_optional_and_not_on_what_lasts() -> None:
    lines = Page(FULL, timestamps=True).text(samples.snapshot()).decode().splitlines()
    assert next(line for line in lines if line.startswith("container_memory_rss{")).endswith(" 5242880 1234500")
    assert next(line for line in lines if line.startswith("container_spec_cpu_shares{")).endswith('"} 102')
    assert b" 1234500\n" not in Page(FULL).text(samples.snapshot())


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4", False),
        ("application/openmetrics-text", True),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            True,
        ),
        ("text/plain, application/openmetrics-text;q=0.3", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=lots", False),
        (";;,,q=;", False),
    ],
)
def test_who_wants_openmetrics(accept: str, wanted: bool) -> None:
    assert exposition.openmetrics(accept) is wanted
    assert exposition.content_type(wanted).startswith("application/openmetrics-text" if wanted else "text/plain")


def test_a_snapshot_is_rendered_once_and_the_next_one_anew() -> None:
    page, first = Page(FULL), samples.snapshot()
    bodies: list[bytes] = []
    threads = [threading.Thread(target=lambda: bodies.append(page.text(first))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(body) for body in bodies}) == 1
    limits = msgspec.structs.replace(samples.USAGE.limits, memory_bytes=1)
    usage = msgspec.structs.replace(samples.USAGE, limits=limits)
    second = page.text(other(first, 4, usage=usage))
    assert series(second, "container_spec_memory_limit_bytes", "id")[(samples.WEB,)] == 1
    assert series(second, "container_spec_memory_limit_bytes", "id")[(samples.LONE,)] == 67_108_864
    assert page.text(first) == bodies[0]


def test_a_container_that_went_leaves_no_row_and_nothing_kept() -> None:
    page = Page(FULL)
    whole = samples.snapshot()
    assert samples.LONE.encode() in page.text(whole)
    values = {name: getattr(whole, name) for name in Snapshot.__slots__}
    fewer = Snapshot(**{**values, "samples": whole.samples[:-1]})
    assert samples.LONE.encode() not in page.text(fewer)
    assert samples.LONE.encode() not in page.text(other(fewer, 0, started=1.0))
    assert len(page._prefixes._new) == len(page._prefixes._old) == 5


def test_an_error_is_said() -> None:
    assert b"container_scrape_error 0\n" in Page().text(samples.snapshot())
    assert b"container_scrape_error 1\n" in Page().text(samples.snapshot(failed=True))


def test_promtool_objects_to_upstreams_names_only() -> None:
    requires("promtool")

    def said(page: Page) -> set[str]:
        text = page.text(samples.snapshot())
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
        return set(done.stderr.decode().split("\n")) - {""}

    assert said(Page()) == set()
    assert said(Page(FULL)) == {
        "cadvisor_version_info label names should be written in 'snake_case' not 'camelCase'",
        'container_fs_inodes_total non-counter metrics should not have "_total" suffix',
        'container_memory_failcnt counter metrics should have "_total" suffix',
    }
    clean = ["cadvisor_version_info", "container_fs_inodes_total", "container_memory_failcnt"]
    assert said(Page(select(["full"], deny=clean))) == set()


@given(st.dictionaries(st.text(min_size=1), st.text()), st.text())
@settings(max_examples=25, deadline=None)
def test_any_label_and_any_value_can_be_read_again(own: dict[str, str], name: str) -> None:
    who = msgspec.structs.replace(samples.WHO, labels=own)
    snapshot = other(samples.snapshot(), 4, labels=samples.labels(samples.WEB, name), identity=who)
    text = Page(labels=Labels(store=True)).whole(snapshot, openmetrics=True).decode()
    rss = next(family for family in openmetrics_families(text) if family.name == "container_memory_rss")  # type: ignore[no-untyped-call]
    found = next(one.labels for one in rss.samples if one.labels["id"] == samples.WEB)
    assert found["name"] == name
    labels = {key: value for key, value in found.items() if key.startswith("container_label_")}
    assert set(labels.values()) <= set(own.values())
    assert len(labels) == len({re.sub("[^a-zA-Z0-9_]", "_", key) for key in own})
