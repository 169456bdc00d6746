"""Probes and lifecycle hooks: what is called, how often, and how much may fail."""

from typing import Any, Final

from apiserver.validation import names
from apiserver.validation.rules import Found, Json, Path, Rule, Rules, at_least, each, exactly_one, one_of

_PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")
_HANDLER: Final = exactly_one("handler", "exec", "httpGet", "tcpSocket", "grpc", "sleep")


def probes(one: Json, path: Path, found: Found) -> None:
    """What a probe may say depends on which of the three it is."""
    for name in _PROBES:
        probe = one.get(name)
        if probe is None:
            continue
        if name != "readinessProbe":
            if probe.get("successThreshold", 1) != 1:
                found.invalid(((path, name), "successThreshold"), probe["successThreshold"], "must be 1")
        elif "terminationGracePeriodSeconds" in probe:
            detail = "must not be set for readinessProbes"
            found.invalid(
                ((path, name), "terminationGracePeriodSeconds"), probe["terminationGracePeriodSeconds"], detail
            )


def _numbers(probe: Json, path: Path, found: Found) -> None:
    for key, value in probe.items():
        if value.__class__ is int and value < 0:
            found.invalid((path, key), value, names.NEGATIVE)
    if probe.get("terminationGracePeriodSeconds") == 0:
        found.invalid((path, "terminationGracePeriodSeconds"), 0, "must be greater than 0")


def _port(value: Any, path: Path, found: Found) -> None:
    for text in names.port(value):
        found.invalid(path, value, text)


def _number(value: Any, path: Path, found: Found) -> None:
    if not 1 <= value <= 65535:
        found.invalid(path, value, names.OUTSIDE_PORTS)


def _header(one: Json, path: Path, found: Found) -> None:
    for text in names.http_header(one.get("name", "")):
        found.invalid((path, "name"), one.get("name", ""), text)


def _has_port(one: Json, path: Path, found: Found) -> None:
    if "port" not in one:
        found.invalid((path, "port"), 0, names.OUTSIDE_PORTS)


RULES: Final[Rules] = {
    "core.v1.Probe": Rule(checks=(_numbers, _HANDLER)),
    "core.v1.LifecycleHandler": Rule(checks=(_HANDLER,)),
    "core.v1.ExecAction": Rule(required=("command",)),
    "core.v1.HTTPGetAction": Rule(
        {"port": _port, "scheme": one_of("HTTP", "HTTPS"), "httpHeaders": each(_header)},
        ("path", "scheme"),
        (_has_port,),
    ),
    "core.v1.TCPSocketAction": Rule({"port": _port}, checks=(_has_port,)),
    "core.v1.GRPCAction": Rule({"port": _number}, checks=(_has_port,)),
    "core.v1.SleepAction": Rule({"seconds": at_least(0)}),
}
