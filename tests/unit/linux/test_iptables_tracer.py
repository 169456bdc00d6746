"""The tracer follows packets as the kernel would; tests/node proves the same flows with real ones."""

from ipaddress import ip_address

import pytest

from linux.iptables.rules import parse
from linux.iptables.tracer import trace
from linux.packets import Packet, Unknown

NODE = frozenset([ip_address("192.168.0.1")])
RULES = """
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:SVC - [0:0]
:MARK-IT - [0:0]
-A PREROUTING -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j SVC
-A OUTPUT -m addrtype --dst-type LOCAL ! -d 127.0.0.0/8 -p tcp --dport 30000:30100 -j SVC
-A SVC ! -s 10.244.0.0/16 -j MARK-IT
-A SVC -m recent --rcheck --seconds 10 --reap --name X --mask 255.255.255.255 --rsource -j DROP
-A SVC -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.244.0.1:8080
-A SVC -p tcp -m recent --set --name X -j DNAT --to-destination 10.244.0.2:8080
-A MARK-IT -j MARK --set-xmark 0x4000/0x4000
-A POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A POSTROUTING -m comment --comment "why -j DROP" -j MASQUERADE --random-fully
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -d 10.244.0.9/32 -m conntrack --ctstate NEW -j REJECT --reject-with icmp-port-unreachable
-A INPUT -i eth1 -p udp -j DROP
COMMIT
"""


def ends(source: str, destination: str, port: int, **more: object) -> set[tuple[str, str, bool]]:
    packet = Packet(ip_address(source), ip_address(destination), port, **more)  # type: ignore[arg-type]
    found = trace(parse(RULES), packet, NODE)
    return {(ending.verdict, f"{ending.destination}:{ending.port}", ending.masqueraded) for ending in found}


def test_chance_gives_every_ending() -> None:
    assert ends("10.244.0.5", "10.96.0.1", 80) == {
        ("ACCEPT", "10.244.0.1:8080", False),
        ("ACCEPT", "10.244.0.2:8080", False),
    }


def test_marks_decide_masquerading() -> None:
    assert {masqueraded for _, _, masqueraded in ends("1.2.3.4", "10.96.0.1", 80)} == {True}


def test_other_ports_and_protocols_pass_by() -> None:
    assert ends("1.2.3.4", "10.96.0.1", 81) == {("ACCEPT", "10.96.0.1:81", False)}
    assert ends("1.2.3.4", "10.96.0.1", 80, protocol="udp") == {("ACCEPT", "10.96.0.1:80", False)}


def test_the_nodes_own_packets_meet_output() -> None:
    assert len(ends("192.168.0.1", "192.168.0.1", 30050, local=True)) == 2
    assert ends("127.0.0.1", "127.0.0.1", 30050, local=True) == {("ACCEPT", "127.0.0.1:30050", False)}


def test_filter_speaks_after_nat() -> None:
    assert ends("10.244.0.5", "10.244.0.9", 1) == {("REJECT", "10.244.0.9:1", False)}
    assert ends("10.244.0.5", "10.244.0.9", 1, state="ESTABLISHED") == {("ACCEPT", "10.244.0.9:1", False)}
    assert ends("1.2.3.4", "192.168.0.1", 53, protocol="udp", in_interface="eth1") == {
        ("DROP", "192.168.0.1:53", False)
    }
    assert ends("1.2.3.4", "192.168.0.1", 53, protocol="udp") == {("ACCEPT", "192.168.0.1:53", False)}


@pytest.mark.parametrize("rule", ["-m set --match-set x src -j DROP", "-j TPROXY --on-port 1", "-j NOWHERE"])
def test_it_refuses_to_guess(rule: str) -> None:
    snapshot = parse(RULES.replace("-A INPUT", f"-A FORWARD {rule}\n-A INPUT"))
    with pytest.raises(Unknown):
        trace(snapshot, Packet(ip_address("1.2.3.4"), ip_address("5.6.7.8"), 1), NODE)
