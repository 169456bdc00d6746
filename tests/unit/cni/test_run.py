"""One call from bytes to bytes: versions, the codes of the door, and what is answered in which version."""

import json
from pathlib import Path
from typing import Any

import pytest

from cni import run
from cni.plugins import NAMES
from tests.unit.cni.test_call import ENVIRONMENT

LEAST = {"cniVersion": "1.0.0", "name": "pods", "type": "wherry-cni"}


def called(command: str, config: object, kind: str = "wherry-cni", **variables: str) -> tuple[dict[str, Any], int]:
    data = config if isinstance(config, bytes) else json.dumps(config).encode()
    said, status = run.answer(kind, {**ENVIRONMENT, "CNI_COMMAND": command, **variables}, data)
    return (json.loads(said) if said else {}), status


@pytest.mark.parametrize("kind", NAMES)
def test_every_name_says_its_versions(kind: str) -> None:
    said, status = called("VERSION", {"cniVersion": "0.4.0"}, kind)
    assert (said["cniVersion"], status) == ("0.4.0", 0)
    assert said["supportedVersions"] == ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    assert called("VERSION", b"", kind)[0]["cniVersion"] == "1.1.0", "libcni once sent nothing"


@pytest.mark.parametrize(
    ("command", "keys", "code", "says"),
    [
        (
            "ADD",
            {"cniVersion": "9.9.9"},
            1,
            'cniVersion "9.9.9" is not supported: use 0.3.0, 0.3.1, 0.4.0, 1.0.0 or 1.1.0',
        ),
        ("ADD", {"cniVersion": None}, 1, "cniVersion null is not supported"),
        ("CHECK", {"cniVersion": "0.3.1"}, 1, "CHECK came with cniVersion 0.4.0; the network is at 0.3.1"),
        ("STATUS", {}, 1, "STATUS came with cniVersion 1.1.0; the network is at 1.0.0"),
        ("GC", {}, 1, "GC came with cniVersion 1.1.0"),
        ("ADD", {"name": ""}, 7, 'name "" must be letters'),
        ("DEL", {"name": "../x"}, 7, 'name "../x" must be letters'),
        ("add", {}, 4, "CNI_COMMAND must be"),
    ],
)
def test_the_door_refuses_with_a_code(command: str, keys: dict[str, object], code: int, says: str) -> None:
    said, status = called(command, {**LEAST, **keys})
    assert status == 1
    assert said["code"] == code
    assert says in said["msg"]


@pytest.mark.parametrize("keys", [{}, {"cniVersion": ""}, {"cniVersion": "0.1.0"}, {"cniVersion": "0.2.0"}])
@pytest.mark.parametrize("kind", ["portmap", "host-local"])
def test_what_was_attached_at_a_version_before_ours_is_removed_all_the_same(
    tmp_path: Path, kind: str, keys: dict[str, object]
) -> None:
    """By the reference plugins, that is. Nothing else is done at such a version."""
    held = tmp_path / "pods" / "10.1.1.2"
    held.parent.mkdir()
    held.write_text("c0ffee\r\neth0")
    ipam = {"type": "host-local", "dataDir": str(tmp_path), "subnet": "10.1.1.0/24"}
    config = {"name": "pods", "type": kind, "ipam": ipam, "prevResult": {"ip4": {"ip": "10.1.1.2/24"}}, **keys}
    assert called("DEL", config, kind, CNI_CONTAINERID="c0ffee") == ({}, 0)
    assert held.exists() == (kind == "portmap")
    assert called("ADD", config, kind)[0]["code"] == 1
    assert called("DEL", {**config, "cniVersion": "0.0.1"}, kind)[0]["code"] == 1


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"x"', b'{"name": "a", "name": "b"}'])
def test_what_is_no_object_is_undecodable(data: bytes) -> None:
    said, status = called("ADD", data)
    assert (said["code"], status) == (6, 1)


def test_what_is_nested_too_deeply_is_undecodable() -> None:
    for depth in (700, 100_000):
        data = json.dumps({**LEAST, "strange": 0}).replace('"strange": 0', '"strange": ' + "[" * depth + "]" * depth)
        said, status = called("ADD", data.encode())
        assert (said["code"], status) == (6, 1), depth
        assert "nested too deeply" in said["msg"]


def test_a_complaint_is_spelt_in_the_callers_version() -> None:
    assert called("ADD", {**LEAST, "cniVersion": "0.4.0"}, CNI_IFNAME="")[0]["cniVersion"] == "0.4.0"
    assert called("ADD", {**LEAST, "cniVersion": "7"}, CNI_IFNAME="")[0]["cniVersion"] == "1.1.0"


def test_a_name_that_is_no_plugin_is_refused() -> None:
    said, status = called("ADD", LEAST, "ptp")
    assert (said["code"], status) == (4, 1)
    assert "'ptp' is no plugin" in said["msg"]


def test_ones_own_namespace_is_no_containers() -> None:
    said, _ = called("ADD", LEAST, CNI_NETNS="/proc/self/ns/net")
    assert said["code"] == 8


def test_a_bug_is_told_to_the_runtime(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("cni.plugins.wherry.delete", broken)
    said, status = called("DEL", LEAST)
    assert (said["code"], status) == (999, 1)
    assert "ZeroDivisionError" in said["msg"]
    assert "Traceback" in capfd.readouterr().err
