"""Which families a page has, by flags; and what a wrong word is told."""

import pytest

from kube.errors import UsageError
from metrics.families import MIXIN
from metrics.model import Part
from metrics.selection import Selection, select


def names(selection: Selection) -> set[str]:
    return {one.name for one in selection.families} | {one.name for one in selection.machine}


def test_a_pattern_adds_to_the_mixins_families() -> None:
    more = names(select(["mixin", "container_oom_events_total", "container_pressure_*"])) - names(select())
    assert len(more) == 7
    assert "container_oom_events_total" in more


def test_patterns_alone_are_only_those() -> None:
    cpu = select(["container_cpu_*"])
    assert {name.split("_")[1] for name in names(cpu)} == {"cpu", "scrape"}
    assert cpu.parts == {Part.CPU, Part.CPU_SPLIT}


def test_what_is_denied_is_gone_and_not_read() -> None:
    selection = select(["full"], deny=["container_pressure_*", "container_tasks_state", "container_scrape_error"])
    assert {name for name in names(select(["full"])) if "pressure" in name} == names(select(["full"])) - names(
        selection
    ) - {"container_scrape_error"}
    assert Part.PRESSURE not in selection.parts
    assert Part.PRESSURE in select(["full"]).parts


def test_disabled_groups_are_taken_away() -> None:
    selection = select(disable=["diskIO", "tcp", "cpuset"])
    assert names(select()) - names(selection) == {name for name in MIXIN if name.startswith("container_fs_")}
    assert Part.IO not in selection.parts


def test_enabled_groups_are_exactly_those_and_what_has_no_group() -> None:
    selection = select(enable=["pressure"], disable=["pressure"])
    assert {one.group for one in selection.families} == {"pressure", ""}
    assert selection.parts == {Part.PRESSURE}
    assert "container_spec_memory_limit_bytes" in names(selection)


def test_the_mixins_page_reads_what_it_needs() -> None:
    assert select().parts == {Part.CPU, Part.MEMORY, Part.IO, Part.NETWORK}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"metrics": ["fulll"]}, "--metrics: no family is called 'fulll'; did you mean full?"),
        ({"metrics": ["container_memory_rsss"]}, "did you mean container_memory_rss?"),
        ({"metrics": ["node_*"]}, "--metrics: no family is called 'node_*'; docs/metrics.md lists them"),
        ({"metrics": ["container_hugetlb_*"]}, "container_hugetlb_failcnt is cAdvisor's and not collected here"),
        ({"deny": ["nothing_*"]}, "--deny_metrics: no family is called 'nothing_*'"),
        ({"disable": ["diskio"]}, "--disable_metrics: 'diskio' is not a group of metrics; take it out, or choose"),
        ({"enable": ["sched"]}, "--enable_metrics: 'sched' is not collected; take it out, or choose from cpu, "),
        ({"enable": ["cpu"], "metrics": ["full"]}, "--metrics and --enable_metrics both say what there is"),
        ({"metrics": ["container_scrape_error"], "deny": ["*"]}, "leave nothing"),
    ],
)
def test_a_wrong_word_is_told_so(flags: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        select(**flags)
    assert message in str(refused.value)
