"""Selectable fields: every value is text, absence is the empty string."""

import pytest

from apiserver import fields
from apiserver.schema import GVK

POD = GVK("", "v1", "Pod")


def test_pods() -> None:
    obj = {"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}
    found = fields.selectable(POD, obj)
    assert found.keys() == fields.labels(POD)
    assert found["metadata.name"] == "p"
    assert found["spec.nodeName"] == "n1"
    assert found["spec.hostNetwork"] == "false"
    assert found["status.podIP"] == ""


def test_nodes_and_events() -> None:
    assert fields.selectable(GVK("", "v1", "Node"), {"spec": {"unschedulable": True}})["spec.unschedulable"] == "true"
    event = {"involvedObject": {"kind": "Pod", "uid": "u"}, "source": {"component": "kubelet"}}
    found = fields.selectable(GVK("", "v1", "Event"), event)
    assert (found["involvedObject.kind"], found["involvedObject.uid"], found["source"]) == ("Pod", "u", "kubelet")
    reported = fields.selectable(GVK("", "v1", "Event"), {"reportingComponent": "x"})
    assert reported["source"] == "x"
    renamed = fields.selectable(GVK("events.k8s.io", "v1", "Event"), {"regarding": {"name": "p"}})
    assert renamed["regarding.name"] == "p"


def test_a_stored_event_answers_for_both_its_groups() -> None:
    event = {"involvedObject": {"kind": "Pod"}, "reportingComponent": "x", "reason": "R", "metadata": {"name": "e"}}
    found = fields.stored_event()(event)
    assert found.keys() == fields.labels(GVK("", "v1", "Event")) | fields.labels(GVK("events.k8s.io", "v1", "Event"))
    assert (found["involvedObject.kind"], found["regarding.kind"], found["reportingController"]) == ("Pod", "Pod", "x")
    assert (found["source"], found["reason"], found["regarding.name"], found.get("nonsense")) == ("x", "R", "", None)


@pytest.mark.parametrize(
    ("gvk", "obj", "label", "value"),
    [
        (GVK("batch", "v1", "Job"), {"status": {"succeeded": 3}}, "status.successful", "3"),
        (GVK("batch", "v1", "Job"), {}, "status.successful", "0"),
        (GVK("", "v1", "ReplicationController"), {"status": {"replicas": 2}}, "status.replicas", "2"),
        (GVK("certificates.k8s.io", "v1", "CertificateSigningRequest"), {"spec": {"signerName": "s"}}, "spec.signerName", "s"),
        (GVK("resource.k8s.io", "v1", "ResourceSlice"), {"spec": {"nodeName": "n"}}, "spec.nodeName", "n"),
        (GVK("", "v1", "Secret"), {"type": "Opaque"}, "type", "Opaque"),
        (GVK("", "v1", "Service"), {"spec": {"clusterIP": "None"}}, "spec.clusterIP", "None"),
        (GVK("", "v1", "Namespace"), {"status": {"phase": "Active"}}, "status.phase", "Active"),
    ],
)  # fmt: skip
def test_kinds_have_fields_of_their_own(gvk: GVK, obj: dict[str, object], label: str, value: str) -> None:
    assert label in fields.labels(gvk)
    assert fields.selectable(gvk, obj)[label] == value


def test_other_kinds_have_name_and_namespace() -> None:
    assert fields.labels(GVK("apps", "v1", "Deployment")) == {"metadata.name", "metadata.namespace"}


def test_refusals() -> None:
    assert fields.unknown(POD, "spec.foo").message == "field label not supported: spec.foo"
    deployment = fields.unknown(GVK("apps", "v1", "Deployment"), "spec.foo")
    assert deployment.code == 400
    assert deployment.message == '"spec.foo" is not a known field selector: only "metadata.name", "metadata.namespace"'
