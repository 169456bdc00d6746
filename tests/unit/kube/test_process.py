"""A daemon as a process: signals, exit statuses, one line or a traceback, what its supervisor hears."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import asyncio, sys
from kube import process
from kube.errors import Retry, UsageError

async def run(config, ready):
    match config:
        case "usage":
            async with asyncio.TaskGroup() as group:
                async def bad():
                    raise UsageError("--port: taken")
                group.create_task(bad())
                await asyncio.sleep(60)
        case "retry":
            raise Retry("the API server is away")
        case "bug":
            raise KeyError("a bug")
        case "port":
            from kube import serving
            async with serving.serve("127.0.0.1", 99999, {}, flag="--port"):
                pass
        case "return":
            return
    ready()
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaned up", flush=True)

sys.exit(process.main(run, sys.argv[1], name="daemon"))
"""


@pytest.mark.parametrize(
    ("what", "status", "words", "traceback"),
    [
        ("usage", 2, "daemon: --port: taken\n", False),
        ("port", 2, "daemon: --port: 99999 is not a port", False),
        ("retry", 1, "daemon: the API server is away\n", False),
        ("bug", 1, "this is a bug", True),
        ("return", 0, "", False),
    ],
)
def test_ends(what: str, status: int, words: str, traceback: bool) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, what], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (status, traceback), done.stderr
    assert words in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_cleans_up_and_the_supervisor_hears_of_it(tmp_path: Path, number: signal.Signals) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(str(tmp_path / "notify"))
        inbox.settimeout(30)
        env = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
        with subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "wait"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            heard = {inbox.recv(100) for _ in range(5)}
            assert heard == {b"READY=1", b"WATCHDOG=1"}
            process.send_signal(number)
            while inbox.recv(100) != b"STOPPING=1":
                pass
            out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert out == b"cleaned up\n"
