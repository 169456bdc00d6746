"""The dialects of remotecommand, byte by byte."""

import json

import pytest

from kubelet.streams.remotecommand import end_of, failure_of
from kubelet.streams.websocket import PROTOCOLS, Dialect


@pytest.mark.parametrize("name", ["", *PROTOCOLS])
@pytest.mark.parametrize("data", [b"", b"hello", bytes(range(256))])
def test_what_is_encoded_is_decoded(name: str, data: bytes) -> None:
    dialect = Dialect(name)
    assert dialect.decode(dialect.encode(1, data)) == (1, data)


def test_on_the_wire() -> None:
    assert Dialect("v4.channel.k8s.io").encode(2, b"x") == b"\x02x"
    assert Dialect("base64.channel.k8s.io").encode(1, b"hi") == "1aGk="
    assert Dialect("v4.base64.channel.k8s.io").decode("0aGk=") == (0, b"hi")
    assert Dialect("v4.base64.channel.k8s.io").decode("0!") is None
    assert Dialect("").decode(b"") is None


def test_what_each_dialect_can() -> None:
    abilities = {
        name: (Dialect(name).base64, Dialect(name).status, Dialect(name).half_close) for name in ("", *PROTOCOLS)
    }
    assert abilities == {
        "": (False, False, False),
        "v5.channel.k8s.io": (False, True, True),
        "v4.channel.k8s.io": (False, True, False),
        "v4.base64.channel.k8s.io": (True, True, False),
        "channel.k8s.io": (False, False, False),
        "base64.channel.k8s.io": (True, False, False),
    }


def test_the_end_as_a_status() -> None:
    assert end_of(0) == {"metadata": {}, "status": "Success"}
    failed = end_of(3)
    assert (failed["status"], failed["reason"]) == ("Failure", "NonZeroExitCode")
    assert failed["details"] == {"causes": [{"reason": "ExitCode", "message": "3"}]}
    assert json.loads(json.dumps(failure_of("no")))["reason"] == "InternalError"
