"""Bodies become conforming objects, or a 400 in upstream's words."""

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver import codec, schema
from apiserver.codec import json as json_codec
from apiserver.codec import yaml
from apiserver.errors import StatusError
from apiserver.schema import GVK
from tests.unit.apiserver.protobuf_writer import MAGIC, chunk

POD = GVK("", "v1", "Pod")
DEPLOYMENT = GVK("apps", "v1", "Deployment")


def decode(document: dict[str, Any], gvk: GVK = POD, validation: codec.FieldValidation = "Strict") -> dict[str, Any]:
    return codec.decode_body(json.dumps(document).encode(), None, gvk, validation).obj


def refusal(body: bytes | dict[str, Any], gvk: GVK = POD, kind: str | None = None) -> StatusError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(StatusError) as caught:
        codec.decode_body(raw, kind, gvk, "Strict")
    return caught.value


def test_what_a_body_leaves_out_is_what_was_expected() -> None:
    assert decode({"metadata": {"name": "x"}}) == {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}


def test_null_and_empty_mean_absence_where_go_has_no_pointer() -> None:
    spec = {"containers": [{"name": "c", "env": [], "command": None, "stdin": False}], "hostNetwork": False}
    found = decode({"metadata": {"name": "x", "creationTimestamp": None, "labels": {}}, "spec": spec, "status": {}})
    assert found["metadata"] == {"name": "x"}
    assert found["spec"] == {"containers": [{"name": "c"}]}
    assert found["status"] == {}


def test_pointers_keep_their_zeros() -> None:
    found = decode({"spec": {"replicas": 0, "minReadySeconds": 0}}, DEPLOYMENT)
    assert found["spec"] == {"replicas": 0}


def test_spellings_become_canonical() -> None:
    limits = {"cpu": "1000m", "memory": "1024Mi", "other": 2}
    spec = {"containers": [{"name": "c", "resources": {"limits": limits}}]}
    found = decode({"metadata": {"creationTimestamp": "2026-01-02T03:04:05+02:00"}, "spec": spec})
    assert found["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "1", "memory": "1Gi", "other": "2"}
    assert found["metadata"]["creationTimestamp"] == "2026-01-02T01:04:05Z"
    lease = GVK("coordination.k8s.io", "v1", "Lease")
    renewed = decode({"spec": {"renewTime": "2026-01-02T03:04:05Z"}}, lease)
    assert renewed["spec"]["renewTime"] == "2026-01-02T03:04:05.000000Z"


UNKNOWN = b'{"spec":{"containers":[{"name":"a","foo":1}],"bar":{}},"spec":{"containers":[{"name":"b","foo":1}]}}'


def test_strict_findings_refuse_warn_or_vanish() -> None:
    error = refusal(UNKNOWN)
    assert error.code == 400
    assert error.message == (
        'Pod in version "v1" cannot be handled as a Pod: strict decoding error: '
        'duplicate field "spec", unknown field "spec.containers[0].foo"'
    )
    warned = codec.decode_body(UNKNOWN, "application/json", POD, "Warn")
    assert warned.warnings == ('duplicate field "spec"', 'unknown field "spec.containers[0].foo"')
    ignored = codec.decode_body(UNKNOWN, "application/json", POD, "Ignore")
    assert ignored.warnings == ()
    assert ignored.obj == warned.obj
    assert ignored.obj["spec"] == {"containers": [{"name": "b"}]}


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"spec": {"hostNetwork": "yes"}}, "string into Go struct field PodSpec.spec.hostNetwork of type bool"),
        (
            {"spec": {"containers": [{"env": [{"value": 1}]}]}},
            "number into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
        ({"spec": {"containers": {}}}, "object into Go struct field PodSpec.spec.containers of type []v1.Container"),
        ({"spec": []}, "array into Go struct field Pod.spec of type v1.PodSpec"),
        ({"metadata": {"labels": {"a": 1}}}, "number into Go struct field ObjectMeta.metadata.labels of type string"),
        (
            {"spec": {"terminationGracePeriodSeconds": 1.5}},
            "number 1.5 into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64",
        ),
        (
            {"spec": {"priority": 2**31}},
            "number 2147483648 into Go struct field PodSpec.spec.priority of type int32",
        ),
    ],
)
def test_a_wrong_type_names_the_field_as_go_does(document: dict[str, Any], why: str) -> None:
    prefix = 'Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal '
    assert refusal(document).message == prefix + why


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (
            {"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}},
            "quantities must match the regular expression",
        ),
        ({"spec": {"containers": [{"resources": {"limits": {"cpu": "1e999999999"}}}]}}, "quantities must match"),
        ({"metadata": {"creationTimestamp": "yesterday"}}, 'parsing time "yesterday"'),
        ({"metadata": {"creationTimestamp": "2026-13-45T00:00:00Z"}}, 'parsing time "2026-13-45T00:00:00Z"'),
    ],
)
def test_a_malformed_scalar_says_what_is_wrong(document: dict[str, Any], why: str) -> None:
    assert why in refusal(document).message


def test_base64_is_checked() -> None:
    error = refusal({"data": {"a": "!!"}}, GVK("", "v1", "Secret"))
    assert "illegal base64 data at input byte 0" in error.message


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            b"",
            "(must be of type Pod): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)",
        ),
        (b"{", "json parse error: "),
        (b"[]", "cannot unmarshal array"),
        (b'{"kind":"Nonsense"}', 'no kind "Nonsense" is registered for version "v1"'),
        (b'{"kind":"Deployment","apiVersion":"apps/v1"}', "does not match the expected API version (v1)"),
        (b'{"kind":"Service","apiVersion":"v1"}', 'the kind in the data ("Service") does not match'),
    ],
)
def test_a_body_that_is_not_the_expected_kind(body: bytes, why: str) -> None:
    error = refusal(body)
    assert error.code == 400
    assert why in error.message


def test_unknown_media_types_are_told_the_known_ones() -> None:
    error = refusal(b"", kind="text/plain; charset=utf-8")
    assert error.code == 415
    assert "application/json, application/yaml, application/vnd.kubernetes.protobuf" in error.message


def test_delete_options_may_come_under_any_version() -> None:
    options = GVK("", "v1", "DeleteOptions")
    body = b'{"kind":"DeleteOptions","apiVersion":"apps/v1","propagationPolicy":"Orphan"}'
    assert codec.decode_body(body, None, options).obj["propagationPolicy"] == "Orphan"
    assert codec.decode_body(b'{"gracePeriodSeconds":0}', None, options).obj["gracePeriodSeconds"] == 0


def test_yaml_stands_for_json() -> None:
    text = b"""
kind: ConfigMap
metadata: {name: x, annotations: {when: "2026-01-01", plain: 2026-01-01}}
data: {clock: "1:30", path: /a, mode: "0644"}
immutable: yes
"""
    found = codec.decode_body(text, "application/yaml", GVK("", "v1", "ConfigMap"), "Strict").obj
    assert found["immutable"] is True
    assert found["metadata"]["annotations"]["plain"] == "2026-01-01"
    assert found["data"]["clock"] == "1:30"


def test_yaml_numbers() -> None:
    text = b"spec: {containers: [{name: c}], volumes: [{name: v, configMap: {name: c, defaultMode: 0644}}]}"
    found = codec.decode_body(text, "application/yaml", POD).obj
    assert found["spec"]["volumes"][0]["configMap"]["defaultMode"] == 0o644


def test_yaml_integers_beyond_64_bits_are_floats_as_in_json() -> None:
    text = b"[18446744073709551615, -9223372036854775808, 100000000000000000000000, -0x10000000000000000]"
    assert yaml.loads(text)[0] == [(1 << 64) - 1, -(1 << 63), 1e23, -(2.0**64)]
    assert [type(one) for one in yaml.loads(text)[0]] == [int, int, float, float]


def test_yaml_duplicates_are_strict_findings() -> None:
    error = refusal(b"metadata: {name: a}\nmetadata: {name: b}\n", kind="application/yaml")
    assert 'line 2: key "metadata" already set in map' in error.message


@pytest.mark.parametrize(
    "text",
    [
        b"a: [",
        b"a: &x [*x]",
        b"? {a: b}\n: c",
        b"\xff\xfe\x00",
        b"a: !!python/object/apply:os.system [id]",
        b"a: 0x" + b"f" * 300,
        b"a: " + b"1" * 5000,
        b"a: 1e400",
        b"&a [" + b"[" * 400 + b"]" * 400 + b"]",
    ],
)
def test_broken_or_hostile_yaml_is_refused(text: bytes) -> None:
    assert refusal(text, kind="application/yaml").code == 400


def test_a_few_lines_of_aliases_do_not_become_gigabytes() -> None:
    lines = [b'a0: &a0 ["x","x","x","x","x","x","x","x","x"]']
    lines += [b"a%d: &a%d [%b]" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 9)]
    started = time.monotonic()
    assert "excessive aliasing" in refusal(b"\n".join(lines), kind="application/yaml").message
    assert time.monotonic() - started < 20


_KEYS = st.sampled_from(["a", "b", "c"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(_VALUES)
def test_unique_keys_have_no_duplicates(value: object) -> None:
    for indent in (None, 2):
        body = json.dumps(value, indent=indent, ensure_ascii=False).encode("utf-8", "replace")
        assert json_codec.duplicates(body, json_codec.loads(body)) == []


def test_duplicates_are_found_at_any_depth() -> None:
    for body in (
        b'{"a":{"x":1,"x":2},"l":[{"y":{"z":1,"z":1,"z":1}}]}',
        b'{"a" :{"x" : 1,\n"x"\t:2}, "l":[{"y":{"z":1,"z" :1,"z":1}}]}',
    ):
        assert json_codec.duplicates(body, json_codec.loads(body)) == ["a.x", "l[0].y.z"]


@pytest.mark.parametrize(
    "body",
    [
        rb'{"a":1,"a":2,"b":"\u0022:"}',
        rb'{"a" :1,"a" :2,"b":"x\":"}',
        rb'{"a":"\":","a":"","b":"\":"}',
        rb'{"a":{"c":"\":"},"a":{"c":"\":\":"}}',
    ],
)
def test_text_that_looks_like_a_key_hides_no_duplicate(body: bytes) -> None:
    assert json_codec.duplicates(body, json_codec.loads(body)) == ["a"]


def test_conforming_twice_changes_nothing() -> None:
    once = decode({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "resources": {}}]}})
    again, unknown = codec.conform(json.loads(json.dumps(once)), schema.type_name(POD) or "")
    assert again == once
    assert unknown == []


@pytest.mark.parametrize("depth", [230, 253, 300, 2000])
@pytest.mark.parametrize("open_close", [('{"a":', "}"), ("[", "]")])
def test_depth_is_bounded_before_anything_is_written(depth: int, open_close: tuple[str, str]) -> None:
    before, after = open_close
    body = f'{{"data":{before * depth}1{after * depth}}}'.encode()
    with pytest.raises(StatusError) as caught:
        codec.decode_body(body, codec.JSON, GVK("apps", "v1", "ControllerRevision"))
    assert caught.value.code == 400


def test_a_protobuf_body_conforms_as_json_does() -> None:
    limits = chunk(1, chunk(1, b"cpu") + chunk(2, chunk(1, b"nonsense")))
    container = chunk(1, b"c") + chunk(8, limits)
    body = MAGIC + chunk(1, chunk(1, b"v1") + chunk(2, b"Pod")) + chunk(2, chunk(2, chunk(2, container)))
    with pytest.raises(StatusError, match="quantities must match"):
        codec.decode_body(body, codec.PROTOBUF, GVK("", "v1", "Pod"))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"abc", "invalid character 'a' looking for beginning of value"),
        (b'{"a":NaN}', "invalid character 'N' looking for beginning of value"),
        (b'{"a":1,\n}', "invalid character '}' looking for beginning of object key string"),
        (b"[1, ]", "invalid character ']' looking for beginning of value"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b":2}', "invalid character '\"' after object key:value pair"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b"{} x", "invalid character 'x' after top-level value"),
        (b"{a:1}", "invalid character 'a' looking for beginning of object key string"),
        (b'{"a":tru}', "invalid character '}' in literal true (expecting 'e')"),
        (b'"a\nb"', "invalid character '\\n' in string literal"),
        (b'"\\x"', "invalid character 'x' in string escape code"),
        (b'{"a":1.}', "invalid character '}' after decimal point in numeric literal"),
        (b'{"a"', "unexpected end of JSON input"),
        (b'{"a":tr', "unexpected end of JSON input"),
        (b"", "unexpected end of JSON input"),
    ],
)
def test_syntax_errors_are_worded_as_in_go(body: bytes, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        json_codec.loads(body)
    assert str(caught.value) == text


@given(st.binary(max_size=12) | st.text(alphabet='{}[]":,\\tfn01.- ', max_size=12).map(str.encode))
def test_any_bytes_are_a_document_or_a_sentence(body: bytes) -> None:
    with contextlib.suppress(ValueError):
        json_codec.loads(body)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"a: 1\n---\nb: 2\n", "yaml: more than one document; send them one by one"),
        (b"data:\n  a: [\n", "yaml: line 3: did not find expected node content"),
        (b"data: {a: b\n", "yaml: line 2: did not find expected ',' or '}'"),
        (b"a: *nobody\n", "yaml: line 1: found undefined alias"),
    ],
)
def test_yaml_errors_name_the_line(body: bytes, text: str) -> None:
    with pytest.raises(StatusError) as caught:
        codec.decode_body(body, codec.YAML, GVK("", "v1", "ConfigMap"))
    assert text in caught.value.message


def test_a_thousand_unknown_fields_are_named_a_hundred_times() -> None:
    body = json.dumps({f"field{number}": 1 for number in range(1000)}).encode()
    decoded = codec.decode_body(body, codec.JSON, GVK("", "v1", "ConfigMap"), "Warn")
    assert len(decoded.warnings) == 100
    assert decoded.obj.keys() == {"apiVersion", "kind", "metadata"}
