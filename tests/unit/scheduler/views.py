"""Pods and nodes of a few words, for tables."""

from typing import Any

from kube.core import Taint
from kube.pods import Toleration
from scheduler.model import HostPort, NodeView, PodView

GI = 2**30


def node(name: str = "n1", cpu: int = 4000, memory: int = 8 * GI, pods: int = 110, **more: Any) -> NodeView:
    labels = {"kubernetes.io/hostname": name, **more.pop("labels", {})}
    return NodeView(name=name, labels=labels, allocatable={"cpu": cpu, "memory": memory, "pods": pods}, **more)


def pod(name: str = "p", cpu: int = 0, memory: int = 0, **more: Any) -> PodView:
    requests = {k: v for k, v in (("cpu", cpu), ("memory", memory)) if v}
    scored = {"cpu": cpu or 100, "memory": memory or 200 * 2**20}
    return PodView(namespace="default", name=name, uid=name, requests=requests, scored=scored, **more)


def taint(key: str, effect: str = "NoSchedule", value: str = "") -> Taint:
    return Taint(key=key, effect=effect, value=value)


def tolerate(key: str = "", operator: str = "Equal", value: str = "", effect: str = "") -> Toleration:
    return Toleration(key=key, operator=operator, value=value, effect=effect)


def port(number: int, ip: str = "0.0.0.0", protocol: str = "TCP") -> HostPort:
    return HostPort(protocol, ip, number)
