"""Health checks in upstream's format."""

from __future__ import annotations

import asyncio

from apiserver import health
from apiserver.health import Report

CHECKS = {
    "ping": health.plain(lambda: None),
    "etcd": health.plain(lambda: "connection refused"),
    "shutdown": health.plain(lambda: None),
}


def asked(query: str, *without: str) -> Report:
    checks = {name: check for name, check in CHECKS.items() if name not in without}
    return asyncio.run(health.report("readyz", checks, query))


def test_ok_is_all_there_is_to_say() -> None:
    assert asked("", "etcd") == Report(True, "ok")


def test_verbose() -> None:
    assert asked("verbose", "etcd") == Report(True, "[+]ping ok\n[+]shutdown ok\nreadyz check passed\n")


def test_a_failure_is_always_verbose_and_keeps_the_reason() -> None:
    text = "[+]ping ok\n[-]etcd failed: reason withheld\n[+]shutdown ok\nreadyz check failed\n"
    assert asked("") == Report(False, text, ("etcd: connection refused",))


def test_checks_are_left_out() -> None:
    assert asked("exclude=etcd") == Report(True, "ok")
    text = "[+]ping ok\n[+]etcd excluded: ok\n[+]shutdown excluded: ok\n"
    warning = 'warn: some health checks cannot be excluded: no matches for "x"\n'
    assert asked("verbose&exclude=etcd&exclude=shutdown,x").text == f"{text}{warning}readyz check passed\n"


def test_one_check() -> None:
    assert asyncio.run(health.single(CHECKS["ping"])) == Report(True, "ok")
    found = asyncio.run(health.single(CHECKS["etcd"]))
    assert found == Report(False, "internal server error: connection refused\n")
