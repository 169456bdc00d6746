"""The server's side of TLS, from PEM files."""

import ssl
from pathlib import Path

from kube.errors import UsageError


def server_tls(certificate: str, key: str, client_ca: str = "", *, require_client: bool = False) -> ssl.SSLContext:
    """TLS 1.2 or newer from PEM files; client certificates are asked for when `client_ca` is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for flag, path in (
        ("--tls-cert-file", certificate),
        ("--tls-private-key-file", key),
        ("--client-ca-file", client_ca),
    ):
        try:
            if path:
                Path(path).read_bytes()
        except OSError as error:
            raise UsageError(f"{flag} {path}: {error.strerror}; name a readable PEM file") from error
    try:
        context.load_cert_chain(certificate, key)
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_OPTIONAL
    except OSError as error:
        together = ", ".join(filter(None, (certificate, key, client_ca)))
        raise UsageError(f"{together}: {error}; name a certificate, its key and a CA in PEM") from error
    return context
