"""EndpointSlices and Endpoints: who is in them, how they are filled, and that nothing moves without need."""

from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.plan import endpoints as old
from controllers.plan import endpointslices as plan
from kube import labels
from kube.core import Service
from kube.discovery import EndpointSlice
from kube.pods import Pod
from tests.unit.controllers.objects import Written, ago, endpoints, pod, service, slices

ZONES = {"n1": "west"}
GOING = {"metadata": {"deletionTimestamp": ago(5)}}


def many(count: int, first: int = 0) -> list[Pod]:
    return [pod(f"p{i}", f"10.0.{i // 250}.{i % 250 + 1}") for i in range(first, first + count)]


def sync(written: Written, pods: list[Pod], of: Service | None = None) -> int:
    """How many writes it took."""
    actions = plan.actions(of or service(), pods, ZONES, written.objects)
    written.carry_out(actions)
    assert plan.actions(of or service(), pods, ZONES, written.objects) == (), "a second look finds nothing to do"
    return len(actions)


def only(written: Written) -> EndpointSlice:
    (found,) = written.objects
    assert isinstance(found, EndpointSlice)
    return found


def test_one_pod_and_everything_that_is_said_about_it() -> None:
    written = slices()
    assert sync(written, [pod()]) == 1
    found = only(written)
    (endpoint,) = found.endpoints or ()
    assert endpoint.addresses == ("10.0.0.1",)
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (True, True, False)
    assert (endpoint.node_name, endpoint.zone) == ("n1", "west")
    assert endpoint.target_ref is not None
    assert (endpoint.target_ref.kind, endpoint.target_ref.name, endpoint.target_ref.uid) == ("Pod", "p", "uid-p")
    assert [(p.name, p.port, p.protocol) for p in found.ports or ()] == [("web", 8080, "TCP")]
    assert found.metadata.labels == {
        "own": "label",
        labels.SERVICE_NAME: "web",
        labels.ENDPOINTSLICE_MANAGED_BY: plan.MANAGER,
    }
    assert found.metadata.annotations[labels.LAST_CHANGE_TRIGGER_TIME]
    (owner,) = found.metadata.owner_references
    assert (owner.kind, owner.name, owner.controller) == ("Service", "web", True)


def test_conditions() -> None:
    written = slices()
    pods = [pod("up", "10.0.0.1"), pod("down", "10.0.0.2", ready=False), pod("going", "10.0.0.3", **GOING)]
    pods += [pod("over", "10.0.0.4", status={"phase": "Failed"}), pod("unborn", "")]
    sync(written, pods)
    words = {e.addresses[0][-1]: (e.ready, e.serving, e.terminating) for e in only(written).endpoints or ()}
    assert words == {"1": (True, True, False), "2": (False, False, False), "3": (False, True, True)}
    sync(written, pods, service(publishNotReadyAddresses=True))
    assert [e.ready for e in only(written).endpoints or ()] == [True, True, True]


def test_a_service_without_pods_keeps_one_empty_slice() -> None:
    written = slices()
    sync(written, [])
    assert only(written).endpoints == ()
    sync(written, [pod()])
    assert len(only(written).endpoints or ()) == 1
    sync(written, [])
    assert only(written).endpoints == ()


def test_headless_without_ports() -> None:
    written = slices()
    sync(written, [pod(spec={"hostname": "a", "subdomain": "web"})], service(clusterIP="None", ports=[]))
    found = only(written)
    assert labels.HEADLESS in found.metadata.labels
    assert found.ports == ()
    assert [e.hostname for e in found.endpoints or ()] == ["a"]


def test_named_ports_may_differ_from_pod_to_pod() -> None:
    other = pod(
        "q", "10.0.0.2", spec={"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 9090}]}]}
    )
    without = pod("r", "10.0.0.3", spec={"containers": [{"name": "c"}]})
    written = slices()
    sync(written, [pod(), other, without])
    ports = {s.ports[0].port: [e.addresses[0] for e in s.endpoints] for s in written.objects}
    assert ports == {8080: ["10.0.0.1"], 9090: ["10.0.0.2"]}


def test_both_families() -> None:
    dual = pod(status={"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]})
    written = slices()
    sync(written, [dual], service(ipFamilies=["IPv4", "IPv6"]))
    assert {s.address_type: s.endpoints[0].addresses[0] for s in written.objects} == {
        "IPv4": "10.0.0.1",
        "IPv6": "fd00::1",
    }


def test_a_hundred_a_slice_and_a_change_touches_one() -> None:
    written = slices()
    pods = many(250)
    assert sync(written, pods) == 3
    assert sorted(len(s.endpoints) for s in written.objects) == [50, 100, 100]
    assert sync(written, [*pods[:10], *pods[11:]]) == 1
    assert sync(written, pods) == 1, "the newcomer fills the fullest slice with room"
    assert sorted(len(s.endpoints) for s in written.objects) == [50, 100, 100]


def test_a_slice_that_was_made_before_a_crash_is_met_again() -> None:
    written, again = slices(), slices()
    written.carry_out(plan.actions(service(), many(3), ZONES, ()))
    again.carry_out(plan.actions(service(), many(3), ZONES, ()))
    assert written.bodies.keys() == again.bodies.keys()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sets(st.integers(0, 260)), st.integers(0, 6)), min_size=1, max_size=6))
def test_every_pod_is_in_one_slice_though_passes_are_cut_short(rounds: list[tuple[set[int], int]]) -> None:
    written = slices()
    for present, cut in rounds:
        pods = [many(1, i)[0] for i in sorted(present)]
        written.carry_out(plan.actions(service(), pods, ZONES, written.objects)[:cut])
    sync(written, pods)
    found = [e.target_ref.uid for s in written.objects for e in s.endpoints]
    assert sorted(found) == sorted(p.metadata.uid for p in pods)
    assert all(len(s.endpoints) <= plan.FULL for s in written.objects)


def older(written: Written, pods: list[Pod], of: Service | None = None) -> None:
    have = written.objects
    written.carry_out(old.actions(of or service(), pods, have[0] if have else None))
    assert old.actions(of or service(), pods, written.objects[0]) == ()


def test_endpoints() -> None:
    written = endpoints()
    pods = [
        pod("b", "10.0.0.2"),
        pod("a", "10.0.0.1"),
        pod("down", "10.0.0.3", ready=False),
        pod("going", "10.0.0.4", **GOING),
    ]
    older(written, pods)
    (subset,) = written.objects[0].subsets
    assert [a.ip for a in subset.addresses] == ["10.0.0.1", "10.0.0.2"]
    assert [a.ip for a in subset.not_ready_addresses] == ["10.0.0.3"]
    assert [(p.name, p.port) for p in subset.ports] == [("web", 8080)]
    assert written.objects[0].metadata.labels[old.MANAGED_BY] == old.MANAGER
    older(written, [])
    assert written.objects[0].subsets == ()


def test_endpoints_are_truncated_the_unready_ones_first() -> None:
    written = endpoints()
    older(written, [*[pod(f"d{i}", f"10.1.0.{i}", ready=False) for i in range(1, 5)], *many(998)])
    (subset,) = written.objects[0].subsets
    assert (len(subset.addresses), len(subset.not_ready_addresses)) == (998, 2)
    assert written.objects[0].metadata.annotations[old.OVER_CAPACITY] == "truncated"
    older(written, many(3))
    assert old.OVER_CAPACITY not in written.objects[0].metadata.annotations


def test_only_what_is_ours_goes_with_its_service() -> None:
    written = endpoints()
    older(written, [pod()])
    assert len(old.orphaned(written.objects[0])) == 1
    written.bodies["web"]["metadata"]["labels"] = {}
    assert old.orphaned(written.objects[0]) == ()
