"""The kubelet's certificates with our API server: asked for, approved by hand, kept, renewed."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from kube import certificates, kubeconfig
from kube.certificates import KeyPair
from kube.client import Client
from kube.errors import ApiUnreachable, UsageError
from kube.kubeconfig import Connection
from kube.resources import NODES, SIGNINGREQUESTS
from kube.signing import SigningRequest
from kubelet.certificate import identity
from kubelet.certificate.certificates import CLIENT_SIGNER, SERVING_SIGNER, Certificate, Refused, Store, renewal
from kubelet.config import Config
from tests.contracts.kubelet_rig import api, eventually

# The API server runs in this process and still hands aiohttp an argument it would rather have elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:shutdown_timeout should be set:DeprecationWarning")

NODE = "n1"


def sign(authority: KeyPair, request: SigningRequest, life: timedelta = timedelta(days=1)) -> bytes:
    """What the controller manager does."""
    asked = x509.load_pem_x509_csr(base64.b64decode(request.spec.request))
    assert asked.is_signature_valid
    parent = x509.load_pem_x509_certificate(authority.certificate)
    key = serialization.load_pem_private_key(authority.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(asked.subject)
        .issuer_name(parent.subject)
        .public_key(asked.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=1))
        .not_valid_after(now + life)
    )
    for extension in asked.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


async def decide(client: Client, name: str, kind: str, certificate: bytes = b"") -> None:
    path = SIGNINGREQUESTS.path(None, name)
    condition = {"type": kind, "status": "True", "reason": "Test", "message": "because"}
    merge = "application/merge-patch+json"
    approval = {"status": {"conditions": [condition]}}
    await client.request("PATCH", f"{path}/approval", body=approval, content_type=merge)
    if certificate:
        status = {"status": {"certificate": base64.b64encode(certificate).decode()}}
        await client.request("PATCH", f"{path}/status", body=status, content_type=merge)


@dataclass
class Centre:
    admin: Client
    authority: KeyPair
    config: Config
    bootstrap: Connection
    switched: list[Connection] = field(default_factory=list)
    life: timedelta = timedelta(days=1)
    seen: set[str] = field(default_factory=set)

    async def approve(self) -> SigningRequest:
        """The next request, approved and signed."""
        async with asyncio.timeout(10):
            while True:
                for each in (await self.admin.list(SIGNINGREQUESTS)).items:
                    if each.metadata.name not in self.seen:
                        self.seen.add(each.metadata.name)
                        await decide(self.admin, each.metadata.name, "Approved", sign(self.authority, each, self.life))
                        return each
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def kubelet(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Client, Sequence[Certificate]]]:
        """What the daemon does with the parts."""
        found = identity.identity(self.config, NODE, datetime.now(UTC))
        async with Client(found.connection) as client, asyncio.TaskGroup() as group:

            def switch(connection: Connection) -> None:
                client.switch(connection)
                self.switched.append(connection)

            tls = tls or ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            async with identity.renewals(self.config, NODE, ("10.0.0.1",), found, client, tls, switch) as wanted:
                tasks = [group.create_task(each.run()) for each in wanted]
                try:
                    yield client, wanted
                finally:
                    for task in tasks:
                        task.cancel()


def with_a_centre(**more: Any) -> Callable[[Callable[[Centre], Awaitable[None]]], Callable[[Path], Awaitable[None]]]:
    def wrap(test: Callable[[Centre], Awaitable[None]]) -> Callable[[Path], Awaitable[None]]:
        async def run(tmp_path: Path) -> None:
            (tmp_path / "api").mkdir()
            async with api(tmp_path / "api") as connection, Client(connection) as admin:
                authority = KeyPair(*((tmp_path / "api" / name).read_bytes() for name in ("ca.crt", "ca.key")))
                # an administrator's certificate stands in for a bootstrap token
                assert connection.ca and connection.certificate and connection.key  # noqa: PT018
                text = kubeconfig.render(connection.server, connection.ca, connection.certificate, connection.key)
                (tmp_path / "bootstrap.conf").write_text(text)
                given = {"bootstrap_kubeconfig": str(tmp_path / "bootstrap.conf"), "rotate_certificates": True, **more}
                config = Config(kubeconfig=str(tmp_path / "kubelet.conf"), root_dir=str(tmp_path / "kubelet"), **given)
                await test(Centre(admin, authority, config, connection))

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return wrap


@with_a_centre()
async def test_a_first_certificate_is_asked_for_and_kept(centre: Centre) -> None:
    folder = Path(centre.config.root_dir) / "pki"
    async with centre.kubelet() as (client, _):
        with pytest.raises(ApiUnreachable, match="CertificateSigningRequest waits for approval"):
            await client.list(NODES)
        request = await centre.approve()
        await eventually(lambda: centre.switched, "the connection is switched")
        assert request.spec.signer_name == CLIENT_SIGNER
        assert set(request.spec.usages) == {"digital signature", "client auth"}
        asked = x509.load_pem_x509_csr(base64.b64decode(request.spec.request))
        assert asked.subject.rfc4514_string() in (
            "CN=system:node:n1,O=system:nodes",
            "O=system:nodes,CN=system:node:n1",
        )
        await client.list(NODES)
    assert (folder / "kubelet-client-current.pem").is_symlink()
    assert (folder / "kubelet-client-current.pem").stat().st_mode & 0o777 == 0o600
    assert not (folder / "kubelet-client.key.tmp").exists()
    written = Connection.from_kubeconfig(centre.config.kubeconfig)
    assert certificates.leaf(written.certificate or b"").common_name == "system:node:n1"
    async with centre.kubelet() as (client, _):
        await client.list(NODES)
    assert len((await centre.admin.list(SIGNINGREQUESTS)).items) == 1


@with_a_centre()
async def test_a_restart_waits_for_the_same_request(centre: Centre) -> None:
    async def filed() -> int:
        return len((await centre.admin.list(SIGNINGREQUESTS)).items)

    for _ in range(2):
        async with centre.kubelet():
            await eventually(filed, "it is filed")
    assert await filed() == 1
    async with centre.kubelet():
        await centre.approve()
        await eventually(lambda: centre.switched, "issued")
    assert await filed() == 1


@with_a_centre()
async def test_a_denied_request_is_said_and_another_is_filed(centre: Centre) -> None:
    async with centre.kubelet() as (_, wanted):

        async def requests() -> list[str]:
            return [each.metadata.name for each in (await centre.admin.list(SIGNINGREQUESTS)).items]

        await eventually(requests, "filed")
        (first,) = await requests()
        centre.seen.add(first)
        await decide(centre.admin, first, "Denied")
        await centre.approve()
        await eventually(lambda: centre.switched, "the second is issued")
        assert wanted[0].failures == 1
        with pytest.raises(Refused, match="is denied: Test: because"):
            wanted[0]._outcome(await centre.admin.get(SIGNINGREQUESTS, first))


@with_a_centre()
async def test_a_certificate_is_renewed_before_it_ends(centre: Centre) -> None:
    centre.life = timedelta(seconds=4)
    async with centre.kubelet() as (client, wanted):
        await centre.approve()
        await eventually(lambda: len(centre.switched) == 1, "the first")
        first = wanted[0].expires
        assert first is not None
        request = await centre.approve()
        await eventually(lambda: len(centre.switched) == 2, "the second")
        assert datetime.now(UTC) < first
        assert request.spec.username in ("system:node:n1", "")
        await client.list(NODES)
        store = Store(Path(centre.config.root_dir) / "pki", "kubelet-client")
        assert store.current() == wanted[0].pair
        assert len(list(store.folder.glob("kubelet-client-2*.pem"))) <= 2
        told = {metric.name: metric.samples[0].value for metric in identity.Lifetimes(wanted, lambda: first).collect()}
        assert told["kubelet_certificate_manager_client_ttl_seconds"] > 0
        assert told["kubelet_certificate_manager_client_expiration_renew_errors"] == 0


@with_a_centre(server_tls_bootstrap=True)
async def test_a_serving_certificate_names_the_node_and_its_addresses(centre: Centre) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    async with centre.kubelet(tls) as (_, wanted):
        found = [await centre.approve(), await centre.approve()]
        await eventually(lambda: all(each.pair for each in wanted), "both are issued")
        (serving,) = [each for each in found if each.spec.signer_name == SERVING_SIGNER]
        assert set(serving.spec.usages) == {"digital signature", "server auth"}
        asked = x509.load_pem_x509_csr(base64.b64decode(serving.spec.request))
        names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["n1"]
        assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
        shown = ssl.create_default_context(cadata=centre.authority.certificate.decode())
        server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0, ssl=tls)
        async with server:
            port = server.sockets[0].getsockname()[1]
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=shown, server_hostname="n1")
            assert (
                dict(pair[0] for pair in writer.get_extra_info("peercert")["subject"])["commonName"] == "system:node:n1"
            )
            writer.close()


def test_nothing_to_go_by_is_one_line(tmp_path: Path) -> None:
    config = Config(
        kubeconfig=str(tmp_path / "none"), bootstrap_kubeconfig=str(tmp_path / "gone"), root_dir=str(tmp_path)
    )
    with pytest.raises(UsageError, match=r"--bootstrap-kubeconfig .*/gone: No such file"):
        identity.identity(config, NODE, datetime.now(UTC))


def test_renewal_is_between_70_and_90_percent() -> None:
    pair = certificates.issue(certificates.authority(), "x", days=100)
    leaf = certificates.leaf(pair.certificate)
    whole = leaf.ends - leaf.begins
    assert renewal(pair, 0.0) == leaf.begins + whole * 0.7
    assert abs(renewal(pair, 1.0) - (leaf.begins + whole * 0.9)) < timedelta(seconds=1)


def test_a_spoilt_file_is_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path, "kubelet-client")
    assert store.current() is None
    one, other = (certificates.issue(certificates.authority(), "x") for _ in range(2))
    store.keep(one, datetime.now(UTC))
    assert store.current() == one
    store.path.write_bytes(one.certificate + other.key)
    assert store.current() is None
    store.path.write_bytes(b"-----BEGIN nonsense")
    assert store.current() is None
    key = store.key()
    assert store.key() == key
    (tmp_path / "kubelet-client.key.tmp").write_bytes(b"spoilt")
    assert store.key() != key
