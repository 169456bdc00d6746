"""A namespace of Deployments and Services, and people who never leave it alone: scaled, rolled, deleted from, extended."""

import random
from types import TracebackType
from typing import Self

from lab.model import DEMO_IMAGE
from tests.cluster.conftest import until
from tests.cluster.runtimes import Json
from tests.cluster.world import World

_DEPLOYMENTS = ("red", "green")


class Workload:
    """As a context: the namespace and its Deployments are there; afterwards they are gone from the API."""

    def __init__(self, world: World, name: str, chance: random.Random, *, replicas: int = 2) -> None:
        self.world = world
        self.name = name
        self._chance = chance
        self._replicas = replicas
        self._services: list[str] = []
        self._turn = 0

    def __enter__(self) -> Self:
        self.world.insist("POST", "/api/v1/namespaces", {"metadata": {"name": self.name}}, allow=409)
        for name in _DEPLOYMENTS:
            self.world.insist("POST", self._path("apps/v1", "deployments"), self._deployment(name), allow=409)
            self.world.insist("POST", self._path("v1", "services"), self._service(name, name), allow=409)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        where = f"/api/v1/namespaces/{self.name}"
        self.world.insist("DELETE", where, allow=404)
        until(lambda: [n for n in self.world.items("/api/v1/namespaces") if n["metadata"]["name"] == self.name] == [],
              seconds=90)  # fmt: skip

    def disturb(self) -> str:
        """One change; what it was."""
        self._turn += 1
        verb = self._chance.choice(
            (
                self._scale,
                self._scale,
                self._roll,
                self._delete_pod,
                self._delete_pod,
                self._new_service,
                self._drop_service,
            )
        )
        return verb(self._chance.choice(_DEPLOYMENTS))

    def _path(self, version: str, plural: str, name: str = "") -> str:
        root = "/api/v1" if version == "v1" else f"/apis/{version}"
        return f"{root}/namespaces/{self.name}/{plural}" + (f"/{name}" if name else "")

    def _scale(self, deployment: str) -> str:
        wanted = self._chance.randint(1, self._replicas + 2)
        self.world.insist("PATCH", self._path("apps/v1", "deployments", deployment), {"spec": {"replicas": wanted}})
        return f"scale {deployment} to {wanted}"

    def _roll(self, deployment: str) -> str:
        note = {"metadata": {"annotations": {"turn": str(self._turn)}}}
        self.world.insist("PATCH", self._path("apps/v1", "deployments", deployment), {"spec": {"template": note}})
        return f"roll {deployment}"

    def _delete_pod(self, deployment: str) -> str:
        pods = self.world.pods(self.name, f"app={deployment}")
        if not pods:
            return f"delete a pod of {deployment}: there is none"
        name = self._chance.choice(pods)["metadata"]["name"]
        self.world.insist("DELETE", self._path("v1", "pods", name), allow=404)
        return f"delete pod {name}"

    def _new_service(self, deployment: str) -> str:
        name = f"{deployment}-{self._turn}"
        self.world.insist("POST", self._path("v1", "services"), self._service(name, deployment), allow=409)
        self._services.append(name)
        return f"create Service {name}"

    def _drop_service(self, deployment: str) -> str:
        if not self._services:
            return self._new_service(deployment)
        name = self._services.pop(self._chance.randrange(len(self._services)))
        self.world.insist("DELETE", self._path("v1", "services", name), allow=404)
        return f"delete Service {name}"

    def _deployment(self, name: str) -> Json:
        return {
            "metadata": {"name": name},
            "spec": {
                "replicas": self._replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": pod_spec()},
            },
        }

    def _service(self, name: str, app: str) -> Json:
        return {
            "metadata": {"name": name},
            "spec": {
                "type": "NodePort" if self._turn % 2 else "ClusterIP",
                "selector": {"app": app},
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
            },
        }


def pod_spec() -> Json:
    """The demo's server, with each kind of volume that a kill could leave mounted."""
    return {
        "terminationGracePeriodSeconds": 3,
        "containers": [
            {
                "name": "web",
                "image": DEMO_IMAGE,
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1},
                "volumeMounts": [
                    {"name": "scratch", "mountPath": "/scratch"},
                    {"name": "trust", "mountPath": "/trust", "readOnly": True},
                ],
            }
        ],
        "volumes": [
            {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}},
            {"name": "trust", "configMap": {"name": "kube-root-ca.crt"}},
        ],
    }
