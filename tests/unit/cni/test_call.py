"""The door: what a runtime may hand over in variables, and one sentence with a code for everything else."""

from collections.abc import Mapping

import pytest

from cni.call import parse_call
from cni.spec import CniError

ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/wherry/cni/bin:/usr/lib/cni",
}


def test_a_call_is_read() -> None:
    call = parse_call({**ENVIRONMENT, "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web;X=y", "OTHER": "stays"})
    assert (call.command, call.container, call.ifname, call.netns) == ("ADD", "c0ffee", "eth0", "/run/netns/x")
    assert call.path == ("/opt/wherry/cni/bin", "/usr/lib/cni")
    assert call.args == {"IgnoreUnknown": "1", "K8S_POD_NAME": "web", "X": "y"}
    assert call.environment["OTHER"] == "stays", "a delegate inherits everything"
    assert not call.may_be_home


def test_a_failed_adds_delegate_is_asked_to_delete() -> None:
    asked = parse_call(ENVIRONMENT).asking("DEL")
    assert (asked.command, asked.environment["CNI_COMMAND"], asked.container) == ("DEL", "DEL", "c0ffee")


@pytest.mark.parametrize(
    ("command", "needless"),
    [("DEL", ["CNI_NETNS"]), ("GC", ["CNI_NETNS", "CNI_CONTAINERID", "CNI_IFNAME"])],
)
def test_a_command_needs_no_more_than_it_must(command: str, needless: list[str]) -> None:
    left = {key: value for key, value in ENVIRONMENT.items() if key not in needless}
    assert parse_call({**left, "CNI_COMMAND": command}).netns == ""


def test_arguments_keep_nobody_from_going() -> None:
    assert parse_call({**ENVIRONMENT, "CNI_COMMAND": "DEL", "CNI_ARGS": "X=y;nonsense"}).args == {}


@pytest.mark.parametrize("value", ["1", "true", "T"])
def test_ones_own_namespace_can_be_allowed(value: str) -> None:
    assert parse_call({**ENVIRONMENT, "CNI_NETNS_OVERRIDE": value}).may_be_home


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"CNI_COMMAND": "add"}, "CNI_COMMAND must be ADD, DEL, CHECK, STATUS, GC or VERSION, not 'add'"),
        ({"CNI_NETNS": ""}, "ADD needs the environment variable CNI_NETNS"),
        ({"CNI_NETNS": "", "CNI_PATH": ""}, "CNI_NETNS, CNI_PATH"),
        ({"CNI_COMMAND": "DEL", "CNI_CONTAINERID": ""}, "DEL needs the environment variable CNI_CONTAINERID"),
        ({"CNI_COMMAND": "STATUS", "CNI_PATH": ""}, "STATUS needs the environment variable CNI_PATH"),
        ({"CNI_CONTAINERID": "../etc"}, "CNI_CONTAINERID must be letters"),
        ({"CNI_CONTAINERID": "a\n"}, "CNI_CONTAINERID must be letters"),
        ({"CNI_IFNAME": "a" * 16}, "CNI_IFNAME must name an interface in at most 15 bytes"),
        ({"CNI_IFNAME": ".."}, "CNI_IFNAME"),
        ({"CNI_IFNAME": "a/b"}, "CNI_IFNAME"),
        ({"CNI_IFNAME": "eth 0"}, "CNI_IFNAME"),
        ({"CNI_ARGS": "X=y"}, "nobody here knows X: remove it, or add IgnoreUnknown=1"),
        ({"CNI_ARGS": "IP"}, "must be KEY=VALUE pairs"),
    ],
)
def test_a_bad_variable_is_named(variables: Mapping[str, str], says: str) -> None:
    with pytest.raises(CniError, match=says) as refused:
        parse_call({**ENVIRONMENT, **variables})
    assert refused.value.code == 4
