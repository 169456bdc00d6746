"""Places of static pods: what is told, what is kept, and what is said once."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kube.errors import Invalid
from kube.meta import ObjectMeta
from kube.pods import Pod
from kubelet.observe.manifests import FILE, Reader, contents, parse
from kubelet.observe.mirror import Create, Delete, step
from kubelet.observe.static import StaticPod


def manifest(name: str = "web", image: str = "x", **metadata: Any) -> bytes:
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}}
    return json.dumps({**body, "spec": {"containers": [{"name": "a", "image": image}]}}).encode()


class Reading:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.reader = Reader("n", FILE, self.said.append, lambda: datetime.now(UTC))

    def names(self, **files: bytes | OSError) -> list[str]:
        return [one.pod.metadata.name for one in self.reader.read({f"/m/{name}": c for name, c in files.items()})]


def test_a_directory_is_its_files_without_dotfiles_and_directories(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"b")
    (tmp_path / ".a.yaml.swp").write_bytes(b"a")
    (tmp_path / "inner").mkdir()
    (tmp_path / "link.yaml").symlink_to(tmp_path / "b.yaml")
    (tmp_path / "broken.yaml").symlink_to(tmp_path / "nowhere")
    assert contents(str(tmp_path)) == {str(tmp_path / "b.yaml"): b"b", str(tmp_path / "link.yaml"): b"b"}
    assert contents(str(tmp_path / "b.yaml")) == {str(tmp_path / "b.yaml"): b"b"}
    assert contents(str(tmp_path / "absent")) == {}
    (tmp_path / "large.yaml").write_bytes(b" " * ((1 << 20) + 1))
    refusal = contents(str(tmp_path))[str(tmp_path / "large.yaml")]
    assert isinstance(refusal, OSError)
    assert refusal.strerror == "larger than 1048576 bytes"
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.yaml")).write_bytes(b"x")
    refusal = contents(str(tmp_path))[str(tmp_path / "\ufffd.yaml")]
    assert isinstance(refusal, OSError)
    assert refusal.strerror == "its name is not UTF-8: rename it"


ALIASES = b"".join(
    b"%c: &%c [%s]\n" % (letter, letter, b", ".join([b"*%c" % (letter - 1)] * 10)) for letter in b"bcdefgh"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "0 documents: write one Pod to a file"),
        (b"a: 1\n---\nb: 2\n", "2 documents: write one Pod to a file"),
        (b"a: [1\n", "line 2, column 1"),
        (b"\xff\xfe\x00", ""),
        (b"released: 2024-13-45", "month must be in 1..12"),
        (b"x: !!int abc", "invalid literal for int()"),
        (b"x: !!bool abc", "'abc' is not what its tag says"),
        (b"x: " + b"9" * 5000, "Exceeds the limit"),
        (b"x: 0x" + b"f" * 5000, "a number of more than 64 bits"),
        (b"x: !!set {a, 1}", "a set: write it without YAML's tag"),
        (b"x: .nan", "nan is no number to JSON"),
        (b"a: &a\n  b: *a\n", "more than 64 levels"),
        (b"&a [*a, *a]", "more than 64 levels"),
        (b"[" * 1200, "more than 64 levels"),
        (b"[" * 100 + b"]" * 100, "more than 64 levels"),
        (b"a: &a [1,1,1,1,1,1,1,1,1,1]\n" + ALIASES, "more than 131072 values"),
        (b'"\\ud800": 1', "'\\ud800' has half a character in it"),
    ],
)
def test_what_is_no_document(text: bytes, words: str) -> None:
    with pytest.raises(Invalid) as error:
        parse(text)
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


def test_json_and_yaml_and_a_document_start_are_read() -> None:
    assert parse(b"---\na: 1\n") == parse(b'{"a": 1}') == {"a": 1}


def test_an_unchanged_file_is_the_same_value() -> None:
    reading = Reading()
    (first,) = reading.reader.read({"/m/a": manifest()})
    (again,) = reading.reader.read({"/m/a": manifest()})
    assert first is again
    (changed,) = reading.reader.read({"/m/a": manifest(image="y")})
    assert changed.pod.metadata.uid != first.pod.metadata.uid


def test_a_file_that_turns_bad_keeps_its_pod_and_is_said_once() -> None:
    reading = Reading()
    assert reading.names(a=manifest()) == ["web-n"]
    assert reading.names(a=b"{") == ["web-n"]
    assert reading.names(a=b"{") == ["web-n"]
    assert len(reading.said) == 1
    assert reading.said[0].startswith("static pod /m/a: line ")
    assert reading.said[0].endswith("; the pod that was there before goes on")
    assert reading.names(a=PermissionError(13, "Permission denied")) == ["web-n"]
    assert reading.said[1].startswith("static pod /m/a: Permission denied")
    assert reading.names(a=manifest()) == ["web-n"]
    assert reading.names() == []
    assert reading.names(a=b"{") == []


def test_bad_files_disturb_no_others() -> None:
    reading = Reading()
    assert reading.names(a=b"{", b=manifest("b"), c=b"kind: Service") == ["b-n"]
    assert len(reading.said) == 2


def test_of_two_files_with_one_pod_the_first_wins() -> None:
    reading = Reading()
    assert reading.names(a=manifest(), b=manifest(image="y")) == ["web-n"]
    assert reading.said == ["static pod /m/b: pod default/web-n is in /m/a already; remove one"]
    reading.names(a=manifest(), b=manifest(image="y"))
    assert len(reading.said) == 1
    (left,) = reading.reader.read({"/m/b": manifest(image="y")})
    assert left.pod.spec.containers[0].image == "y"


# --- what is done about one mirror


def _static() -> StaticPod:
    (one,) = Reading().reader.read({"/m/a": manifest()})
    return one


def _mirror(digest: str, **metadata: Any) -> Pod:
    annotations = {"kubernetes.io/config.mirror": digest}
    return Pod(metadata=ObjectMeta(name="web-n", namespace="default", uid="m", annotations=annotations, **metadata))


def nothing(uid: str) -> bool:
    return False


def test_steps_of_a_mirror() -> None:
    static = _static()
    digest = static.pod.metadata.uid
    assert step(None, None, nothing) is None
    assert step(static, None, nothing) == Create(static.body)
    assert step(static, _mirror(digest), nothing) is None
    assert step(static, _mirror("other"), nothing) == Delete("m")
    assert step(static, _mirror("other"), {"other"}.__contains__) is None, "it still shows what is being stopped"
    assert step(static, _mirror(digest, deletion_timestamp=datetime.now(UTC)), {digest}.__contains__) == Delete("m")
    assert step(None, _mirror(digest), nothing) == Delete("m")
    assert step(None, _mirror(digest), {digest}.__contains__) is None
