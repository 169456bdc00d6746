"""Every kind through a stock kubectl: made from a small manifest, shown in upstream's columns, refused in upstream's words."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from tests.node.apiserver import Server, running
from tests.unit.apiserver import manifests

KUBECTL = shutil.which("kubectl")
pytestmark = [pytest.mark.skipif(KUBECTL is None, reason="no kubectl on PATH"), pytest.mark.timeout(300)]

HEADERS = {
    "statefulsets": "NAME READY AGE CONTAINERS IMAGES",
    "daemonsets": "NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE-SELECTOR AGE CONTAINERS IMAGES SELECTOR",
    "jobs": "NAME STATUS COMPLETIONS DURATION AGE CONTAINERS IMAGES SELECTOR",
    "cronjobs": "NAME SCHEDULE TIMEZONE SUSPEND ACTIVE LAST-SCHEDULE AGE CONTAINERS IMAGES SELECTOR",
    "hpa": "NAME REFERENCE TARGETS MINPODS MAXPODS REPLICAS AGE",
    "pdb": "NAME MIN-AVAILABLE MAX-UNAVAILABLE ALLOWED-DISRUPTIONS AGE",
    "ingresses": "NAME CLASS HOSTS ADDRESS PORTS AGE",
    "networkpolicies": "NAME POD-SELECTOR AGE",
    "pv": "NAME CAPACITY ACCESS-MODES RECLAIM-POLICY STATUS CLAIM STORAGECLASS VOLUMEATTRIBUTESCLASS REASON AGE VOLUMEMODE",
    "pvc": "NAME STATUS VOLUME CAPACITY ACCESS-MODES STORAGECLASS VOLUMEATTRIBUTESCLASS AGE VOLUMEMODE",
    "sc": "NAME PROVISIONER RECLAIMPOLICY VOLUMEBINDINGMODE ALLOWVOLUMEEXPANSION AGE",
    "quota": "NAME REQUEST LIMIT AGE",
    "limits": "NAME CREATED-AT",
    "roles": "NAME CREATED-AT",
    "rolebindings": "NAME ROLE AGE USERS GROUPS SERVICEACCOUNTS",
    "csr": "NAME AGE SIGNERNAME REQUESTOR REQUESTEDDURATION CONDITION",
    "priorityclasses": "NAME VALUE GLOBAL-DEFAULT AGE PREEMPTIONPOLICY",
    "runtimeclasses": "NAME HANDLER AGE",
    "flowschemas": "NAME PRIORITYLEVEL MATCHINGPRECEDENCE DISTINGUISHERMETHOD AGE MISSINGPL",
    "crd": "NAME CREATED-AT",
    "csidrivers": "NAME ATTACHREQUIRED PODINFOONMOUNT STORAGECAPACITY TOKENREQUESTS REQUIRESREPUBLISH MODES AGE",
    "resourceclaims": "NAME STATE AGE",
    "servicecidrs": "NAME CIDRS AGE",
}
REFUSED = (
    (
        ["create", "cronjob", "c", "--image=i", "--schedule=* * *"],
        'spec.schedule: Invalid value: "* * *": expected exactly 5 fields, found 3: [* * *]',
    ),
    (
        ["patch", "statefulset", "one-0", "-p", '{"spec":{"serviceName":"t"}}'],
        "spec: Forbidden: updates to statefulset spec for fields other than 'replicas'",
    ),
    (
        ["patch", "rolebinding", "one-0", "-p", '{"roleRef":{"name":"other"}}'],
        "cannot change roleRef",
    ),
    (
        ["patch", "pvc", "one-0", "-p", '{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}'],
        "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
    ),
)  # fmt: skip


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path) as server:
        yield server


def kubectl(server: Server, *args: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    assert KUBECTL
    argv = [KUBECTL, "--kubeconfig", str(server.kubeconfig), *args]
    return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=120, check=False)


def columns(header: str) -> str:
    """Columns stand two spaces or more apart, words of one column one."""
    return " ".join(part.replace(" ", "-") for part in re.split(r" {2,}", header.strip()))


async def test_every_kind_is_made_shown_and_guarded(server: Server) -> None:
    def work() -> None:
        skipped = ("Event", "LimitRange", "Namespace", "Pod")  # a limit would refuse the pod; events share a name
        kinds = [
            gvk for gvk in sorted(manifests.kinds()) if gvk.kind not in skipped and gvk.api_version != "autoscaling/v1"
        ]
        documents = [manifests.manifest(gvk) for gvk in kinds]
        made = kubectl(server, "create", "-f", "-", text=yaml.safe_dump_all(documents))
        assert (made.stderr, made.stdout.count("created")) == ("", len(documents))
        limits = kubectl(server, "create", "-f", "-", text=yaml.safe_dump(LIMITS))
        assert limits.returncode == 0, limits.stderr
        for resource, header in HEADERS.items():
            shown = kubectl(server, "get", resource, "-o", "wide")
            assert columns(shown.stdout.splitlines()[0]) == header, shown.stdout + shown.stderr
        for args, words in REFUSED:
            refused = kubectl(server, *args)
            assert refused.returncode == 1
            assert words in refused.stderr, refused.stderr

    await asyncio.to_thread(work)


LIMITS = {
    "apiVersion": "v1",
    "kind": "LimitRange",
    "metadata": {"name": "lr"},
    "spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "default": {"cpu": "1"}}]},
}
