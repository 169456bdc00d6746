"""TLS for a daemon that was given no serving certificate: one that nobody vouches for, made at start and kept nowhere.

Stock control-plane daemons do the same when they have no `--cert-dir`; whoever scrapes them skips verification.
"""

import os
import socket
import ssl
import tempfile

from kube import certificates, serving
from kube.errors import UsageError


def given_or_made(certificate: str, key: str, common_name: str) -> ssl.SSLContext:
    """TLS from --tls-cert-file and --tls-private-key-file, or, where neither is given, from a certificate of our own."""
    if bool(certificate) != bool(key):
        raise UsageError("--tls-cert-file and --tls-private-key-file go together; give both or neither")
    return serving.server_tls(certificate, key) if certificate else context(common_name)


def context(common_name: str) -> ssl.SSLContext:
    """TLS 1.2 or newer; the certificate names this host and 127.0.0.1."""
    pair = certificates.self_signed(common_name, [socket.gethostname(), "localhost", "127.0.0.1"])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.TemporaryDirectory() as folder:  # the ssl module loads keys from files only
        path = os.path.join(folder, "serving.pem")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(pair.key + pair.certificate)
        tls.load_cert_chain(path)
    return tls
