"""The keys of tokens: which are believed, and which one signs. RS256 and the ECDSA algorithms.

A key's name, `kid` in a token, is the base64url of the SHA-256 of its DER SubjectPublicKeyInfo (pkg/serviceaccount/jwt.go); a
token without a known one is tried against all. The algorithm is the key's, never the token's own choice.

This module loads `cryptography` (8 MB); `access` imports it when the first token comes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from apiserver.authentication.jwt import Claims, Unbelievable, encoded, parse, unsigned

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "RS256": hashes.SHA256(),
    "ES256": hashes.SHA256(),
    "ES384": hashes.SHA384(),
    "ES512": hashes.SHA512(),
}
_CURVES: Final = {"secp256r1": ("ES256", "P-256"), "secp384r1": ("ES384", "P-384"), "secp521r1": ("ES512", "P-521")}


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, its name and its algorithm."""

    kid: str
    algorithm: str
    public: PublicKey

    @classmethod
    def of(cls, public: PublicKey) -> Key:
        """Raises ValueError for a key that signs no tokens."""
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        if isinstance(public, rsa.RSAPublicKey):
            algorithm = "RS256"
        elif public.curve.name in _CURVES:
            algorithm = _CURVES[public.curve.name][0]
        else:
            raise ValueError(f"curve {public.curve.name} signs no tokens; use RSA, P-256, P-384 or P-521")
        return cls(encoded(hashlib.sha256(der).digest()), algorithm, public)

    def verify(self, signature: bytes, signed: bytes) -> bool:
        algorithm = _HASHES[self.algorithm]
        try:
            if isinstance(self.public, rsa.RSAPublicKey):
                self.public.verify(signature, signed, padding.PKCS1v15(), algorithm)
            else:
                half = _half(self.public.curve)
                if len(signature) != 2 * half:
                    return False
                r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
                self.public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(algorithm))
        except InvalidSignature:
            return False
        return True

    def jwk(self) -> dict[str, str]:
        """As /openid/v1/jwks shows it (RFC 7517)."""
        common = {"use": "sig", "kid": self.kid, "alg": self.algorithm}
        if isinstance(self.public, rsa.RSAPublicKey):
            numbers = self.public.public_numbers()
            return {"kty": "RSA", **common, "n": _number(numbers.n), "e": _number(numbers.e)}
        point, size = self.public.public_numbers(), _half(self.public.curve)
        curve = _CURVES[self.public.curve.name][1]
        return {"kty": "EC", **common, "crv": curve, "x": _number(point.x, size), "y": _number(point.y, size)}


@dataclass(frozen=True, slots=True)
class Ring:
    keys: tuple[Key, ...]

    def claims(self, token: str) -> Claims:
        """What a signed token says; raises Unbelievable."""
        shown = parse(token)
        if any(key.verify(shown.signature, shown.signed) for key in self._candidates(shown.header)):
            return shown.claims
        raise Unbelievable("no key of ours has signed it")

    def _candidates(self, header: Claims) -> Iterable[Key]:
        fitting = [key for key in self.keys if key.algorithm == header.get("alg")]
        return [key for key in fitting if key.kid == header.get("kid")] or fitting

    def algorithms(self) -> list[str]:
        return sorted({key.algorithm for key in self.keys})

    def jwks(self) -> dict[str, Any]:
        return {"keys": [key.jwk() for key in self.keys]}


@dataclass(frozen=True, slots=True)
class Signer:
    key: Key
    private: PrivateKey

    @classmethod
    def of(cls, private: PrivateKey) -> Signer:
        return cls(Key.of(private.public_key()), private)

    def sign(self, claims: Claims) -> str:
        signed = unsigned({"alg": self.key.algorithm, "kid": self.key.kid}, claims)
        algorithm = _HASHES[self.key.algorithm]
        if isinstance(self.private, rsa.RSAPrivateKey):
            signature = self.private.sign(signed, padding.PKCS1v15(), algorithm)
        else:
            half = _half(self.private.curve)
            r, s = decode_dss_signature(self.private.sign(signed, ec.ECDSA(algorithm)))
            signature = r.to_bytes(half, "big") + s.to_bytes(half, "big")
        return f"{signed.decode()}.{encoded(signature)}"


def public_keys(pem: bytes) -> list[Key]:
    """Every key in a PEM file: public keys, certificates, and the public halves of private ones. Raises ValueError."""
    found = [Key.of(_public(block)) for block in _blocks(pem)]
    if not found:
        raise ValueError("no PEM block holds a key")
    return found


def signer(pem: bytes) -> Signer:
    """Raises ValueError."""
    for block in _blocks(pem):
        if b"PRIVATE KEY-----" in block:
            return Signer.of(_private(block))
    raise ValueError("no PEM block holds a private key")


def _blocks(pem: bytes) -> Iterable[bytes]:
    """Each BEGIN..END block; `EC PARAMETERS`, which openssl writes before a key, is none of ours."""
    start = pem.find(b"-----BEGIN ")
    while start >= 0:
        end = pem.find(b"-----END ", start)
        stop = pem.find(b"-----", end + 9) + 5
        if end < 0 or stop < 5:
            raise ValueError("a PEM block has no end")
        if b"PARAMETERS-----" not in pem[start : start + 40]:
            yield pem[start:stop] + b"\n"
        start = pem.find(b"-----BEGIN ", stop)


def _public(block: bytes) -> PublicKey:
    key: object
    if b"PRIVATE KEY-----" in block:
        return _private(block).public_key()
    if block.startswith(b"-----BEGIN CERTIFICATE"):
        key = x509.load_pem_x509_certificate(block).public_key()
    elif b"BEGIN RSA PUBLIC KEY" in block or b"BEGIN PUBLIC KEY" in block:
        key = serialization.load_pem_public_key(block)
    else:
        raise ValueError(f"{block.splitlines()[0].decode(errors='replace')} is no key")
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise ValueError(f"{type(key).__name__} signs no tokens; use RSA or ECDSA")  # noqa: TRY004 (a file's fault)
    return key


def _private(block: bytes) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(block, None)
    except TypeError as error:  # encrypted
        raise ValueError(str(error)) from error
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError(f"{type(key).__name__} signs no tokens; use RSA or ECDSA")  # noqa: TRY004 (a file's fault)
    return key


def _half(curve: ec.EllipticCurve) -> int:
    return (curve.key_size + 7) // 8


def _number(value: int, size: int = 0) -> str:
    return encoded(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))
