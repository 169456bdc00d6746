"""Limits, levels, priorities and deletions as people type them, with every kubectl there is."""

import asyncio
from pathlib import Path

import pytest

from tests.fakes.centre import Centre, centre
from tests.fakes.node import fake_nodes
from tests.requirements import kubectls, requires

LIMITS = """\
apiVersion: v1
kind: LimitRange
metadata: {name: l}
spec: {limits: [{type: Container, default: {cpu: 200m}, defaultRequest: {cpu: 100m}, max: {memory: 1Gi}}]}
"""
JOB = """\
apiVersion: batch/v1
kind: Job
metadata: {name: job}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}
"""
SIZED = '{"spec":{"containers":[{"name":"sized","image":"i","resources":{"limits":{"memory":"2Gi"}}}]}}'
STEPS = (
    ("create namespace NS", "namespace/NS created"),
    ("create quota q --hard=count/configmaps=3,services.nodeports=0 -n NS", "resourcequota/q created"),
    # A quota holds nobody back before its controller has seen it.
    (r"wait quota/q --for=jsonpath={.status.hard.services\.nodeports}=0 -n NS --timeout=40s", "condition met"),
    ("create configmap a -n NS", "configmap/a created"),
    ("create service nodeport s --tcp=80 -n NS", "exceeded quota: q, requested: services.nodeports=1"),
    ("create priorityclass high-NS --value=1000 -n NS", "priorityclass.scheduling.k8s.io/high-NS created"),
    ('run unknown --image=i -n NS --overrides={"spec":{"priorityClassName":"none-such"}}',
     "no PriorityClass with name none-such was found"),
    ('run important --image=i -n NS --overrides={"spec":{"priorityClassName":"high-NS"}}', "pod/important created"),
    ("get pod important -n NS -o jsonpath={.spec.priority}", "1000"),
    ("get pod important -n NS -o jsonpath={..projected.sources[0].serviceAccountToken.path}", "token"),
    ("apply -f LIMITS -n NS", "limitrange/l created"),
    (f"run sized --image=i -n NS --overrides={SIZED}", "maximum memory usage per Container is 1Gi, but limit is 2Gi"),
    ("delete limitrange l -n NS", "deleted"),
    ("label namespace NS pod-security.kubernetes.io/enforce=baseline pod-security.kubernetes.io/warn=restricted", "labeled"),
    ("run plain --image=i -n NS", 'would violate PodSecurity "restricted:latest"'),
    ('run host --image=i -n NS --overrides={"spec":{"hostNetwork":true}}',
     'violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)'),
    ("label namespace NS pod-security.kubernetes.io/enforce=wrong --overwrite", "must be one of privileged, baseline"),
    ("create deployment web --image=i -n NS", "deployment.apps/web created"),
    ("wait --for=condition=Available deployment/web -n NS --timeout=40s", "condition met"),
    ("delete deployment web --cascade=orphan -n NS", 'deployment.apps "web" deleted'),
    ("get replicasets -n NS -o name", "replicaset.apps/web-"),
    ("delete replicasets --all --cascade=foreground -n NS --timeout=40s", "deleted"),
    ("get pods -l app=web -n NS", "No resources found"),
    ("apply -f JOB -n NS", "job.batch/job created"),
    ("delete job job -n NS", 'job.batch "job" deleted'),
    ("delete pod important --force --grace-period=0 -n NS", '"important" force deleted'),
    ("debug plain --image=busybox -n NS --profile=general --attach=false",
     'violates PodSecurity "baseline:latest": non-default capabilities'),
    ("debug plain --image=busybox -n NS --profile=baseline --attach=false", ""),
    ("get pod plain -n NS -o jsonpath={.spec.ephemeralContainers[*].image}", "busybox"),
    ("delete namespace default", "this namespace may not be deleted"),
    ("delete namespace NS --timeout=60s", "deleted"),
)  # fmt: skip


async def steps(path: str, made: Centre, namespace: str) -> None:
    for command, prints in STEPS:
        words = command.replace("LIMITS", str(made.folder / "limits.yaml")).replace(
            "JOB", str(made.folder / "job.yaml")
        )
        argv = [path, "--kubeconfig", str(made.kubeconfig), *words.replace("NS", namespace).split(" ")]
        for _ in range(40 if prints else 1):
            process = await asyncio.create_subprocess_exec(
                *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            async with asyncio.timeout(80):
                output = (await process.communicate())[0].decode()
            if "status unknown for quota" not in output:
                break
        assert prints.replace("NS", namespace) in output, f"{path} {' '.join(argv[3:])}: {output}"


@pytest.mark.timeout(500)
async def test_limits_with_every_kubectl(tmp_path: Path) -> None:
    requires("kubectl")
    two = asyncio.Semaphore(2)
    async with centre(tmp_path) as made, made.client() as client, fake_nodes(client, 2):
        (made.folder / "limits.yaml").write_text(LIMITS)
        (made.folder / "job.yaml").write_text(JOB)

        async def turn(number: int, path: str) -> None:
            async with two:
                await steps(path, made, f"limits{number}")

        async with asyncio.TaskGroup() as group:
            for number, path in enumerate(kubectls()):
                group.create_task(turn(number, path))
