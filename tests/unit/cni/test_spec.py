"""Networks, results and errors, as a runtime and a plugin exchange them."""

import json
from typing import Any

import pytest

from cni import spec
from cni.spec import Address, CniError, Interface, Result, Route

RESULT = Result(
    [Interface("cni0", "0a:58:0a:01:01:01"), Interface("eth0", "0a:58:0a:01:01:02", "/run/netns/x")],
    [Address("10.1.1.2/24", "10.1.1.1", 1), Address("fd00::2/64", "", 1)],
    [Route("0.0.0.0/0", "10.1.1.1"), Route("10.0.0.0/8")],
    {"nameservers": ["10.96.0.10"]},
)


def test_a_result_in_the_newest_version() -> None:
    assert RESULT.as_json("1.0.0") == {
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "cni0", "mac": "0a:58:0a:01:01:01"},
            {"name": "eth0", "mac": "0a:58:0a:01:01:02", "sandbox": "/run/netns/x"},
        ],
        "ips": [
            {"address": "10.1.1.2/24", "interface": 1, "gateway": "10.1.1.1"},
            {"address": "fd00::2/64", "interface": 1},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.1.1"}, {"dst": "10.0.0.0/8"}],
        "dns": {"nameservers": ["10.96.0.10"]},
    }


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0"])
def test_older_versions_say_each_addresses_family(version: str) -> None:
    said = RESULT.as_json(version)
    assert said["cniVersion"] == version
    assert [each["version"] for each in said["ips"]] == ["4", "6"]  # type: ignore[index, union-attr, call-overload]


@pytest.mark.parametrize("version", spec.VERSIONS)
def test_a_result_reads_back_in_every_version(version: str) -> None:
    found = spec.parse_result(json.dumps(RESULT.as_json(version)).encode())
    assert found.as_json("1.0.0") == RESULT.as_json("1.0.0")
    assert [str(each) for each in found.ips()] == ["10.1.1.2/24", "fd00::2/64"]


def test_addresses_of_the_hosts_links_are_not_the_containers() -> None:
    result = Result([Interface("cni0"), Interface("eth0", sandbox="/x")], [Address("10.0.0.1/24", "", 0)])
    assert result.ips() == ()


def test_an_address_on_a_link_that_is_not_listed_is_the_containers() -> None:
    """A plugin of somebody else's may say so, and the reference hands it on."""
    result = spec.parse_result(b'{"ips": [{"address": "10.0.0.1/24", "interface": 0}]}')
    assert [str(each) for each in result.ips()] == ["10.0.0.1/24"]
    assert result.as_json("1.0.0")["ips"] == [{"address": "10.0.0.1/24", "interface": 0}]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"ips": 1}',
        '{"ips": [{}]}',
        '{"ips": [{"address": "x"}]}',
        '{"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.1/24"}}',
        '{"interfaces": [{"mac": ""}]}',
        '{"routes": ["x"]}',
    ],
)
def test_what_is_no_result_is_said(text: str) -> None:
    with pytest.raises(CniError) as refused:
        spec.parse_result(text.encode())
    assert refused.value.code == spec.UNDECODABLE


def test_an_error_travels() -> None:
    error = CniError(spec.TRY_AGAIN_LATER, "not yet", "because")
    assert error.as_json("0.4.0") == {"cniVersion": "0.4.0", "code": 11, "msg": "not yet", "details": "because"}
    found = spec.parse_error(json.dumps(error.as_json()).encode())
    assert found is not None
    assert str(found) == "not yet (code 11, because)"


@pytest.mark.parametrize("text", [b"", b"panic: runtime error", b'{"code": "x", "msg": "y"}', b'{"code": 1}'])
def test_what_is_no_error_is_none(text: bytes) -> None:
    assert spec.parse_error(text) is None


CONFLIST = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {"type": "wherry-cni", "bridge": "cni0"},
        {"type": "portmap", "capabilities": {"portMappings": True, "bandwidth": False}},
    ],
}


def test_a_list_is_read_and_each_plugin_is_told_its_share() -> None:
    network = spec.parse_network(json.dumps(CONFLIST).encode())
    assert (network.name, network.version, network.check) == ("pods", "1.0.0", True)
    bridge, portmap = network.plugins
    runtime: Any = {"portMappings": [{"hostPort": 80}], "bandwidth": {"ingressRate": 1}}
    assert network.request(bridge, runtime=runtime) == {
        "type": "wherry-cni",
        "bridge": "cni0",
        "name": "pods",
        "cniVersion": "1.0.0",
    }
    assert network.request(portmap, previous={"ips": []}, runtime=runtime) == {
        "type": "portmap",
        "name": "pods",
        "cniVersion": "1.0.0",
        "runtimeConfig": {"portMappings": [{"hostPort": 80}]},
        "prevResult": {"ips": []},
    }


def test_a_single_configuration_is_a_list_of_one() -> None:
    network = spec.parse_network(b'{"cniVersion": "0.3.1", "name": "pods", "type": "bridge", "mtu": 1400}')
    assert [each.type for each in network.plugins] == ["bridge"]
    assert not network.check, "CHECK came with 0.4.0"


def test_check_can_be_switched_off() -> None:
    assert not spec.parse_network(json.dumps({**CONFLIST, "disableCheck": True}).encode()).check


@pytest.mark.parametrize(
    ("but", "says"),
    [
        ({"name": None}, "name must be"),
        ({"name": "a b"}, "name must be"),
        ({"cniVersion": 1}, "cniVersion must be"),
        ({"plugins": []}, "must list at least one plugin"),
        ({"plugins": {}}, "must list at least one plugin"),
        ({"plugins": [{"type": "a"}, {}]}, r"plugins\[1\].type must name a plugin"),
        ({"plugins": [{"type": "../../bin/sh"}]}, r"plugins\[0\].type must name a plugin"),
    ],
)
def test_a_bad_list_is_refused_in_words(but: dict[str, object], says: str) -> None:
    with pytest.raises(CniError, match=says):
        spec.parse_network(json.dumps({**CONFLIST, **but}).encode())


def test_the_six_variables() -> None:
    said = spec.environment("DEL", container="c", ifname="eth0", path="/a:/b")
    assert said == {
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": "c",
        "CNI_NETNS": "",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "",
        "CNI_PATH": "/a:/b",
    }


def test_what_only_the_newest_version_can_say_is_left_out_of_older_ones() -> None:
    result = Result(
        [Interface("eth0", "0a:58:0a:01:01:02", "/run/netns/x", mtu=1450, socket="/s", pci="0000:00:1f.6")],
        [Address("10.1.1.2/24", "10.1.1.1", 0)],
        [Route("10.0.0.0/8", "", {"mtu": 1400, "advmss": 1360, "priority": 0, "table": 100, "scope": 0})],
    )
    new: Any = result.as_json("1.1.0")
    assert new["interfaces"][0] == {
        "name": "eth0",
        "mac": "0a:58:0a:01:01:02",
        "sandbox": "/run/netns/x",
        "mtu": 1450,
        "socketPath": "/s",
        "pciID": "0000:00:1f.6",
    }
    assert new["routes"] == [
        {"dst": "10.0.0.0/8", "mtu": 1400, "advmss": 1360, "priority": 0, "table": 100, "scope": 0}
    ]
    old: Any = result.as_json("1.0.0")
    assert old["interfaces"][0].keys() == {"name", "mac", "sandbox"}
    assert old["routes"] == [{"dst": "10.0.0.0/8"}]
    assert spec.read_result(new).as_json("1.1.0") == new


def test_a_previous_result_of_any_version_is_read() -> None:
    assert spec.previous_result({}) is None
    for version in spec.VERSIONS:
        found = spec.previous_result({"prevResult": RESULT.as_json(version)})
        assert found is not None
        assert found.as_json("1.1.0") == RESULT.as_json("1.1.0")
    with pytest.raises(CniError, match="prevResult must be a JSON object"):
        spec.previous_result({"prevResult": [1]})


@pytest.mark.parametrize(
    ("keys", "version"),
    [
        ({"cniVersions": ["0.4.0", "1.1.0"]}, "1.1.0"),
        ({"cniVersions": ["0.4.0", "9.0.0"]}, "1.0.0"),
        ({"cniVersion": None, "cniVersions": ["0.3.1", "0.4.0"]}, "0.4.0"),
        ({"cniVersion": "9.0.0"}, "9.0.0"),
    ],
)
def test_the_newest_version_that_both_speak_is_taken(keys: dict[str, object], version: str) -> None:
    assert spec.parse_network(json.dumps({**CONFLIST, **keys}).encode()).version == version


def test_a_list_takes_in_the_plugins_beside_it_unless_it_says_otherwise() -> None:
    beside = [b'{"type": "bandwidth"}']

    def types(**keys: object) -> list[str]:
        network = spec.parse_network(json.dumps({**CONFLIST, **keys}).encode(), beside)
        return [each.type for each in network.plugins]

    assert types() == ["wherry-cni", "portmap", "bandwidth"]
    assert types(loadOnlyInlinedPlugins=True) == ["wherry-cni", "portmap"]
    alone = spec.parse_network(b'{"cniVersion": "1.1.0", "name": "pods"}', beside)
    assert [each.type for each in alone.plugins] == ["bandwidth"]
    single = spec.parse_network(b'{"cniVersion": "1.1.0", "name": "pods", "type": "bridge"}', beside)
    assert [each.type for each in single.plugins] == ["bridge"]


def test_the_new_commands_need_the_new_version_and_the_authors_leave() -> None:
    network = spec.parse_network(json.dumps({**CONFLIST, "cniVersion": "1.1.0"}).encode())
    assert (network.gc, network.status) == (True, True)
    assert not spec.parse_network(json.dumps(CONFLIST).encode()).gc
    network = spec.parse_network(json.dumps({**CONFLIST, "cniVersion": "1.1.0", "disableGC": True}).encode())
    assert (network.gc, network.status) == (False, True)


def test_gc_names_what_to_keep() -> None:
    network = spec.parse_network(json.dumps({**CONFLIST, "cniVersion": "1.1.0"}).encode())
    said = network.request(network.plugins[0], valid=[("c0ffee", "eth0")])
    assert said["cni.dev/valid-attachments"] == [{"containerID": "c0ffee", "ifname": "eth0"}]
    assert spec.valid_attachments(said) == {("c0ffee", "eth0")}
    assert spec.valid_attachments({"cni.dev/valid-attachments": []}) == frozenset()
    with pytest.raises(CniError, match=r"GC needs cni\.dev/valid-attachments"):
        spec.valid_attachments({})
    with pytest.raises(CniError, match="containerID must be a name"):
        spec.valid_attachments({"cni.dev/valid-attachments": [{"ifname": "eth0"}]})
