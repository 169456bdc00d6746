"""The whole daemon pushes to a real InfluxDB (Debian's), and the database has what was written."""

import json
import os
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metrics.influx import Batch, escaped
from tests.node.host import until
from tests.ports import free_ports
from tests.requirements import requires

STRANGE = ("a b,c=d", r"dev-disk\x2duuid.mount", 'say "hello"', "ünï", "ends\\", "a\\,b", "two\nlines")


class Influx:
    def __init__(self, port: int) -> None:
        self.host = f"127.0.0.1:{port}"

    def ask(self, statement: str) -> list[dict[str, Any]]:
        """The series of an answer; none while nobody answers."""
        words = urllib.parse.urlencode({"q": statement, "db": "pods"}).encode()
        try:
            with urllib.request.urlopen(f"http://{self.host}/query", data=words, timeout=5) as answer:
                found: list[dict[str, Any]] = json.load(answer)["results"][0].get("series", [])
        except OSError:
            return []
        return found

    def write(self, batch: Batch) -> None:
        request = urllib.request.Request(f"http://{self.host}/write?db=pods", data=batch.body)
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.status == 204


@pytest.fixture(scope="module")
def influxd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    requires("root", "influxd")
    home: Path = tmp_path_factory.mktemp("influxd")
    http, rpc = free_ports(2)
    words = {
        "META_DIR": home / "meta",
        "DATA_DIR": home / "data",
        "DATA_WAL_DIR": home / "wal",
        "HTTP_BIND_ADDRESS": f"127.0.0.1:{http}",
        "BIND_ADDRESS": f"127.0.0.1:{rpc}",
        "REPORTING_DISABLED": "true",
        "MONITOR_STORE_ENABLED": "false",
        "HTTP_LOG_ENABLED": "false",
    }
    environment = {**os.environ, **{f"INFLUXDB_{name}": str(value) for name, value in words.items()}}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(["influxd", "-config", os.devnull], env=environment, stdout=log, stderr=log)
    made = Influx(http)
    try:
        until(lambda: made.ask("SHOW DATABASES"), "InfluxDB does not answer")
        made.ask('CREATE DATABASE "pods"')
        yield made
    finally:
        process.terminate()
        process.wait(20)


def test_it_reads_every_tag_as_it_was(influxd: Influx) -> None:
    lines = [f"strange,name={escaped(name)} value={at}i {at + 1}\n" for at, name in enumerate(STRANGE)]
    influxd.write(Batch("".join(lines).encode(), len(lines)))
    rows = influxd.ask('SELECT value, "name" FROM strange')[0]["values"]
    assert [row[2] for row in rows] == [*STRANGE[:4], "ends/", "a/,b", "two lines"]
    assert [row[1] for row in rows] == list(range(len(STRANGE)))


def test_the_daemon_pushes(influxd: Influx, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "metrics", f"--port={port}", "--listen_ip=127.0.0.1", "--node-name=m1", "--docker="]
    argv += ["--storage_driver=influxdb", f"--storage_driver_host={influxd.host}", "--storage_driver_db=pods"]
    argv += ["--storage_driver_buffer_duration=500ms", "--housekeeping_interval=200ms", "--containerd=", "--crio="]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    root = "WHERE container_name = '/' AND machine = 'm1'"
    try:
        begun = time.time()
        until(lambda: influxd.ask(f"SELECT value FROM cpu_usage_total {root} LIMIT 3"), (tmp_path / "log").read_text)
        points = influxd.ask(f"SELECT value FROM memory_usage {root}")[0]["values"]
        assert all(row[1] > 0 for row in points)
        newest = influxd.ask(f"SELECT last(value) FROM memory_usage {root} AND time > {int(begun * 1e9) - 10**9}")
        assert newest, "the time of a point is not that of its reading"
        (measurements,) = influxd.ask("SHOW MEASUREMENTS")
        names = {row[0] for row in measurements["values"]}
        assert {"cpu_usage_total", "memory_usage", "memory_working_set", "rx_bytes", "tx_bytes", "fs_usage"} <= names
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        assert 'wherry_metrics_influxdb_points_total{result="refused"} 0.0' in page
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/configz", timeout=10) as answer:
            assert json.load(answer)["storageDriverPassword"] == "..."
    finally:
        process.terminate()
        assert process.wait(20) == 0, (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--storage_driver=kafka"], "--storage_driver: 'kafka' is not written to; say influxdb"),
        (["--storage_driver=influxdb", "--storage_driver_host=http://x"], "--storage_driver_host: 'http://x' is not"),
        (["--storage_driver=influxdb", "--storage_driver_buffer_duration=2h"], "is not between 100ms and 1h"),
    ],
)
def test_what_cannot_be_pushed_to_is_said_at_the_door(words: list[str], said: str) -> None:
    argv = [sys.executable, "-m", "metrics", "--port=0", "--docker=", "--containerd=", "--crio=", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
