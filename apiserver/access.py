"""Access, put together from the configuration: whose tokens are believed, who may, and with what we sign.

The signing key is --service-account-signing-key-file; without one the server makes a P-256 key in its data directory and
keeps it, so that tokens outlive a restart. Several servers of one cluster must be given the same key.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from apiserver.authentication import jwt, static
from apiserver.authentication.accounts import Life, Look
from apiserver.authentication.request import Authenticator
from apiserver.authentication.tokens import Tokens
from apiserver.authorization import Authorizer, Everybody
from apiserver.cache import Cache, Entry
from apiserver.config import Config
from apiserver.issuing import LONGEST, Issuer
from apiserver.registry import Registry
from apiserver.store import Store
from kube.errors import UsageError

KEY_NAME: Final = "service-account.key"
CATCH_UP_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Access:
    authenticator: Authenticator
    authorizer: Authorizer
    issuer: Issuer
    ring: jwt.Ring
    jwks_uri: str = ""

    def openid(self, host: str) -> dict[str, Any]:
        """/.well-known/openid-configuration: how others check our tokens. `host` is where they asked."""
        return {
            "issuer": self.issuer.name,
            "jwks_uri": self.jwks_uri or f"https://{host}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({key.algorithm for key in self.ring.keys}),
        }


@dataclass(frozen=True, slots=True)
class Keys:
    signer: jwt.Signer
    ring: jwt.Ring


def build(config: Config, keys: Keys, cache: Cache, registry: Registry, store: Store) -> Access:
    """Raises UsageError."""
    look, clock = looking(cache, registry), time.time
    issuers = config.service_account_issuer
    audiences = config.api_audiences or issuers[:1]
    tokens = Tokens(
        keys.ring,
        issuers,
        audiences,
        static.tokens(config.token_auth_file) if config.token_auth_file else {},
        Life(look),
        catching_up(cache, store),
        clock,
    )
    issuer = Issuer(
        issuers[0],
        keys.signer,
        audiences,
        look,
        clock,
        int(config.service_account_max_token_expiration),
        config.service_account_extend_token_expiration,
    )
    authenticator = Authenticator(tokens, config.anonymous_auth)
    return Access(authenticator, Everybody(), issuer, keys.ring, config.service_account_jwks_uri)


def looking(cache: Cache, registry: Registry) -> Look:
    def look(plural: str, namespace: str, name: str) -> Entry | None:
        return cache.shelf(registry.core(plural).prefix).get(namespace, name)

    return look


def catching_up(cache: Cache, store: Store) -> Callable[[], Awaitable[None]]:
    async def catch_up() -> None:
        await cache.reached(await store.current(), CATCH_UP_SECONDS)

    return catch_up


def keys(config: Config) -> Keys:
    """Reads, or makes, the keys of ServiceAccount tokens; raises UsageError naming the flag."""
    check(config)
    flag, path = "--service-account-signing-key-file", config.service_account_signing_key_file
    signer = jwt_signer(flag, path) if path else _own(Path(config.data_dir) / KEY_NAME)
    found = {signer.key.kid: signer.key}
    for path in config.service_account_key_file:
        try:
            found |= {key.kid: key for key in jwt.public_keys(Path(path).read_bytes())}
        except (OSError, ValueError) as error:
            raise _unreadable("--service-account-key-file", path, error) from error
    return Keys(signer, jwt.Ring(tuple(found.values())))


def check(config: Config) -> None:
    """Raises UsageError."""
    if not config.service_account_issuer or not all(config.service_account_issuer):
        raise UsageError("--service-account-issuer: is empty; name the issuer of tokens, a URL or any other word")
    for issuer in config.service_account_issuer:
        if ":" in issuer and not issuer.partition(":")[0].isalnum():
            raise UsageError(f"--service-account-issuer: {issuer!r} has a ':' but is no URL; write https://...")
    longest = config.service_account_max_token_expiration
    if longest and not 3600 <= longest <= LONGEST:
        raise UsageError(
            "--service-account-max-token-expiration: give at least 1h and at most 2^32 seconds, or 0 for no limit"
        )


def jwt_signer(flag: str, path: str) -> jwt.Signer:
    try:
        return jwt.signer(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(flag, path, error) from error


def _own(path: Path) -> jwt.Signer:
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            _write(path, pem)
        except OSError as error:
            raise UsageError(f"--data-dir: cannot write {path}: {error.strerror}; name a writable directory") from error
    return jwt_signer("--data-dir", str(path))


def _write(path: Path, pem: bytes) -> None:
    """Whole and durable before its first token leaves, or not at all; who comes second takes the first one's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    try:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


def _unreadable(flag: str, path: str, error: Exception) -> UsageError:
    why = error.strerror if isinstance(error, OSError) else error
    return UsageError(f"{flag} {path}: {why}; name a PEM file with an RSA or ECDSA key")
