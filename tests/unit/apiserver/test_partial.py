"""Subresources that are the whole object with one part of it that may change; scale of everything that has replicas."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.unit.apiserver.calls import Calls, serving

Obj = dict[str, Any]
PODS = "/api/v1/namespaces/default/pods"
CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


async def pod(calls: Calls, **resources: Any) -> None:
    spec = {"containers": [{"name": "c", "image": "i", "resources": resources}], "nodeName": "n"}
    body = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}, "spec": spec}
    assert (await calls.post(PODS, body)).code == 201


def test_a_debugger_joins_and_stays() -> None:
    async def trial() -> None:
        async with serving() as calls:
            await pod(calls)
            debugger = {"name": "debugger", "image": "busybox", "stdin": True, "tty": True, "targetContainerName": "c"}
            patch: Obj = {"spec": {"ephemeralContainers": [debugger]}}  # as kubectl debug -it sends it
            answer = await calls.patch(f"{PODS}/p/ephemeralcontainers", patch, "strategic")
            assert answer.code == 200, answer.json
            (found,) = answer.json["spec"]["ephemeralContainers"]
            assert (found["name"], found["terminationMessagePath"]) == ("debugger", "/dev/termination-log")
            whole = (await calls.get(f"{PODS}/p/ephemeralcontainers")).json
            whole["spec"]["containers"][0]["image"] = "other"  # not this part's business: not taken
            whole["spec"]["ephemeralContainers"].append({"name": "second", "image": "busybox"})
            whole["metadata"]["labels"] = {"a": "b"}
            answer = await calls.call("PUT", f"{PODS}/p/ephemeralcontainers", whole)
            assert [one["name"] for one in answer.json["spec"]["ephemeralContainers"]] == ["debugger", "second"]
            assert answer.json["spec"]["containers"][0]["image"] == "i"
            assert "labels" not in answer.json["metadata"]
            whole = answer.json
            whole["spec"]["ephemeralContainers"].pop()
            answer = await calls.call("PUT", f"{PODS}/p/ephemeralcontainers", whole)
            assert answer.code == 422
            assert 'existing ephemeral containers "second" may not be removed' in answer.json["message"]

    asyncio.run(trial())


def test_cpu_and_memory_change_and_nothing_else() -> None:
    async def trial() -> None:
        async with serving() as calls:
            await pod(calls, requests={"cpu": "100m"}, limits={"cpu": "200m"})

            async def resize(**resources: Any) -> Any:
                patch = {"spec": {"containers": [{"name": "c", "image": "other", "resources": resources}]}}
                return await calls.patch(f"{PODS}/p/resize", patch, "strategic")

            answer = await resize(requests={"cpu": "150m"}, limits={"cpu": "300m"})
            assert answer.code == 200, answer.json
            container = answer.json["spec"]["containers"][0]
            assert (container["image"], container["resources"]["limits"]) == ("i", {"cpu": "300m"})
            answer = await resize(requests={"cpu": "300m", "memory": "1Mi"}, limits={"memory": "1Mi"})
            assert "Pod QOS Class may not change as a result of resizing" in answer.json["message"]
            answer = await resize(limits={"ephemeral-storage": "1Gi"})
            assert "only cpu and memory resources are mutable" in answer.json["message"]
            answer = await resize(limits={"cpu": None})
            assert "resource limits cannot be removed" in answer.json["message"]

    asyncio.run(trial())


def test_requests_for_certificates_say_who_asks_and_are_decided_once() -> None:
    async def trial() -> None:
        async with serving() as calls:
            spec = {"request": "LS0t", "signerName": "example.com/s", "usages": ["client auth"], "username": "root"}
            body = {"kind": "CertificateSigningRequest", "apiVersion": "certificates.k8s.io/v1", "spec": spec}
            created = await calls.post(CSRS, body | {"metadata": {"name": "r"}})
            if created.code == 422:  # where the request itself is looked at, it has to be one
                spec["request"] = signing_request()
                created = await calls.post(CSRS, body | {"metadata": {"name": "r"}})
            assert created.code == 201, created.json
            assert (created.json["spec"]["username"], created.json["spec"]["groups"][0]) == ("admin", "system:masters")
            approved = created.json | {
                "status": {"conditions": [{"type": "Approved", "status": "True", "reason": "R"}]}
            }
            answer = await calls.call("PUT", f"{CSRS}/r/approval", approved)
            assert answer.code == 200, answer.json
            assert answer.json["status"]["conditions"][0]["lastUpdateTime"]
            answer = await calls.patch(f"{CSRS}/r/approval", {"status": {"conditions": []}})
            assert 'updates may not remove a condition of type \\"Approved\\"' in str(answer.json).replace('"', '\\"')

    asyncio.run(trial())


def signing_request() -> str:
    import base64

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "me")])
    made = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    return base64.b64encode(made.public_bytes(serialization.Encoding.PEM)).decode()


def test_everything_with_replicas_scales() -> None:
    async def trial() -> None:
        async with serving() as calls:
            template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
            selector: Obj = {"matchLabels": {"a": "b"}}
            for path, api, kind, chosen in (
                ("/apis/apps/v1/namespaces/default/statefulsets", "apps/v1", "StatefulSet", selector),
                ("/api/v1/namespaces/default/replicationcontrollers", "v1", "ReplicationController", {"a": "b"}),
            ):
                spec = {"replicas": 2, "selector": chosen, "template": template, "serviceName": "s"}
                if kind == "ReplicationController":
                    del spec["serviceName"]
                made = await calls.post(
                    path, {"kind": kind, "apiVersion": api, "metadata": {"name": "w"}, "spec": spec}
                )
                assert made.code == 201, made.json
                scale = (await calls.get(f"{path}/w/scale")).json
                assert (scale["spec"], scale["status"]["selector"]) == ({"replicas": 2}, "a=b")
                scale["spec"]["replicas"] = 5
                assert (await calls.call("PUT", f"{path}/w/scale", scale)).json["spec"] == {"replicas": 5}

    asyncio.run(trial())
