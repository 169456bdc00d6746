"""Whatever a runtime sends, every plugin answers with a result or with an error that has a code below 200: never with a bug."""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni.plugins import NAMES
from cni.run import answer
from cni.spec import VERSIONS
from linux import netns as namespaces
from tests.conftest import Netns

RANGE: dict[str, Any] = {
    "subnet": "10.77.1.0/24",
    "rangeStart": "10.77.1.5",
    "rangeEnd": "10.77.1.9",
    "gateway": "10.77.1.1",
}
RESULT: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "cni0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/nowhere", "mac": "x"}],
    "ips": [{"address": "10.77.1.2/24", "interface": 2, "gateway": "10.77.1.1"}],
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.77.1.1", "mtu": 1400}],
    "dns": {"nameservers": ["10.96.0.10"]},
}
WHOLE: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "pods",
    "bridge": "cni0",
    "isGateway": True,
    "isDefaultGateway": True,
    "forceAddress": True,
    "ipMasq": False,
    "ipMasqBackend": "nftables",
    "mtu": 1450,
    "hairpinMode": True,
    "promiscMode": False,
    "vlan": 0,
    "vlanTrunk": [{"id": 5}, {"minID": 1, "maxID": 2}],
    "enabledad": True,
    "portIsolation": True,
    "ipam": {"type": "host-local", "ranges": [[RANGE], [{"subnet": "fd00::/64"}]], "routes": [{"dst": "10.0.0.0/8"}]},
    "subnet": "10.77.2.0/24",
    "subnetFile": "/nowhere",
    "routes": [{"dst": "10.0.0.0/8", "gw": "10.77.2.1"}],
    "delegate": {"type": "bridge", "hairpinMode": True},
    "dns": {"nameservers": ["10.96.0.10"]},
    "args": {"cni": {"mac": "02:00:00:00:00:01", "ips": ["10.77.1.6"]}},
    "runtimeConfig": {
        "mac": "02:00:00:00:00:01",
        "ips": ["10.77.1.7/24"],
        "ipRanges": [[{"subnet": "10.78.0.0/24"}]],
        "portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 1000000, "ingressBurst": 1000000},
    },
    "prevResult": RESULT,
    "cni.dev/valid-attachments": [{"containerID": "c0ffee", "ifname": "eth0"}],
    "snat": True,
    "markMasqBit": 13,
    "conditionsV4": ["-s", "10.0.0.0/8"],
    "backend": "nftables",
}
SHELF = 2
"""Descriptors that the ledger of a process may keep."""
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["\0", "/a\0b", "\ud800", "/\udcff"]),
    st.sampled_from(["10.0.0.0/8", "fd00::1", "fd00::/64", "/", "..", "a/b", "0", "host-local", "bridge", "flannel"]),
    st.just([]),
    st.just({}),
    st.just([[]]),
    st.just([{}]),
    st.just([None]),
    st.just({"type": "bridge"}),
)


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """A whole configuration of which some values, at any depth, are something else or gone."""
    config: dict[str, Any] = json.loads(json.dumps(WHOLE))
    for _ in range(draw(st.integers(0, 3))):
        place: Any = config
        while True:
            inner = list(place if isinstance(place, dict) else range(len(place)))
            if not inner:
                break
            key = draw(st.sampled_from(inner))
            if isinstance(place[key], (dict, list)) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            if isinstance(place, dict) and draw(st.booleans()):
                del place[key]
            else:
                place[key] = copy.deepcopy(draw(JUNK))
            break
    if draw(st.booleans()):
        config.pop("prevResult", None)
    config.pop(draw(st.sampled_from(["subnet", "subnetFile"])), None)
    return config


def test_no_configuration_finds_a_bug(netns: Callable[[str], Netns], tmp_path: Path) -> None:
    host, pod = netns("host"), netns("pod")

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(
        st.sampled_from(NAMES),
        st.sampled_from(["ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION"]),
        damaged(),
        st.sampled_from(VERSIONS),
        st.sampled_from(["", "/run/netns/nowhere", host.path, str(tmp_path), pod.path, pod.path]),
        st.sampled_from(["eth0", "eth0", "eth0", "e\udcff"]),
    )
    def tried(kind: str, command: str, config: dict[str, Any], version: str, space: str, ifname: str) -> None:
        config["dataDir"] = str(tmp_path / "data")
        if isinstance(config.get("ipam"), dict):
            config["ipam"]["dataDir"] = str(tmp_path / "data")
        if "cniVersion" in config and isinstance(config["cniVersion"], str):
            config["cniVersion"] = version if command != "GC" and command != "STATUS" else "1.1.0"
        environment = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "c0ffee",
            "CNI_IFNAME": ifname,
            "CNI_NETNS": space,
            "CNI_PATH": str(tmp_path),
        }
        out, status = answer(kind, environment, json.dumps(config).encode())
        said = json.loads(out) if out else {}
        assert status in (0, 1)
        if status:
            assert 0 < said["code"] < 200, (kind, command, said, config)
            assert said["msg"]

    with namespaces.enter(host.path):  # DEL and GC look for links and rules: in here there are none
        descriptors, home = set(os.listdir("/proc/self/fd")), namespaces.identity()
        tried()
        assert namespaces.identity() == home, "the thread is where it was: an agent's must be"
        assert len(os.listdir("/proc/self/fd")) <= len(descriptors) + SHELF, "and has closed what it opened"
