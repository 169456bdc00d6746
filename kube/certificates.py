"""Certificates: one CA, and what it signs.

Names are upstream's (kubernetes.io/docs/setup/best-practices/certificates): the CN is the user, each O a group.
Keys are ECDSA P-256: small, fast to make, accepted by every client.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def authority(name: str = "wherry-ca", days: int = 3650) -> KeyPair:
    """A new self-signed CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, subject, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_usage(ca=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return KeyPair(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def issue(
    ca: KeyPair, common_name: str, organizations: Iterable[str] = (), sans: Iterable[str] = (), days: int = 365
) -> KeyPair:
    """A certificate for client and server use; `sans` are DNS names and IP addresses."""
    parent = x509.load_pem_x509_certificate(ca.certificate)
    signer = serialization.load_pem_private_key(ca.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in organizations]
    subject = x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = _builder(subject, parent.subject, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(ca=False), critical=True)
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(issuer, critical=False)
    general = [_general_name(san) for san in sans]
    if general:
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    return KeyPair(_pem(builder.sign(signer, hashes.SHA256())), _key_pem(key))


def self_signed(common_name: str, sans: Iterable[str] = ()) -> KeyPair:
    """A serving certificate that nobody vouches for, as stock daemons make when they are given none. The chain holds the
    throw-away authority too."""
    ca = authority(f"{common_name}-ca@{int(datetime.now(UTC).timestamp())}", days=365)
    pair = issue(ca, common_name, sans=sans)
    return KeyPair(pair.certificate + ca.certificate, pair.key)


def request(key: bytes, common_name: str, organizations: Iterable[str] = (), sans: Iterable[str] = ()) -> bytes:
    """A certificate signing request in PEM; `key` is a private key in PEM."""
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in organizations]
    subject = x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    general = [_general_name(san) for san in sans]
    if general:
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    return builder.sign(_private(key), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Leaf:
    """What the first certificate of a PEM text says of itself."""

    begins: datetime
    ends: datetime
    common_name: str
    public_key: bytes  # DER


def leaf(pem: bytes) -> Leaf:
    """Raises ValueError."""
    found = x509.load_pem_x509_certificate(pem)
    names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Leaf(
        begins=found.not_valid_before_utc,
        ends=found.not_valid_after_utc,
        common_name=str(names[0].value) if names else "",
        public_key=_public(found.public_key()),
    )


def public_key(key: bytes) -> bytes:
    """The public half, in DER, of a private key in PEM. Raises ValueError."""
    return _public(serialization.load_pem_private_key(key, None).public_key())


def belonging(certificate: bytes, key: bytes) -> KeyPair:
    """Both in PEM as a pair. Raises ValueError when the key is another certificate's."""
    if leaf(certificate).public_key != public_key(key):
        raise ValueError("the key is another certificate's")
    return KeyPair(certificate, key)


def _private(key: bytes) -> ec.EllipticCurvePrivateKey:
    found = serialization.load_pem_private_key(key, None)
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic curve key")  # noqa: TRY004  the value is wrong, as of any other bad PEM
    return found


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def signing_key() -> bytes:
    """A new private key in PEM, for what is signed but no certificate (ServiceAccount tokens)."""
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    start = datetime.now(UTC) - _CLOCK_SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(san: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(san))
    except ValueError:
        return x509.DNSName(san)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
