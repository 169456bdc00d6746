import base64
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube.core import ConfigMap, Secret, Service, ServicePort, ServiceSpec
from kube.errors import Invalid
from kube.meta import ObjectMeta
from kube.pods import Container, Pod, PodSpec, ResourceRequirements
from kube.sources import (
    EnvFromSource,
    EnvSource,
    EnvVar,
    EnvVarSource,
    KeySelector,
    ObjectFieldSelector,
    ResourceFieldSelector,
)
from kubelet.environment import (
    Missing,
    Surroundings,
    command_line,
    environment,
    expand,
    resource_value,
    service_variables,
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("$(A)-$(B)", "1-2"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(NOPE)", "$(NOPE)"),
        ("$(A", "$(A"),
        ("a$", "a$"),
        ("$x$(A)", "$x1"),
        ("$(A)$$(B)", "1$(B)"),
        ("$()", "$()"),
        ("f000-$(A$$(B))", "f000-$(A$$(B))"),
    ],
)
def test_expansion(text: str, wanted: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == wanted


@given(st.text(st.characters(exclude_characters="$"), max_size=40))
def test_text_without_dollars_is_left_alone(text: str) -> None:
    assert expand(text, {"A": "1"}) == text


@given(st.text(max_size=40))
def test_escaping_every_dollar_gives_the_text_back(text: str) -> None:
    assert expand(text.replace("$", "$$"), {"A": "1"}) == text


def service(name: str, namespace: str = "default", ip: str = "10.96.0.9", *ports: ServicePort) -> Service:
    return Service(
        metadata=ObjectMeta(name=name, namespace=namespace),
        spec=ServiceSpec(cluster_ip=ip, ports=ports or (ServicePort(port=80),)),
    )


def test_service_variables() -> None:
    ports = (ServicePort(name="http-x", port=80), ServicePort(name="dns", port=53, protocol="UDP"))
    found = service_variables([service("my-web", "ns", "10.96.0.7", *ports)], "ns")
    assert found == {
        "MY_WEB_SERVICE_HOST": "10.96.0.7",
        "MY_WEB_SERVICE_PORT": "80",
        "MY_WEB_SERVICE_PORT_HTTP_X": "80",
        "MY_WEB_SERVICE_PORT_DNS": "53",
        "MY_WEB_PORT": "tcp://10.96.0.7:80",
        "MY_WEB_PORT_80_TCP": "tcp://10.96.0.7:80",
        "MY_WEB_PORT_80_TCP_PROTO": "tcp",
        "MY_WEB_PORT_80_TCP_PORT": "80",
        "MY_WEB_PORT_80_TCP_ADDR": "10.96.0.7",
        "MY_WEB_PORT_53_UDP": "udp://10.96.0.7:53",
        "MY_WEB_PORT_53_UDP_PROTO": "udp",
        "MY_WEB_PORT_53_UDP_PORT": "53",
        "MY_WEB_PORT_53_UDP_ADDR": "10.96.0.7",
    }


def test_service_variables_are_of_ones_own_namespace_and_the_api() -> None:
    services = [service("kubernetes"), service("a", "other"), service("b", "ns"), service("none", "ns", "None")]
    assert "KUBERNETES_SERVICE_HOST" in service_variables(services, "ns")
    assert "B_SERVICE_HOST" in service_variables(services, "ns")
    assert not any(name.startswith(("A_", "NONE_")) for name in service_variables(services, "ns"))
    assert not any(name.startswith("B_") for name in service_variables(services, "ns", links=False))
    assert "KUBERNETES_SERVICE_HOST" in service_variables(services, "ns", links=False)


POD = Pod(
    metadata=ObjectMeta(name="p", namespace="ns", uid="u", labels={"b": "2", "a": 'x"y'}),
    spec=PodSpec(node_name="n", service_account_name="sa"),
)


def around(**more: object) -> Surroundings:
    return Surroundings(
        services=[service("web", "ns", "10.96.0.5")],
        config_maps={"cm": ConfigMap(data={"A": "from-cm", "WEB_SERVICE_HOST": "mine"})},
        secrets={"s": Secret(data={"P": base64.b64encode(b"geheim").decode()})},
        host_ips=("10.0.0.1",),
        pod_ips=("10.244.0.2",),
        allocatable={"cpu": "2", "memory": "4Gi"},
    )


def value(**source: object) -> EnvVarSource:
    return EnvVarSource(**source)  # type: ignore[arg-type]


def test_order_services_then_env_from_then_env() -> None:
    container = Container(
        name="c",
        env_from=(
            EnvFromSource(config_map_ref=EnvSource(name="cm")),
            EnvFromSource(prefix="X_", secret_ref=EnvSource(name="s")),
        ),
        env=(
            EnvVar(name="A", value="$(WEB_SERVICE_PORT)"),
            EnvVar(name="B", value="$(A)-$(LATER)-$(X_P)"),
            EnvVar(name="LATER", value="z"),
        ),
    )
    found = environment(POD, container, around())
    assert found["WEB_SERVICE_HOST"] == "mine"
    assert found["A"] == "80"
    assert found["X_P"] == "geheim"
    # env sees envFrom, what env defined before it and the services, not what comes later
    assert found["B"] == "80-$(LATER)-geheim"


def test_env_from_goes_before_services_in_expansion() -> None:
    container = Container(
        name="c",
        env_from=(EnvFromSource(config_map_ref=EnvSource(name="cm")),),
        env=(EnvVar(name="HOST", value="$(WEB_SERVICE_HOST):$(WEB_SERVICE_PORT)"), EnvVar(name="a.b-c d", value="odd")),
    )
    found = environment(POD, container, around())
    assert found["HOST"] == "mine:80"
    assert found["a.b-c d"] == "odd"


def test_what_is_no_text_is_no_variable() -> None:
    world = around()
    binary = Secret(data={"K": base64.b64encode(b"\xff\xfe").decode()})
    world = replace(world, secrets={"s": binary})
    for container in (
        Container(name="c", env_from=(EnvFromSource(secret_ref=EnvSource(name="s")),)),
        Container(name="c", env=(EnvVar(name="K", value_from=value(secret_key_ref=KeySelector(name="s", key="K"))),)),
    ):
        with pytest.raises(Invalid, match="key K of secret s is not UTF-8"):
            environment(POD, container, world)


@pytest.mark.parametrize(
    ("own", "resource", "expected"),
    [
        ({}, "limits.cpu", "2"),
        ({"cpu": "0"}, "limits.cpu", "2"),
        ({}, "limits.ephemeral-storage", "7"),
        ({}, "limits.hugepages-2Mi", "0"),
        ({}, "requests.memory", "0"),
    ],
)
def test_what_bounds_a_container_without_limits(own: dict[str, str], resource: str, expected: str) -> None:
    container = Container(name="c", resources=ResourceRequirements(limits=own))
    selector = ResourceFieldSelector(resource=resource)
    node = {"cpu": "1900m", "ephemeral-storage": "7", "hugepages-2Mi": "4Mi"}
    assert resource_value(POD, container, selector, node) == expected
    whole = ResourceRequirements(limits={"cpu": "500m"})
    pod = msgspec.structs.replace(POD, spec=PodSpec(resources=whole))
    if resource == "limits.cpu":
        milli = ResourceFieldSelector(resource=resource, divisor="1m")
        assert resource_value(pod, container, milli, node) == "500"


def test_values_from_elsewhere() -> None:
    container = Container(
        name="c",
        resources=ResourceRequirements(limits={"cpu": "1500m"}, requests={"memory": "100Mi"}),
        env=(
            EnvVar(name="NAME", value_from=value(field_ref=ObjectFieldSelector(field_path="metadata.name"))),
            EnvVar(name="LABELS", value_from=value(field_ref=ObjectFieldSelector(field_path="metadata.labels"))),
            EnvVar(name="ONE", value_from=value(field_ref=ObjectFieldSelector(field_path="metadata.labels['b']"))),
            EnvVar(name="IP", value_from=value(field_ref=ObjectFieldSelector(field_path="status.podIP"))),
            EnvVar(name="CPU", value_from=value(resource_field_ref=ResourceFieldSelector(resource="limits.cpu"))),
            EnvVar(
                name="CPU_M",
                value_from=value(resource_field_ref=ResourceFieldSelector(resource="limits.cpu", divisor="1m")),
            ),
            EnvVar(name="MEM", value_from=value(resource_field_ref=ResourceFieldSelector(resource="limits.memory"))),
            EnvVar(
                name="REQ",
                value_from=value(resource_field_ref=ResourceFieldSelector(resource="requests.memory", divisor="1Mi")),
            ),
            EnvVar(name="SECRET", value_from=value(secret_key_ref=KeySelector(name="s", key="P"))),
            EnvVar(name="MAYBE", value_from=value(config_map_key_ref=KeySelector(name="no", key="k", optional=True))),
        ),
    )
    found = environment(POD, container, around())
    assert found["NAME"] == "p"
    assert found["LABELS"] == 'a="x\\"y"\nb="2"'
    assert found["ONE"] == "2"
    assert found["IP"] == "10.244.0.2"
    assert found["CPU"] == "2"
    assert found["CPU_M"] == "1500"
    assert found["MEM"] == str(4 * 2**30)
    assert found["REQ"] == "100"
    assert found["SECRET"] == "geheim"
    assert "MAYBE" not in found


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (value(config_map_key_ref=KeySelector(name="no", key="k")), 'configmap "no" not found'),
        (value(config_map_key_ref=KeySelector(name="cm", key="k")), "couldn't find key k in ConfigMap ns/cm"),
        (value(secret_key_ref=KeySelector(name="no", key="k")), 'secret "no" not found'),
        (value(secret_key_ref=KeySelector(name="s", key="k")), "couldn't find key k in Secret ns/s"),
    ],
)
def test_what_is_missing_is_named_as_upstream_names_it(source: EnvVarSource, message: str) -> None:
    with pytest.raises(Missing) as caught:
        environment(POD, Container(env=(EnvVar(name="V", value_from=source),)), around())
    assert str(caught.value) == message


def test_an_unknown_field_is_the_authors_fault() -> None:
    source = value(field_ref=ObjectFieldSelector(field_path="spec.nope"))
    with pytest.raises(Invalid, match=r"spec\.nope"):
        environment(POD, Container(env=(EnvVar(name="V", value_from=source),)), around())


def test_what_an_api_should_have_refused_is_the_authors_fault() -> None:
    much = ResourceRequirements(limits={"cpu": "much"})
    none = ResourceRequirements()
    for resources, resource, divisor in (
        (none, "limits.cpu", "abc"),
        (much, "limits.cpu", ""),
        (much, "requests.cpu", ""),
    ):
        field = ResourceFieldSelector(resource=resource, divisor=divisor)
        variable = EnvVar(name="A", value_from=value(resource_field_ref=field))
        with pytest.raises(Invalid, match="is no quantity"):
            environment(POD, Container(resources=resources, env=(variable,)), around())
    world = replace(around(), secrets={"s": Secret(data={"k": "abc"})})
    with pytest.raises(Invalid, match="key k of secret s"):
        environment(POD, Container(env_from=(EnvFromSource(secret_ref=EnvSource(name="s")),)), world)


def test_command_and_args_see_everything() -> None:
    container = Container(command=("sh", "$(A)"), args=("$$(A)", "$(NO)"))
    assert command_line(container, {"A": "1"}) == (("sh", "1"), ("$(A)", "$(NO)"))


def test_a_source_that_is_not_known_is_no_empty_variable() -> None:
    container = msgspec.convert({"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"path": "f"}}}]}, Container)
    with pytest.raises(Invalid, match=r"env A: valueFrom: .*fieldRef, .*fileKeyRef is planned"):
        environment(Pod(), container, Surroundings())
