"""What the machine is asked, on this machine."""

import socket
from pathlib import Path

import pytest

from kubelet.nodestatus import machine
from kubelet.nodestatus.machine import Pressure


def test_thresholds_nobody_crosses_and_some_that_everybody_does(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert machine.pressure({}, root, root) == Pressure()
    calm = {"memory.available": "1Ki", "nodefs.available": "0%", "pid.available": "1", "imagefs.available": "0%"}
    assert machine.pressure(calm, root, root) == Pressure()
    pressed = {"memory.available": "100%", "nodefs.available": "100%", "pid.available": "100%"}
    assert machine.pressure(pressed, root, root) == Pressure(memory=True, disk=True, pids=True)


def test_images_count_only_on_a_filesystem_of_their_own(tmp_path: Path) -> None:
    only = {"imagefs.available": "100%"}
    assert machine.pressure(only, str(tmp_path), str(tmp_path)) == Pressure()
    assert machine.pressure(only, str(tmp_path), "/dev/shm") == Pressure(disk=True)
    assert machine.pressure(only, str(tmp_path), "/does/not/exist") == Pressure()


def test_this_machine_is_something(tmp_path: Path) -> None:
    found = machine.machine(str(tmp_path))
    assert found.cpus > 0
    assert found.memory > 1 << 20
    assert found.storage > 1 << 20
    assert found.boot_id
    assert found.kernel


def test_the_address_is_not_loopback_where_there_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {"127.0.0.1": "127.0.0.1", "192.0.2.1": "10.1.2.3", "2001:db8::1": ""}
    monkeypatch.setattr(machine, "_own_end", lambda host, _port: ends.get(host, ""))
    assert machine.addresses_towards("https://127.0.0.1:6443") == ("10.1.2.3",)
    assert machine.addresses_towards("https://unknown.example:6443") == ("10.1.2.3",)
    ends["192.0.2.1"] = ""
    assert machine.addresses_towards("https://127.0.0.1:6443") == ("127.0.0.1",)
    assert machine.addresses_towards("https://unknown.example:6443") == ()


def test_no_packet_is_needed_for_an_address() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        assert machine._own_end("127.0.0.1", listening.getsockname()[1]) == "127.0.0.1"
    assert machine._own_end("256.1.1.1.1", 1) == ""
