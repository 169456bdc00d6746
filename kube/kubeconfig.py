"""kubeconfig files: how a client finds its server and proves who it is.

Only what Wherry's daemons need is understood: a server, its CA, a client certificate or a bearer token, each inline or in
a file (relative paths are relative to the kubeconfig). Exec plugins, passwords and proxies are refused in words.
"""

import base64
import binascii
import os
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kube.errors import UsageError
from kube.settings import one_line


@dataclass(frozen=True, slots=True)
class Connection:
    """A server and a proof of identity; PEM values are bytes."""

    server: str
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    insecure: bool = False
    server_name: str | None = None
    pending: str = ""
    """Why nobody can be spoken to yet: there is no proof of identity so far, and one is on its way."""

    @classmethod
    def from_files(cls, server: str, ca: str, certificate: str, key: str) -> "Connection":
        return cls(server, _read(ca, "ca"), _read(certificate, "certificate"), _read(key, "key"))

    @classmethod
    def from_kubeconfig(cls, path: str, context: str | None = None) -> "Connection":
        """Raises UsageError naming the file and what is missing in it."""
        try:
            document = yaml.safe_load(Path(path).read_bytes())
        except (OSError, yaml.YAMLError) as error:
            raise UsageError(f"--kubeconfig {path}: {one_line(error)}; name a readable kubeconfig file") from error
        if not isinstance(document, dict):
            raise UsageError(
                f"--kubeconfig {path}: this is not a kubeconfig (expected a mapping with clusters and users)"
            )
        where = os.path.dirname(os.path.abspath(path))
        name = context or document.get("current-context") or ""
        chosen = _named(document, "contexts", name, "context", path)
        cluster = _named(document, "clusters", str(chosen.get("cluster", "")), "cluster", path)
        user = _named(document, "users", str(chosen.get("user", "")), "user", path)
        for what in ("exec", "auth-provider", "username"):
            if what in user:
                raise UsageError(
                    f"--kubeconfig {path}: user {chosen.get('user')!r} proves itself by {what}, which is not understood; "
                    f"give a certificate or a token"
                )
        if "proxy-url" in cluster:
            raise UsageError(
                f"--kubeconfig {path}: cluster {chosen.get('cluster')!r} has a proxy-url, which is not understood; "
                f"name a server that can be reached directly"
            )
        server = str(cluster.get("server") or "").rstrip("/")
        if not server.startswith(("https://", "http://")):
            raise UsageError(
                f"--kubeconfig {path}: cluster {chosen.get('cluster')!r}: server {server!r} is not https://host:port"
            )
        certificate, key = (
            _material(user, "client-certificate", where, path),
            _material(user, "client-key", where, path),
        )
        if bool(certificate) != bool(key):
            raise UsageError(
                f"--kubeconfig {path}: user {chosen.get('user')!r} has only one of client-certificate and client-key"
            )
        return cls(
            server=server,
            ca=_material(cluster, "certificate-authority", where, path),
            certificate=certificate,
            key=key,
            token=_token(user, where),
            insecure=bool(cluster.get("insecure-skip-tls-verify")),
            server_name=cluster.get("tls-server-name"),
        )

    def ssl_context(self) -> ssl.SSLContext | None:
        """None for plain HTTP. The key touches the disk only as long as the ssl module needs a file.

        Raises UsageError when the CA, certificate or key is no PEM of its kind, or the key is another's."""
        if not self.server.startswith("https:"):
            return None
        try:
            return self._context()
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise UsageError(
                f"the CA, client certificate or key for {self.server} cannot be used: {error}; "
                f"give PEM files that belong together"
            ) from error

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.ca.decode() if self.ca else None)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate and self.key:
            with tempfile.NamedTemporaryFile(dir=_memory_directory()) as file:
                file.write(self.certificate + b"\n" + self.key)
                file.flush()
                context.load_cert_chain(file.name)
        return context


def _memory_directory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _read(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{what} {path}: {error.strerror}; name a readable PEM file") from error


def _named(document: dict[str, Any], section: str, name: str, inner: str, path: str) -> dict[str, Any]:
    entries = document.get(section)
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("name") == name:
            found = entry.get(inner)
            return found if isinstance(found, dict) else {}
    raise UsageError(f"--kubeconfig {path}: no {inner} named {name!r} in {section}; set current-context or add it")


def _material(entry: dict[str, Any], key: str, where: str, path: str) -> bytes | None:
    if data := entry.get(f"{key}-data"):
        try:
            return base64.b64decode(data)
        except (binascii.Error, TypeError, ValueError) as error:
            raise UsageError(f"--kubeconfig {path}: {key}-data is not base64 ({error}); write the file anew") from error
    if file := entry.get(key):
        return _read(os.path.join(where, str(file)), key)
    return None


def _token(user: dict[str, Any], where: str) -> str | None:
    """Read once: a token that is changed on disk is used from the next start on."""
    if file := user.get("tokenFile"):
        return _read(os.path.join(where, str(file)), "tokenFile").decode().strip()
    return str(user["token"]) if user.get("token") else None


def pointing(connection: Connection, path: str, user: str, *, cluster: str = "wherry") -> str:
    """A kubeconfig for the connection's server, whose client certificate and key are in the file `path`."""
    about: dict[str, Any] = {"server": connection.server}
    if connection.ca:
        about["certificate-authority-data"] = base64.b64encode(connection.ca).decode()
    if connection.insecure:
        about["insecure-skip-tls-verify"] = True
    if connection.server_name:
        about["tls-server-name"] = connection.server_name
    proof = {"client-certificate": path, "client-key": path}
    return _document(cluster, about, user, proof)


def render(
    server: str, ca: bytes, certificate: bytes, key: bytes, *, cluster: str = "wherry", user: str = "admin"
) -> str:
    """A kubeconfig with everything inline, as text."""

    def inline(pem: bytes) -> str:
        return base64.b64encode(pem).decode()

    about = {"server": server, "certificate-authority-data": inline(ca)}
    proof = {"client-certificate-data": inline(certificate), "client-key-data": inline(key)}
    return _document(cluster, about, user, proof)


def _document(cluster: str, about: dict[str, Any], user: str, proof: dict[str, str]) -> str:
    context = f"{user}@{cluster}"
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": cluster, "cluster": about}],
            "users": [{"name": user, "user": proof}],
            "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
            "current-context": context,
        },
        sort_keys=False,
    )
