"""What admission adds to, and holds against, objects that are no pods: classes, volumes, certificates, namespaces, quotas."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from apiserver.admission import DEFAULT, PLUGINS
from apiserver.admission.quota import charge
from apiserver.authorization import Attributes as Question
from apiserver.authorization import Decision, Rules
from apiserver.errors import StatusError
from tests.unit.apiserver.admission.asked import Obj, World, admitted, attributes, chain, obj, pod


def marked(kind: str, api: str, name: str, mark: str, created: str) -> Obj:
    metadata = {"annotations": {mark: "true"}, "creationTimestamp": created}
    return obj(api, kind, name, metadata=metadata)


def test_claims_without_a_class_get_the_newest_default() -> None:
    mark = "storageclass.kubernetes.io/is-default-class"
    old = marked("StorageClass", "storage.k8s.io/v1", "old", mark, "2025-01-01T00:00:00Z")
    new = marked("StorageClass", "storage.k8s.io/v1", "new", mark, "2026-01-01T00:00:00Z")
    plain = obj("storage.k8s.io/v1", "StorageClass", "plain", metadata={"creationTimestamp": "2027-01-01T00:00:00Z"})
    admission = chain(World(old, new, plain), "DefaultStorageClass")

    def claim(**spec: Any) -> Any:
        asked = attributes("persistentvolumeclaims", obj("v1", "PersistentVolumeClaim", "c", "d", spec=spec))
        return admitted(admission, asked)["spec"].get("storageClassName")

    assert claim() == "new"
    assert claim(storageClassName="") == ""  # no class, and no default wanted
    assert claim(storageClassName="plain") == "plain"


def test_ingresses_without_a_class_get_the_default() -> None:
    mark = "ingressclass.kubernetes.io/is-default-class"
    world = World(marked("IngressClass", "networking.k8s.io/v1", "nginx", mark, "2026-01-01T00:00:00Z"))
    ingress = obj("networking.k8s.io/v1", "Ingress", "i", "d", spec={})
    asked = attributes("ingresses.networking.k8s.io", ingress)
    assert admitted(chain(world, "DefaultIngressClass"), asked)["spec"] == {"ingressClassName": "nginx"}


def test_volumes_and_claims_are_protected() -> None:
    admission = chain(World(), "StorageObjectInUseProtection")
    claim = attributes("persistentvolumeclaims", obj("v1", "PersistentVolumeClaim", "c", "d", spec={}))
    assert admitted(admission, claim)["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]
    volume = obj("v1", "PersistentVolume", "v", metadata={"finalizers": ["mine"]}, spec={})
    found = admitted(admission, attributes("persistentvolumes", volume))
    assert found["metadata"]["finalizers"] == ["mine", "kubernetes.io/pv-protection"]


def test_claims_grow_where_their_class_lets_them() -> None:
    world = World(obj("storage.k8s.io/v1", "StorageClass", "grows", allowVolumeExpansion=True))
    world.put(obj("storage.k8s.io/v1", "StorageClass", "stays"))
    admission = chain(world, "PersistentVolumeClaimResize")

    def grow(name: str, phase: str = "Bound", size: str = "2Gi") -> None:
        def sized(amount: str) -> Obj:
            spec = {"storageClassName": name, "resources": {"requests": {"storage": amount}}}
            return obj("v1", "PersistentVolumeClaim", "c", "d", spec=spec, status={"phase": phase})

        admitted(admission, attributes("persistentvolumeclaims", sized(size), sized("1Gi")))

    grow("grows")
    grow("stays", size="1024Mi")
    with pytest.raises(StatusError, match="Only bound persistent volume claims can be expanded"):
        grow("grows", "Pending")
    with pytest.raises(StatusError, match="the storageclass that provisions the pvc must support resize"):
        grow("stays")


def request(organization: str, signer: str = "kubernetes.io/kube-apiserver-client") -> Obj:
    names = [x509.NameAttribute(NameOID.COMMON_NAME, "me"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    pem = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(
        serialization.Encoding.PEM
    )
    spec = {"signerName": signer, "request": base64.b64encode(pem).decode()}
    return obj("certificates.k8s.io/v1", "CertificateSigningRequest", "r", spec=spec)


CSRS = "certificatesigningrequests.certificates.k8s.io"


def test_nobody_asks_to_be_master() -> None:
    admission = chain(World(), "CertificateSubjectRestriction")
    admitted(admission, attributes(CSRS, request("people")))
    admitted(admission, attributes(CSRS, request("system:masters", "example.com/other")))
    with pytest.raises(StatusError, match="signer with system:masters group is not allowed"):
        admitted(admission, attributes(CSRS, request("system:masters")))


class Strict:
    """Lets one verb on one name pass."""

    def __init__(self, verb: str, name: str) -> None:
        self._allowed = (verb, "signers", name)

    def decide(self, asked: Question) -> Decision:
        return Decision((asked.verb, asked.resource, asked.name) == self._allowed)

    def rules(self, user: object, namespace: str) -> Rules:
        raise AssertionError((user, namespace))


@pytest.mark.parametrize("name", ["example.com/s", "example.com/*"])
def test_who_may_approve_is_asked_for_the_signer(name: str) -> None:
    given = request("people", "example.com/s")
    approved = given | {"status": {"conditions": [{"type": "Approved", "status": "True"}]}}
    admission = chain(World(), "CertificateApproval", "CertificateSigning", authorizer=Strict("approve", name))
    admitted(admission, attributes(CSRS, approved, given, subresource="approval"))
    signed = given | {"status": {"certificate": "LS0t"}}
    with pytest.raises(StatusError, match="user not permitted to sign requests with signerName"):
        admitted(admission, attributes(CSRS, signed, given, subresource="status"))
    nobody = chain(World(), "CertificateApproval", authorizer=Strict("", ""))
    with pytest.raises(StatusError, match="user not permitted to approve requests with signerName"):
        admitted(nobody, attributes(CSRS, approved, given, subresource="approval"))


def namespace(name: str, phase: str = "Active") -> Obj:
    return obj("v1", "Namespace", name, status={"phase": phase})


def test_namespaces() -> None:
    admission = chain(World(namespace("d"), namespace("going", "Terminating")), "NamespaceLifecycle")
    admitted(admission, attributes("pods", pod()))
    with pytest.raises(StatusError) as missing:
        admitted(admission, attributes("pods", pod(namespace="nowhere")))
    assert (missing.value.code, missing.value.message) == (404, 'namespaces "nowhere" not found')
    with pytest.raises(StatusError) as late:
        admitted(admission, attributes("pods", pod(namespace="going")))
    assert (late.value.details or {})["causes"][0]["reason"] == "NamespaceTerminating"
    admitted(admission, attributes("pods", pod(namespace="going"), pod(namespace="going")))
    with pytest.raises(StatusError, match='namespaces "default" is forbidden: this namespace may not be deleted'):
        admitted(admission, attributes("namespaces", namespace("default"), operation="DELETE"))
    admitted(admission, attributes("namespaces", namespace("kube-node-lease"), operation="DELETE"))


def test_external_ips_are_denied_when_the_plugin_is_on() -> None:
    admission = chain(World(), "DenyServiceExternalIPs")
    old = obj("v1", "Service", "s", "d", spec={"externalIPs": ["1.2.3.4"]})
    admitted(admission, attributes("services", old, old))
    with pytest.raises(StatusError, match="Use of external IPs is denied by admission control"):
        admitted(admission, attributes("services", old))


def limited(hard: Obj, used: Obj, **spec: Any) -> Obj:
    status = {"hard": hard, "used": used}
    return obj("v1", "ResourceQuota", "q", "d", spec={"hard": hard, **spec}, status=status)


def sized(cpu: str) -> Obj:
    return pod(containers=[{"name": "c", "resources": {"requests": {"cpu": cpu}}}])


def test_quotas_are_charged() -> None:
    quota = limited({"pods": "3", "requests.cpu": "1"}, {"pods": "2", "requests.cpu": "500m"})
    charged = charge(attributes("pods", sized("0.5")), quota)
    assert charged is not None
    assert charged["status"]["used"] == {"pods": "3", "requests.cpu": "1"}
    assert charge(attributes("secrets", obj("v1", "Secret", "s", "d")), quota) is None
    assert charge(attributes("pods", pod()), limited({"pods": "1"}, {"pods": "0"}, scopes=["NotBestEffort"])) is None


@pytest.mark.parametrize(
    ("quota", "asked", "words"),
    [
        (limited({"pods": "2"}, {"pods": "2"}), pod(), "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"),
        (limited({"requests.cpu": "1", "pods": "9"}, {"requests.cpu": "600m", "pods": "1"}), sized("500m"),
         "exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1"),
        (limited({"cpu": "1"}, {"cpu": "0"}), pod(), "failed quota: q: must specify cpu for: c"),
        (limited({"pods": "2"}, {}), pod(), "status unknown for quota: q, resources: pods"),
    ],
)  # fmt: skip
def test_quotas_refuse_in_upstreams_words(quota: Obj, asked: Obj, words: str) -> None:
    with pytest.raises(StatusError) as refused:
        charge(attributes("pods", asked), quota)
    assert (refused.value.code, refused.value.message) == (403, f'pods "p" is forbidden: {words}')


def test_a_changed_service_is_charged_for_what_it_has_more() -> None:
    quota = limited({"services": "1", "services.nodeports": "1"}, {"services": "1", "services.nodeports": "0"})

    def service(kind: str, ports: int = 1) -> Obj:
        return obj("v1", "Service", "s", "d", spec={"type": kind, "ports": [{"port": n} for n in range(ports)]})

    charged = charge(attributes("services", service("NodePort"), service("ClusterIP")), quota)
    assert charged is not None
    assert charged["status"]["used"] == {"services": "1", "services.nodeports": "1"}
    assert charge(attributes("services", service("ClusterIP"), service("NodePort")), quota) is None
    with pytest.raises(StatusError, match=r"requested: services\.nodeports=2, used: services\.nodeports=0"):
        charge(attributes("services", service("NodePort", 2), service("ClusterIP")), quota)


def test_which_plugins_run() -> None:
    assert {"AlwaysPullImages", "ExtendedResourceToleration", "DenyServiceExternalIPs"} == PLUGINS - DEFAULT
    names = [plugin.name for plugin in chain(World(), *DEFAULT).plugins]
    assert names.index("NamespaceLifecycle") < names.index("LimitRanger") < names.index("ServiceAccount")
    assert names.index("PodSecurity") < names.index("Priority") < names.index("RuntimeClass")
