"""What the proxy needs of the machine besides rules: families, limits of conntrack, sysctls, its own OOM score.

All as kube-proxy sets them, from the same keys, with one difference: `nf_conntrack_max` is raised where it is too low and
never lowered, because upstream's habit of setting its own figure has cost people the larger table they had asked for. Only
what has another value is written, and 0 leaves a value alone. What cannot be written (a container's read-only /proc/sys, a
network namespace in which the value is not its own) is told once, with what to do, and is no reason to leave the node
without Services. Conntrack's values appear with its module, which our first rules load: `prepare` is called again then.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from linux import sysctl
from linux.iptables.rules import Family
from proxy.config import Config

MOST_FLOWS = 1 << 20
"""Upstream's cap of what maxPerCore gives on machines of many processors."""

_NETFILTER = "net.netfilter.nf_conntrack_"
_BRIDGED = "net.bridge.bridge-nf-call-iptables"

log = logging.getLogger(__name__)


def lacking(family: Family, proc: Path = Path("/proc")) -> str:
    """Why this machine cannot have rules of the family; empty when it can."""
    if family is Family.V4:
        return ""
    if not (proc / "net/if_inet6").exists():
        return "the kernel has no IPv6"
    try:
        off = sysctl.read("net.ipv6.conf.all.disable_ipv6", proc / "sys") == "1"
    except OSError:
        off = False
    return "IPv6 is switched off (net.ipv6.conf.all.disable_ipv6=1)" if off else ""


@dataclass(slots=True)
class Host:
    """`root` is where /proc and /sys are. `prepare` may be called again and again."""

    config: Config
    root: Path = Path("/")
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)
    _told: set[str] = field(default_factory=set)

    def prepare(self) -> None:
        self._score()
        for name, value in wanted(self.config):
            self._set(name, value)
        flows = most_flows(self.config, self.cores)
        if flows:
            self._raise(flows)
        self._look_at_bridges()

    def open_loopback(self) -> None:
        """For NodePorts on 127.0.0.0/8, when IPv4's rules are in: until KUBE-FIREWALL is among them the network could reach
        all that listens on loopback only (CVE-2020-8558)."""
        if self.config.serves_loopback:
            self._set("net.ipv4.conf.all.route_localnet", 1)

    def _raise(self, flows: int) -> None:
        self._set(f"{_NETFILTER}max", flows, only_up=True)
        path = self.root / "sys/module/nf_conntrack/parameters/hashsize"
        try:
            if int(path.read_text()) < flows // 4:
                path.write_text(str(flows // 4))
                log.info("conntrack's hash table has %d buckets now", flows // 4)
        except FileNotFoundError:
            pass  # not loaded yet, or built in without the parameter
        except (OSError, ValueError) as error:
            self._tell(
                "hashsize",
                f"conntrack's hash table stays as it is ({_words(error)}): lookups get slower with many flows; on the host"
                f" itself: echo {flows // 4} > /sys/module/nf_conntrack/parameters/hashsize",
            )

    def _set(self, name: str, value: int, *, only_up: bool = False) -> None:
        proc = self.root / "proc/sys"
        found = "unreadable"
        try:
            found = sysctl.read(name, proc)
            if found == str(value) or (only_up and found.isdigit() and int(found) > value):
                return
            sysctl.ensure(name, str(value), proc)
            log.info("%s: %s, was %s", name, value, found)
        except FileNotFoundError:
            log.debug("%s is not there (yet)", name)
        except OSError as error:
            self._tell(
                name,
                f"{name} stays {found}, {value} is wanted ({_words(error)}); on the host itself: sysctl -w {name}={value},"
                f" or set {_key(name)}: 0 to leave it alone",
            )

    def _score(self) -> None:
        """Lowering takes CAP_SYS_RESOURCE; the unit has it from systemd (OOMScoreAdjust)."""
        path = self.root / "proc/self/oom_score_adj"
        wanted = str(self.config.oom_score_adj)
        try:
            if path.read_text().strip() != wanted:
                path.write_text(wanted)
        except OSError as error:
            words = f"oomScoreAdj: {wanted} was not permitted ({_words(error)}); set it from outside, or to 0"
            self._tell("oom", words, logging.INFO)  # many machines and containers permit it to nobody

    def _look_at_bridges(self) -> None:
        try:
            if sysctl.read(_BRIDGED, self.root / "proc/sys") == "0":
                self._tell(
                    "bridge",
                    f"{_BRIDGED} is 0: where pods share a bridge, answers between two of them pass by the Service rules;"
                    f" sysctl -w {_BRIDGED}=1",
                )
        except OSError:
            pass  # no br_netfilter, maybe no bridge at all

    def _tell(self, matter: str, words: str, level: int = logging.WARNING) -> None:
        if matter not in self._told:
            log.log(level, "%s", words)
        self._told.add(matter)


def wanted(config: Config) -> Iterator[tuple[str, int]]:
    """The sysctls that have one right value; 0 in the configuration leaves one out."""
    limits = config.conntrack
    for name, seconds in (
        ("tcp_timeout_established", limits.tcp_established_timeout),
        ("tcp_timeout_close_wait", limits.tcp_close_wait_timeout),
        ("udp_timeout", limits.udp_timeout),
        ("udp_timeout_stream", limits.udp_stream_timeout),
    ):
        if seconds:
            yield f"{_NETFILTER}{name}", max(1, round(seconds))
    if limits.tcp_be_liberal:
        yield f"{_NETFILTER}tcp_be_liberal", 1


def most_flows(config: Config, cores: int) -> int:
    """How many flows conntrack shall track; 0 leaves it alone."""
    per_core = config.conntrack.max_per_core
    return max(config.conntrack.min, min(per_core * cores, MOST_FLOWS)) if per_core else 0


_KEYS = {
    "max": "conntrack.maxPerCore",
    "tcp_timeout_established": "conntrack.tcpEstablishedTimeout",
    "tcp_timeout_close_wait": "conntrack.tcpCloseWaitTimeout",
    "udp_timeout": "conntrack.udpTimeout",
    "udp_timeout_stream": "conntrack.udpStreamTimeout",
    "tcp_be_liberal": "conntrack.tcpBeLiberal",
}


def _key(name: str) -> str:
    return _KEYS.get(name.removeprefix(_NETFILTER), "iptables.localhostNodePorts")


def _words(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
