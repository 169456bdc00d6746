"""Selectable fields: every value is text, absence is the empty string."""

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


def test_other_kinds_have_name_and_namespace() -> None:
    assert fields.labels(GVK("apps", "v1", "Deployment")) == {"metadata.name", "metadata.namespace"}


def test_refusals() -> None:
    assert fields.unknown(POD, "spec.foo").message == "field label not supported: spec.foo"
    deployment = fields.unknown(GVK("apps", "v1", "Deployment"), "spec.foo")
    assert deployment.code == 400
    assert deployment.message == '"spec.foo" is not a known field selector: only "metadata.name", "metadata.namespace"'
