"""kubeconfig files that cannot be used are refused in a line that names the file and what to do."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from kube import certificates, kubeconfig
from kube.errors import UsageError
from kube.kubeconfig import Connection

CA = certificates.authority()
ADMIN = certificates.issue(CA, "admin")


def written(tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any]) -> str:
    path = tmp_path / "kubeconfig"
    document = {
        "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1:6443/", **cluster}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_what_is_rendered_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(kubeconfig.render("https://192.0.2.1:6443", CA.certificate, ADMIN.certificate, ADMIN.key))
    found = Connection.from_kubeconfig(str(path))
    assert found == Connection("https://192.0.2.1:6443", CA.certificate, ADMIN.certificate, ADMIN.key)
    assert found.ssl_context()
    assert "PRIVATE" not in repr(found)


def test_files_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(CA.certificate)
    (tmp_path / "token").write_text("secret\n")
    found = Connection.from_kubeconfig(
        written(tmp_path, {"certificate-authority": "ca.crt"}, {"tokenFile": "token", "token": "other"})
    )
    assert (found.server, found.ca, found.token) == ("https://192.0.2.1:6443", CA.certificate, "secret")


@pytest.mark.parametrize(
    ("cluster", "user", "words"),
    [
        ({"server": ""}, {}, "is not https://host:port"),
        ({"server": "192.0.2.1"}, {}, "is not https://host:port"),
        ({"proxy-url": "http://p"}, {}, "proxy-url, which is not understood"),
        ({}, {"exec": {}}, "proves itself by exec"),
        ({}, {"username": "a", "password": "b"}, "proves itself by username"),
        ({}, {"client-certificate-data": base64.b64encode(b"x").decode()}, "only one of"),
        ({"certificate-authority-data": "not base64!"}, {}, "certificate-authority-data is not base64"),
        ({"certificate-authority": "nowhere"}, {}, "nowhere: No such file"),
    ],
)
def test_refused(tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Connection.from_kubeconfig(written(tmp_path, cluster, user))
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "clusters: 3\ncurrent-context: x", "contexts: [3]"])
def test_files_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(UsageError, match=f"--kubeconfig {path}"):
        Connection.from_kubeconfig(str(path))


@pytest.mark.parametrize(
    ("ca", "certificate", "key"),
    [
        (b"junk", None, None),
        (CA.certificate, b"junk", b"junk"),
        (CA.certificate, ADMIN.certificate, certificates.issue(CA, "other").key),
    ],
)
def test_pem_that_does_not_fit(ca: bytes, certificate: bytes | None, key: bytes | None) -> None:
    with pytest.raises(UsageError, match=r"https://192.0.2.1 cannot be used"):
        Connection("https://192.0.2.1", ca, certificate, key).ssl_context()
