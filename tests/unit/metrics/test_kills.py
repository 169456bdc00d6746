"""Whose the OOM killer's victims were, by lines of the kernel's log."""

from pathlib import Path

from metrics.kills import Kills


def line(group: str) -> str:
    return (
        "6,1234,567890,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
        f"oom_memcg=/kubepods,task_memcg={group},task=java,pid=77,uid=0\n"
    )


def test_victims_count_for_their_group_and_those_above(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text(line("/kubepods/pod1/old"))
    kills = Kills(str(log))
    assert kills.below() == {}  # before our time
    with log.open("a") as more:
        more.write(
            "6,1,2,-;eth0: link up\n SUBSYSTEM=net\n" + line("/kubepods/pod1/a") + line("/kubepods/pod1/b") + line("/")
        )
    assert kills.below() == {"/": 3, "/kubepods": 2, "/kubepods/pod1": 2, "/kubepods/pod1/a": 1, "/kubepods/pod1/b": 1}
    with log.open("a") as more:
        more.write("6,1,2,-;somebody said oom-kill:task_memcg=/x,task=y\n" + line("/kubepods/pod1/a"))
    assert kills.below()["/kubepods/pod1/a"] == 2
    kills.close()
    assert kills.below()["/"] == 4


def test_a_log_that_may_not_be_read_counts_nothing(tmp_path: Path) -> None:
    kills = Kills(f"{tmp_path}/none")
    assert kills.below() == {}
    kills.close()
