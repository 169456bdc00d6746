"""Every kind that people make by hand, made, read, described, explained and deleted with every kubectl there is.

No controllers run: the objects only have to be taken, kept and shown. Each kubectl has a server of its own; two are at work
at a time.
"""

from __future__ import annotations

import asyncio
import base64
import os
from dataclasses import dataclass
from pathlib import Path

from tests.node.apiserver import running
from tests.requirements import kubectls, requires

CSR = """\
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: csr}
spec: {request: REQUEST, signerName: example.com/signer, usages: [client auth]}
"""
MANIFESTS = """\
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: state}
spec:
  serviceName: state
  selector: {matchLabels: {app: state}}
  template: {metadata: {labels: {app: state}}, spec: {containers: [{name: c, image: i}]}}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: daemon}
spec:
  selector: {matchLabels: {app: daemon}}
  template: {metadata: {labels: {app: daemon}}, spec: {containers: [{name: c, image: i}]}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /tmp}, storageClassName: slow}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim}
spec: {accessModes: [ReadWriteOnce], storageClassName: slow, resources: {requests: {storage: 1Gi}}}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: slow}
provisioner: example.com/slow
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: v1
kind: LimitRange
metadata: {name: limits}
spec: {limits: [{type: Container, default: {cpu: 200m}, defaultRequest: {cpu: 100m}}]}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: other}
handler: other
---
apiVersion: v1
kind: ReplicationController
metadata: {name: old}
spec:
  selector: {app: old}
  template: {metadata: {labels: {app: old}}, spec: {containers: [{name: c, image: i}]}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, singular: boat, kind: Boat}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}
"""


@dataclass(frozen=True, slots=True)
class Step:
    """A command, words that what it prints must hold, and how it ends."""

    command: str
    prints: tuple[str, ...]
    stdin: str = ""
    code: int = 0


CREATE = (
    Step("create deployment web --image=web:1 --port=80", ("deployment.apps/web created",)),
    Step("create job once --image=i -- true", ("job.batch/once created",)),
    Step("create cronjob often --image=i --schedule=*/5@*@*@*@*", ("cronjob.batch/often created",)),
    Step("create job now --from=cronjob/often", ("job.batch/now created",)),
    Step("create configmap settings --from-literal=a=b", ("configmap/settings created",)),
    Step("create secret generic hidden --from-literal=a=b", ("secret/hidden created",)),
    Step("create secret docker-registry login --docker-username=u --docker-password=p --docker-server=s", ("created",)),
    Step("create serviceaccount robot", ("serviceaccount/robot created",)),
    Step("create quota few --hard=pods=3,cpu=2", ("resourcequota/few created",)),
    Step("create poddisruptionbudget calm --selector=app=web --min-available=1", ("created",)),
    Step("create priorityclass high --value=1000", ("priorityclass.scheduling.k8s.io/high created",)),
    Step("create ingress door --rule=example.com/*=web:80 --class=nginx", ("ingress.networking.k8s.io/door created",)),
    Step("create role reader --verb=get,list --resource=pods", ("role.rbac.authorization.k8s.io/reader created",)),
    Step("create rolebinding read --role=reader --serviceaccount=default:robot", ("rolebinding", "created")),
    Step("create clusterrole all --verb=* --resource=pods,deployments.apps", ("clusterrole", "created")),
    Step("create clusterrolebinding all --clusterrole=all --group=people", ("clusterrolebinding", "created")),
    Step("create service nodeport web --tcp=80:80", ("service/web created",)),
    Step("create service externalname out --external-name=example.com", ("service/out created",)),
    Step("autoscale deployment web --min=1 --max=3 --cpu-percent=50", ("autoscaled",)),
    Step("create -f -", ("statefulset.apps/state created", "boats.example.com created"), MANIFESTS),
    Step("create -f -", ("certificatesigningrequest.certificates.k8s.io/csr created",), CSR),
    Step("certificate approve csr", ("csr approved",)),
)
TABLES = {
    "deployments -o wide": "NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR",
    "statefulsets -o wide": "NAME READY AGE CONTAINERS IMAGES",
    "daemonsets": "NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE SELECTOR AGE",
    "replicationcontrollers": "NAME DESIRED CURRENT READY AGE",
    "jobs": "NAME STATUS COMPLETIONS DURATION AGE",
    "cronjobs": "NAME SCHEDULE TIMEZONE SUSPEND ACTIVE LAST SCHEDULE AGE",
    "services": "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE",
    "ingresses": "NAME CLASS HOSTS ADDRESS PORTS AGE",
    "networkpolicies": "NAME POD-SELECTOR AGE",
    "horizontalpodautoscalers": "NAME REFERENCE TARGETS MINPODS MAXPODS REPLICAS AGE",
    "poddisruptionbudgets": "NAME MIN AVAILABLE MAX UNAVAILABLE ALLOWED DISRUPTIONS AGE",
    "persistentvolumes": "NAME CAPACITY ACCESS MODES RECLAIM POLICY STATUS CLAIM STORAGECLASS",
    "persistentvolumeclaims": "NAME STATUS VOLUME CAPACITY ACCESS MODES STORAGECLASS",
    "storageclasses": "NAME PROVISIONER RECLAIMPOLICY VOLUMEBINDINGMODE ALLOWVOLUMEEXPANSION AGE",
    "resourcequotas": "NAME",
    "limitranges": "NAME CREATED AT",
    "priorityclasses": "NAME VALUE GLOBAL-DEFAULT AGE",
    "runtimeclasses": "NAME HANDLER AGE",
    "secrets": "NAME TYPE DATA AGE",
    "serviceaccounts": "NAME",
    "roles": "NAME CREATED AT",
    "rolebindings -o wide": "NAME ROLE AGE USERS GROUPS SERVICEACCOUNTS",
    "clusterrolebindings": "NAME ROLE AGE",
    "certificatesigningrequests": "NAME AGE SIGNERNAME REQUESTOR REQUESTEDDURATION CONDITION",
    "customresourcedefinitions": "NAME CREATED AT",
    "namespaces": "NAME STATUS AGE",
}
LOOK = (
    Step("describe deployment web", ("Selector:", "Pod Template:")),
    Step("describe job once", ("Parallelism:",)),
    Step("describe ingress door", ("example.com",)),
    Step("describe quota few", ("Resource",)),
    Step("describe pvc claim", ("Access Modes:",)),
    Step("describe hpa web", ("Min replicas:",)),
    Step("explain statefulset.spec.volumeClaimTemplates", ("PersistentVolumeClaim",)),
    Step("explain cronjob --recursive", ("jobTemplate", "restartPolicy")),
    Step("auth can-i create pods", ("yes",)),
    Step("auth can-i --list", ("Resources",)),
    Step("create token robot --duration=10m", ("ey",)),
    Step("api-resources --api-group=batch -o name", ("cronjobs.batch", "jobs.batch")),
    Step("api-versions", ("flowcontrol.apiserver.k8s.io/v1", "resource.k8s.io/v1")),
    Step("get events", ("No resources found",)),
    Step("events", ("No events found",)),
    Step("get all", ("deployment.apps/web", "statefulset.apps/state", "cronjob.batch/often", "horizontalpodautoscaler")),
    Step("get --raw /apis/batch/v1", ("APIResourceList",)),
    Step("get cm settings -o custom-columns=N:.metadata.name,A:.data.a", ("settings", "b")),
    Step("get cm,secret -o name", ("configmap/settings", "secret/hidden")),
    Step("set env deployment/web A=b", ("env updated",)),
    Step("set resources deployment web --limits=cpu=1", ("resource requirements updated",)),
    Step("set serviceaccount deployment web robot", ("serviceaccount updated",)),
    Step("get deployment web -o jsonpath={..serviceAccountName}{..limits.cpu}", ("robot1",)),
    Step("rollout pause deployment web", ("paused",)),
    Step("rollout resume deployment web", ("resumed",)),
    Step('patch cronjob often -p {"spec":{"suspend":true}}', ("patched",)),
    Step("replace -f -", ("configmap/settings replaced",), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n"),
    Step("create cm settings", ('configmaps "settings" already exists',), code=1),
    Step("create cronjob bad --image=i --schedule=x", ("spec.schedule: Invalid value",), code=1),
    Step("delete statefulset,daemonset,rc,job,cronjob,hpa,pdb,ingress,netpol --all", ("deleted",)),
    Step("delete crd,pv,sc,csr,runtimeclass --all --wait=false", ("deleted",)),
)  # fmt: skip


class Person:
    def __init__(self, path: str, home: Path, kubeconfig: Path) -> None:
        self.name = Path(path).name
        self._argv = [path, "--kubeconfig", str(kubeconfig), "--cache-dir", str(home / "cache")]

    async def does(self, step: Step) -> str:
        argv = [word.replace("@", " ") for word in step.command.split()]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self._argv, *argv, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT, env=os.environ
        )
        async with asyncio.timeout(60):
            output = (await process.communicate(step.stdin.encode()))[0].decode()
        assert process.returncode == step.code, f"{self.name} {step.command}: {process.returncode}: {output}"
        for words in step.prints:
            assert words in output, f"{self.name} {step.command}: {output}"
        return output


async def test_kinds(tmp_path: Path) -> None:
    requires("kubectl", "openssl")
    request = await _request(tmp_path)
    two = asyncio.Semaphore(2)

    async def turn(path: str) -> None:
        home = tmp_path / Path(path).name
        home.mkdir()
        async with two, running(home) as server:
            person = Person(path, home, server.kubeconfig)
            for step in CREATE:
                await person.does(Step(step.command, step.prints, step.stdin.replace("REQUEST", request), step.code))
            for kind, columns in TABLES.items():
                seen = (await person.does(Step(f"get {kind}", ()))).splitlines()[0].split()
                assert seen[: len(columns.split())] == columns.split(), f"{person.name} get {kind}: {seen}"
            for step in LOOK:
                await person.does(step)

    async with asyncio.TaskGroup() as group:
        for path in kubectls():
            group.create_task(turn(path))


async def _request(home: Path) -> str:
    """A PKCS#10 request, as base64 of PEM."""
    argv = [
        "openssl",
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        "/CN=me",
    ]
    process = await asyncio.create_subprocess_exec(
        *argv, "-keyout", str(home / "key"), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    pem = (await process.communicate())[0]
    return base64.b64encode(pem).decode()
