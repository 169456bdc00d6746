"""LimitRanges: defaults, bounds, and the words of both."""

from __future__ import annotations

import pytest

from apiserver.admission import limits
from apiserver.errors import StatusError
from tests.unit.apiserver.admission.asked import Obj, World, admitted, attributes, chain, obj, pod


def limit_range(*items: Obj) -> Obj:
    return obj("v1", "LimitRange", "l", "d", spec={"limits": list(items)})


def sized(requests: Obj | None = None, limits: Obj | None = None) -> Obj:
    resources = {key: value for key, value in (("requests", requests), ("limits", limits)) if value}
    return pod(containers=[{"name": "c", "resources": resources}])


def faults(item: Obj, asked: Obj) -> list[str]:
    return list(limits.pod_faults(asked, [item]))


def test_defaults_fill_what_is_open_and_say_so() -> None:
    item = {"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "500m"}}
    asked = sized(requests={"memory": "100Mi"})
    asked["spec"]["initContainers"] = [{"name": "i"}]
    found = admitted(chain(World(limit_range(item)), "LimitRanger"), attributes("pods", asked))
    assert found["spec"]["containers"][0]["resources"] == {
        "requests": {"memory": "100Mi", "cpu": "500m"},
        "limits": {"cpu": "1", "memory": "1Gi"},
    }
    assert found["metadata"]["annotations"] == {
        "kubernetes.io/limit-ranger": "LimitRanger plugin set: cpu request for container c; cpu, memory limit for container"
        " c; cpu request for init container i; cpu, memory limit for init container i"
    }


@pytest.mark.parametrize(
    ("item", "asked", "words"),
    [
        ({"min": {"memory": "500Mi"}}, sized({"memory": "100Mi"}, {"memory": "1Gi"}),
         "minimum memory usage per Container is 500Mi, but request is 100Mi"),
        ({"min": {"cpu": "1"}}, sized(), "minimum cpu usage per Container is 1.  No request is specified"),
        ({"max": {"memory": "1Gi"}}, sized({"memory": "1Gi"}, {"memory": "1536Mi"}),
         "maximum memory usage per Container is 1Gi, but limit is 1536Mi"),
        ({"max": {"cpu": "1"}}, sized({"cpu": "2"}), "maximum cpu usage per Container is 1.  No limit is specified"),
        ({"maxLimitRequestRatio": {"cpu": "2"}}, sized({"cpu": "100m"}, {"cpu": "250m"}),
         "cpu max limit to request ratio per Container is 2, but provided ratio is 2.500000"),
        ({"maxLimitRequestRatio": {"cpu": "2"}}, sized(limits={"cpu": "1"}),
         "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0"),
    ],
)  # fmt: skip
def test_bounds_of_containers(item: Obj, asked: Obj, words: str) -> None:
    assert faults({"type": "Container", **item}, asked) == [words]


def test_bounds_of_pods_are_about_all_containers() -> None:
    two = pod(
        containers=[{"name": n, "resources": {"limits": {"cpu": "600m"}, "requests": {"cpu": "1m"}}} for n in "ab"]
    )
    item = {"type": "Pod", "max": {"cpu": "1"}}
    assert faults(item, two) == ["maximum cpu usage per Pod is 1, but limit is 1200m"]
    admission = chain(World(limit_range(item, {"type": "Container", "max": {"memory": "1Gi"}})), "LimitRanger")
    with pytest.raises(StatusError) as refused:
        admitted(admission, attributes("pods", two))
    assert refused.value.message == (
        'pods "p" is forbidden: [maximum cpu usage per Pod is 1, but limit is 1200m,'
        " maximum memory usage per Container is 1Gi.  No limit is specified]"
    )


def test_who_resizes_stays_within_the_bounds_too() -> None:
    item = {"type": "Container", "max": {"cpu": "1"}, "default": {"memory": "1Gi"}}
    admission = chain(World(limit_range(item)), "LimitRanger")
    old, within, above = (sized(limits={"cpu": cpu}) for cpu in ("500m", "1", "2"))
    found = admitted(admission, attributes("pods", within, old, subresource="resize"))
    assert found["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "1"}}  # defaults are for new pods
    with pytest.raises(StatusError) as refused:
        admitted(admission, attributes("pods", above, old, subresource="resize"))
    assert refused.value.message.endswith("maximum cpu usage per Container is 1, but limit is 2")
    admitted(admission, attributes("pods", above, old))


def test_claims() -> None:
    item = {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}
    admission = chain(World(limit_range(item)), "LimitRanger")

    def claim(size: str) -> Obj:
        return obj("v1", "PersistentVolumeClaim", "x", "d", spec={"resources": {"requests": {"storage": size}}})

    admitted(admission, attributes("persistentvolumeclaims", claim("2Gi")))
    for size, words in (
        ("5Gi", "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 5Gi"),
        ("500Mi", "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 500Mi"),
    ):
        with pytest.raises(StatusError) as refused:
            admitted(admission, attributes("persistentvolumeclaims", claim(size)))
        assert refused.value.message == f'persistentvolumeclaims "x" is forbidden: {words}'
