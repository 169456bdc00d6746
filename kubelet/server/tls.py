"""The kubelet's serving TLS: the certificate, the clients' CA, and which ciphers and versions are spoken."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Final

from kube import serving
from kube.errors import UsageError

VERSIONS: Final = {
    "VersionTLS12": ssl.TLSVersion.TLSv1_2,
    "VersionTLS13": ssl.TLSVersion.TLSv1_3,
}
# Go's names (crypto/tls) and OpenSSL's. The suites of TLS 1.3 cannot be chosen, there or here: they are all on.
SUITES: Final = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256": "ECDHE-ECDSA-AES128-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256": "ECDHE-RSA-AES128-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256": "AES128-SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
}
_THIRTEEN: Final = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}


def tls_context(
    node: str,
    certificate: str,
    key: str,
    client_ca: str,
    *,
    ciphers: Sequence[str] = (),
    least: str = "",
) -> ssl.SSLContext:
    """Serving TLS from files, or, where none are named, self-signed. Clients may show a certificate, which is then
    verified against `client_ca`."""
    if bool(certificate) != bool(key):
        missing = "tlsPrivateKeyFile" if certificate else "tlsCertFile"
        raise UsageError(f"{missing}: tlsCertFile and tlsPrivateKeyFile go together; name both or neither")
    if certificate:
        context = serving.server_tls(certificate, key, client_ca)
    else:
        from kube import selfsigned  # and with it `cryptography`, 8 MB that a node with a certificate does without

        context = selfsigned.context(node)
        if client_ca:
            try:
                context.load_verify_locations(client_ca)
            except OSError as error:
                raise UsageError(f"authentication.x509.clientCAFile: cannot load {client_ca}: {error}") from error
            context.verify_mode = ssl.CERT_OPTIONAL
    _restrict(context, ciphers, least)
    return context


def _restrict(context: ssl.SSLContext, ciphers: Sequence[str], least: str) -> None:
    if least:
        context.minimum_version = VERSIONS[least]
    unknown = [name for name in ciphers if name not in SUITES and name not in _THIRTEEN]
    if unknown:
        raise UsageError(f"tlsCipherSuites: {unknown[0]!r} is not a suite of Go's; known: {', '.join(SUITES)}")
    chosen = [SUITES[name] for name in ciphers if name in SUITES]
    if not chosen:
        return
    try:
        context.set_ciphers(":".join(dict.fromkeys(chosen)))
    except ssl.SSLError as error:
        raise UsageError(f"tlsCipherSuites: OpenSSL here has none of {', '.join(ciphers)}: {error.reason}") from error
