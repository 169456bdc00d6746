"""Whose credentials an image gets: places by path, globs, secrets of both kinds, the node's file, plugins."""

import base64
import json
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from kube.core import Secret
from kube.errors import UsageError
from kube.pods import Pod
from kubelet.images.credentials import matches, matching, missing_secrets, node_config, pull_secrets, repository
from kubelet.images.providers import Provider, Providers, load
from kubelet.runtime import RegistryAuth


def auth(name: str) -> RegistryAuth:
    return RegistryAuth(username=name, password="p")


def pod(*secrets: str) -> Pod:
    spec = {"containers": [], "imagePullSecrets": [{"name": name} for name in secrets]}
    return msgspec.convert({"metadata": {"name": "p", "namespace": "default"}, "spec": spec}, Pod)


def secret(key: str, document: object) -> Secret:
    data = {key: base64.b64encode(json.dumps(document).encode()).decode()}
    return msgspec.convert({"metadata": {"name": "s"}, "data": data}, Secret)


@pytest.mark.parametrize(
    ("place", "image", "expected"),
    [
        ("registry.example", "registry.example/a:1", True),
        ("registry.example", "other.example/a", False),
        ("registry.example/team", "registry.example/team/a", True),
        ("registry.example/team", "registry.example/other/a", False),
        ("*.example", "registry.example/a", True),
        ("*.example", "a.b.example/a", False),
        ("*.*.example", "a.b.example/a", True),
        ("registry.example:5000", "registry.example/a", False),
        ("registry.example:5000", "registry.example:5000/a", True),
        ("registry.example", "registry.example:5000/a", False),
        ("re*.example", "registry.example/a@sha256:" + "0" * 64, True),
    ],
)
def test_where_a_place_reaches(place: str, image: str, expected: bool) -> None:
    assert matches(place, image) is expected


def test_the_longest_path_comes_first_and_all_are_tried() -> None:
    table = {
        "https://registry.example/v1/": auth("whole"),
        "registry.example/team": auth("team"),
        "registry.example/team/x": auth("x"),
        "https://index.docker.io/v1/": auth("hub"),
    }
    names = [each.username for each in matching([table], "registry.example/team/a:1")]
    assert names == ["team", "whole"]
    for image in ("busybox", "library/busybox:1", "docker.io/a/b"):
        assert matching([table], image) == [auth("hub")]
    assert matching([table], "localhost:5000/a") == []
    assert matching([table, table], "registry.example/a") == [auth("whole")]


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("nginx", "docker.io/library/nginx"),
        ("nginx:1.2", "docker.io/library/nginx"),
        ("team/app:1@sha256:" + "0" * 64, "docker.io/team/app"),
        ("docker.io/nginx", "docker.io/library/nginx"),
        ("index.docker.io/team/app", "docker.io/team/app"),
        ("localhost/a", "localhost/a"),
        ("registry.example:5000/a/b:1", "registry.example:5000/a/b"),
        ("registry/a:1", "docker.io/registry/a"),
    ],
)
def test_an_images_name_in_full(image: str, name: str) -> None:
    assert repository(image) == name


def test_credentials_for_the_hub_by_its_own_name() -> None:
    table = {"docker.io": auth("hub"), "https://index.docker.io/v1/": auth("old"), "docker.io/team": auth("team")}
    assert matching([table], "nginx:1") == [auth("hub")]
    assert matching([table], "team/app:1") == [auth("team"), auth("hub")]


def test_secrets_of_both_kinds() -> None:
    encoded = base64.b64encode(b"me:a:b").decode()
    secrets = {
        "new": secret(".dockerconfigjson", {"auths": {"registry.example": {"auth": encoded}}}),
        "old": secret(".dockercfg", {"registry.example": {"username": "you", "password": "p"}}),
        "torn": secret(".dockerconfigjson", ["no"]),
    }
    asked = pod("new", "absent", "old", "torn")
    assert pull_secrets(asked, secrets, "registry.example/a") == [
        RegistryAuth(username="me", password="a:b"),
        auth("you"),
    ]
    assert missing_secrets(asked, secrets) == ["absent"]


@pytest.mark.parametrize(
    "text",
    [
        '{"auths": {"https://[": {"username": "u", "password": "p"}}}',
        '{"auths": {"registry.example": {"username": 5, "password": "p"}}}',
        '{"auths": {"registry.example": {"username": "\\ud800", "password": "p"}}}',
        '{"auths": {"registry.example": {"auth": "abc"}}}',
        '{"auths": {"registry.example": 7}}',
        '{"auths": [1]}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"auths": {"registry.example": {"x": ' + "[" * 100_000,
    ],
)
@pytest.mark.parametrize("key", [".dockerconfigjson", ".dockercfg"])
def test_what_a_secret_holds_costs_nobody_else_anything(key: str, text: str) -> None:
    data = {key: base64.b64encode(text.encode()).decode()}
    good = secret(".dockercfg", {"registry.example": {"username": "you", "password": "p"}})
    secrets = {"odd": msgspec.convert({"metadata": {"name": "s"}, "data": data}, Secret), "good": good}
    assert pull_secrets(pod("odd", "good"), secrets, "registry.example/a") == [auth("you")]


def test_one_key_that_is_no_address_leaves_the_others() -> None:
    table = {"https://[": auth("no"), "registry.example": auth("you")}
    assert matching([table], "registry.example/a") == [auth("you")]
    assert matching([table], "a") == []


def test_null_is_nothing() -> None:
    secrets = {"s": secret(".dockerconfigjson", {"auths": None})}
    assert pull_secrets(pod("s"), secrets, "registry.example/a") == []


def test_the_nodes_own_file(tmp_path: Path) -> None:
    assert node_config(str(tmp_path), "registry.example/a") == []
    document = {"auths": {"registry.example": {"username": "node", "password": "p"}}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    assert node_config(str(tmp_path), "registry.example/a") == [auth("node")]
    (tmp_path / "config.json").write_text("{")
    assert node_config(str(tmp_path), "registry.example/a") == []


# --- plugins ----------------------------------------------------------------------------------------------------------


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked = path / "asked"
        self.now = 0.0

    def plugin(self, name: str, answer: str, script: str = "") -> None:
        program = self.path / name
        program.write_text(
            f"#!/bin/sh\nread request; echo \"$request\" $1 $KEY >> {self.asked}\n{script}\ncat <<'.'\n{answer}\n.\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def providers(self, **changed: object) -> Providers:
        document = {
            "name": "plugin",
            "matchImages": ["*.example"],
            "defaultCacheDuration": "10m",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "args": ["get"],
            "env": [{"name": "KEY", "value": "value"}],
            **changed,
        }
        return Providers([msgspec.convert(document, Provider)], str(self.path), clock=lambda: self.now)

    def questions(self) -> list[str]:
        return self.asked.read_text().splitlines() if self.asked.exists() else []


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def response(kind: str = "Registry", **changed: object) -> str:
    document: Mapping[str, object] = {
        "kind": "CredentialProviderResponse",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType": kind,
        "auth": {"*.example": {"username": "of the moment", "password": "p"}},
        **changed,
    }
    return json.dumps(document)


async def test_a_plugin_is_asked_and_its_answer_kept(folder: Folder) -> None:
    folder.plugin("plugin", response(cacheDuration="1m"))
    providers = folder.providers()
    assert await providers.credentials("other.place/a") == []
    assert await providers.credentials("registry.example/a") == [auth("of the moment")]
    assert await providers.credentials("registry.example/b") == [auth("of the moment")]
    (question,) = folder.questions()
    assert question.endswith(" get value")
    assert json.loads(question.removesuffix(" get value")) == {
        "kind": "CredentialProviderRequest",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "image": "registry.example/a",
    }
    folder.now += 61
    await providers.credentials("registry.example/b")
    assert len(folder.questions()) == 2


async def test_a_plugin_for_the_hub_is_asked_for_images_that_name_no_registry(folder: Folder) -> None:
    folder.plugin("plugin", response(auth={"docker.io": {"username": "hub", "password": "p"}}))
    providers = folder.providers(matchImages=["docker.io"])
    assert await providers.credentials("team/app:1") == [auth("hub")]


@pytest.mark.parametrize(("kind", "questions"), [("Image", 3), ("Registry", 2), ("Global", 1)])
async def test_for_how_much_an_answer_is_good(folder: Folder, kind: str, questions: int) -> None:
    folder.plugin("plugin", response(kind))
    providers = folder.providers()
    for image in ("a.example/x", "a.example/y", "b.example/x", "a.example/x"):
        assert await providers.credentials(image) == [auth("of the moment")]
    assert len(folder.questions()) == questions


@pytest.mark.parametrize(
    ("answer", "script"),
    [
        ("nonsense", ""),
        (response(), "exit 3"),
        (response(apiVersion="v9"), ""),
        (response("Sometimes"), ""),
        (response(cacheDuration="soon"), ""),
    ],
)
async def test_a_plugin_that_fails_gives_nothing(folder: Folder, answer: str, script: str) -> None:
    folder.plugin("plugin", answer, script)
    assert await folder.providers().credentials("a.example/x") == []


def test_the_file_of_plugins_is_checked_at_the_door(folder: Folder) -> None:
    folder.plugin("plugin", response())
    path = folder.path / "config.yaml"
    good = {
        "apiVersion": "kubelet.config.k8s.io/v1",
        "kind": "CredentialProviderConfig",
        "providers": [
            {
                "name": "plugin",
                "matchImages": ["a"],
                "defaultCacheDuration": "1m",
                "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            }
        ],
    }
    path.write_text(json.dumps(good))
    assert [each.name for each in load(str(path), str(folder.path))] == ["plugin"]
    (provider,) = good["providers"]
    for change, named in (
        ({"name": "absent"}, r"providers\[0\].name.*absent is not a program"),
        ({"name": "../sh"}, r"providers\[0\].name"),
        ({"matchImages": []}, "matchImages"),
        ({"defaultCacheDuration": "soon"}, "defaultCacheDuration"),
        ({"apiVersion": "v1"}, r"providers\[0\].apiVersion"),
        ({"tokenAttributes": {}}, "tokenAttributes"),
    ):
        path.write_text(json.dumps({**good, "providers": [{**provider, **change}]}))  # type: ignore[dict-item]
        with pytest.raises(UsageError, match=named):
            load(str(path), str(folder.path))
    path.write_text(json.dumps({**good, "kind": "Other"}))
    with pytest.raises(UsageError, match="kind: CredentialProviderConfig"):
        load(str(path), str(folder.path))
    with pytest.raises(UsageError, match="absent"):
        load(str(folder.path / "absent"), str(folder.path))
