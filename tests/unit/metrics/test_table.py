"""The families and their labels, as cAdvisor's users have them in their dashboards and rules: the list that may not drift.

A line is a family: its name, C(ounter) or G(auge), the group that cAdvisor's --disable_metrics calls it, and the labels
beside the six that every container's series carries (machine's have three of their own). `*` marks kubernetes-mixin's.
"""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from metrics.exposition import FULL, MIXIN, Page
from metrics.selection import ABSENT, ALL, COLLECTED, GROUPS
from tests.unit.metrics import samples

SIX = {"container", "id", "image", "name", "namespace", "pod"}
MACHINES = {"boot_id", "machine_id", "system_uuid"}

CONTAINERS = """
blkio_device_usage_total                  C diskIO    device major minor operation
cpu_cfs_burst_periods_total               C cpu
cpu_cfs_burst_seconds_total               C cpu
cpu_cfs_periods_total                   * C cpu
cpu_cfs_throttled_periods_total         * C cpu
cpu_cfs_throttled_seconds_total           C cpu
cpu_system_seconds_total                  C cpu
cpu_usage_seconds_total                 * C cpu       cpu
cpu_user_seconds_total                    C cpu
file_descriptors                          G process
fs_inodes_free                            G disk      device
fs_inodes_total                           G disk      device
fs_io_current                             G diskIO    device
fs_io_time_seconds_total                  C diskIO    device
fs_io_time_weighted_seconds_total         C diskIO    device
fs_limit_bytes                            G disk      device
fs_read_seconds_total                     C diskIO    device
fs_reads_bytes_total                    * C diskIO    device
fs_reads_merged_total                     C diskIO    device
fs_reads_total                          * C diskIO    device
fs_sector_reads_total                     C diskIO    device
fs_sector_writes_total                    C diskIO    device
fs_usage_bytes                            G disk      device
fs_write_seconds_total                    C diskIO    device
fs_writes_bytes_total                   * C diskIO    device
fs_writes_merged_total                    C diskIO    device
fs_writes_total                         * C diskIO    device
health_state                              G -
last_seen                                 G -
memory_cache                            * G memory
memory_failcnt                            C memory
memory_failures_total                     C memory    failure_type scope
memory_kernel_usage                       G memory
memory_mapped_file                        G memory
memory_max_usage_bytes                    G memory
memory_rss                              * G memory
memory_swap                             * G memory
memory_total_active_file_bytes            G memory
memory_total_inactive_file_bytes          G memory
memory_usage_bytes                      * G memory
memory_working_set_bytes                * G memory
network_receive_bytes_total             * C network   interface
network_receive_errors_total              C network   interface
network_receive_packets_dropped_total   * C network   interface
network_receive_packets_total           * C network   interface
network_transmit_bytes_total            * C network   interface
network_transmit_errors_total             C network   interface
network_transmit_packets_dropped_total  * C network   interface
network_transmit_packets_total          * C network   interface
oom_events_total                          C oom_event
pressure_cpu_stalled_seconds_total        C pressure
pressure_cpu_waiting_seconds_total        C pressure
pressure_io_stalled_seconds_total         C pressure
pressure_io_waiting_seconds_total         C pressure
pressure_memory_stalled_seconds_total     C pressure
pressure_memory_waiting_seconds_total     C pressure
processes                                 G process
sockets                                   G process
spec_cpu_period                           G -
spec_cpu_quota                            G -
spec_cpu_shares                           G -
spec_memory_limit_bytes                   G -
spec_memory_reservation_limit_bytes       G -
spec_memory_swap_limit_bytes              G -
start_time_seconds                        G -
threads                                   G process
threads_max                               G process
ulimits_soft                              G process   ulimit
"""
OTHERS = """
cadvisor_version_info               G -            cadvisorRevision cadvisorVersion dockerVersion kernelVersion osVersion
container_scrape_error              G -
machine_cpu_cores                   G -            boot_id machine_id system_uuid
machine_cpu_physical_cores          G -            boot_id machine_id system_uuid
machine_cpu_sockets                 G -            boot_id machine_id system_uuid
machine_memory_bytes                G -            boot_id machine_id system_uuid
machine_node_memory_capacity_bytes  G cpu_topology boot_id machine_id system_uuid node_id
machine_scrape_error                G -
machine_swap_bytes                  G -            boot_id machine_id system_uuid
"""
OURS = """
machine_load_average                G -            boot_id machine_id system_uuid window
"""
"""What cAdvisor has not."""
_LINE = re.compile(r"(\S+) +(\* )?([CG]) (\S+) *(.*)")
_KINDS = {"C": "counter", "G": "gauge"}

Row = tuple[str, str, str, frozenset[str], bool]


def rows(table: str, prefix: str, common: set[str]) -> list[Row]:
    """Name, kind, group, labels, whether it is the mixin's."""
    found = []
    for line in table.strip().splitlines():
        match = _LINE.fullmatch(line)
        assert match, line
        name, mark, kind, group, labels = match.groups()
        labels = frozenset(labels.split()) | common
        found.append((prefix + name, _KINDS[kind], "" if group == "-" else group, labels, bool(mark)))
    return found


TABLE = [*rows(CONTAINERS, "container_", SIX), *rows(OTHERS + OURS.lstrip(), "", set())]


def shown(page: Page) -> dict[str, tuple[str, frozenset[str]]]:
    """Kind and labels of each family of a page; each of its series has the same label names."""
    text = page.text(samples.snapshot()).decode()
    kinds = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE"))
    labels: dict[str, frozenset[str]] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            name = one.name if one.name in kinds else one.name.removesuffix("_total")  # which the parser adds
            assert labels.setdefault(name, frozenset(one.labels)) == frozenset(one.labels), one
    return {name: (kinds[name], found) for name, found in labels.items()}


def test_the_code_has_the_tables_families() -> None:
    ours = [(one.name, one.kind, one.group) for one in ALL]
    assert sorted(ours) == sorted((name, kind, group) for name, kind, group, _, _ in TABLE)
    assert len({one[0] for one in ours}) == len(ours)


def test_a_full_page_has_each_with_its_labels() -> None:
    assert shown(Page(FULL)) == {name: (kind, labels) for name, kind, _, labels, _ in TABLE}


def test_the_default_page_has_the_mixins_and_the_machine() -> None:
    mixin = {name for name, _, _, _, mixin in TABLE if mixin}
    assert len(mixin) == 18
    others = {"container_scrape_error", "machine_cpu_cores", "machine_cpu_physical_cores", "machine_cpu_sockets"}
    assert set(shown(Page())) == mixin | others | {"machine_memory_bytes", "machine_swap_bytes"}
    assert Page().parts == MIXIN.parts


def test_help_is_one_line_that_needs_no_escape() -> None:
    for one in ALL:
        assert one.help, one.name
        assert not set(one.help) & set("\n\\"), one.name


def test_what_is_not_collected_is_not_what_is() -> None:
    assert not {name for name, *_ in TABLE} & set(ABSENT)
    assert {group for _, _, group, _, _ in TABLE if group} == COLLECTED < GROUPS


def test_the_documentation_has_each() -> None:
    text = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    for name, kind, group, labels, mixin in rows(CONTAINERS, "", set()):
        mark = " *" if mixin else ""
        extra = set(labels)
        row = next(
            (line for line in text.splitlines() if line.startswith(f"| `{name}`{mark} | {kind[0].upper()} | ")), ""
        )
        assert row, name
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert (cells[2], set(cells[3].split())) == (group, extra), name
    for name, *_ in rows(OTHERS + OURS.lstrip(), "", set()):
        assert f"`{name}`" in text, name
