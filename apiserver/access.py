"""Access, put together from the configuration: whose tokens are believed, who may, and with what we sign.

The signing key is --service-account-signing-key-file; without one the server makes a P-256 key in its data directory and
keeps it, so that tokens outlive a restart. Several servers of one cluster must be given the same key.

Named keys are read at the start, so that a wrong file is told at once. Our own is read when the first token comes: a server
without tokens does not load `cryptography`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from apiserver.authentication import static
from apiserver.authentication.accounts import Life, Look
from apiserver.authentication.request import Authenticator
from apiserver.authentication.tokens import Ring, Tokens
from apiserver.authorization import Authorizer, Everybody
from apiserver.cache import Cache, Entry
from apiserver.config import Config
from apiserver.issuing import LONGEST, Issuer
from apiserver.registry import Registry
from apiserver.store import Store
from kube.errors import UsageError

if TYPE_CHECKING:
    from apiserver.authentication import keys

KEY_NAME: Final = "service-account.key"
CATCH_UP_SECONDS: Final = 3.0
EVERYBODY: Final = Everybody()
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    authenticator: Authenticator
    authorizer: Authorizer
    issuer: Issuer
    keys: Keys
    jwks_uri: str = ""

    def openid(self, host: str, algorithms: list[str]) -> dict[str, Any]:
        """/.well-known/openid-configuration: how others check our tokens. `host` is where they asked."""
        return {
            "issuer": self.issuer.name,
            "jwks_uri": self.jwks_uri or f"https://{host}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        }


@dataclass(frozen=True, slots=True)
class Loaded:
    signer: keys.Signer
    ring: keys.Ring


class Keys:
    """The keys of ServiceAccount tokens, read when they are first needed."""

    def __init__(self, load: Callable[[], Loaded]) -> None:
        self._load = load
        self._loaded: Loaded | None = None

    async def loaded(self) -> Loaded:
        if self._loaded is None:
            self._loaded = await asyncio.to_thread(self._load)
        return self._loaded

    async def ring(self) -> Ring:
        return (await self.loaded()).ring


def build(
    config: Config,
    found: Keys,
    cache: Cache,
    registry: Registry,
    store: Store,
    authorizer: Authorizer = EVERYBODY,
) -> Access:
    """Raises UsageError."""
    look, clock = looking(cache, registry), time.time
    issuers = config.service_account_issuer
    audiences = config.api_audiences or issuers[:1]
    users = static.tokens(config.token_auth_file) if config.token_auth_file else {}
    tokens = Tokens(found.ring, issuers, audiences, users, Life(look), catching_up(cache, store), clock)
    longest = int(config.service_account_max_token_expiration)
    issuer = Issuer(issuers[0], audiences, look, clock, longest, config.service_account_extend_token_expiration)
    authenticator = Authenticator(tokens, config.anonymous_auth)
    return Access(authenticator, authorizer, issuer, found, config.service_account_jwks_uri)


def looking(cache: Cache, registry: Registry) -> Look:
    plurals = ("serviceaccounts", "pods", "secrets", "nodes")
    shelves = {plural: cache.shelf(registry.core(plural).prefix) for plural in plurals}

    def look(plural: str, namespace: str, name: str) -> Entry | None:
        return shelves[plural].get(namespace, name)

    return look


def catching_up(cache: Cache, store: Store) -> Callable[[], Awaitable[None]]:
    async def catch_up() -> None:
        await cache.reached(await store.current(), CATCH_UP_SECONDS)

    return catch_up


def configured_keys(config: Config) -> Keys:
    """Raises UsageError naming the flag."""
    _check(config)
    if config.etcd_servers and not config.service_account_signing_key_file:
        log.warning(
            "--service-account-signing-key-file is not given: tokens are signed with a key in %s, and another server on the same"
            " etcd does not believe them",
            config.data_dir,
        )
    if not config.service_account_signing_key_file and not config.service_account_key_file:
        return Keys(lambda: load(config))
    loaded = load(config)
    return Keys(lambda: loaded)


def load(config: Config) -> Loaded:
    """Reads the keys, and makes our own when there is none. Raises UsageError."""
    from apiserver.authentication import keys

    flag, path = "--service-account-signing-key-file", config.service_account_signing_key_file
    if not path:
        flag, path = "--data-dir", str(_own(Path(config.data_dir) / KEY_NAME))
    try:
        signer = keys.signer(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(flag, path, error) from error
    found = {signer.key.kid: signer.key}
    for path in config.service_account_key_file:
        try:
            found |= {key.kid: key for key in keys.public_keys(Path(path).read_bytes())}
        except (OSError, ValueError) as error:
            raise _unreadable("--service-account-key-file", path, error) from error
    return Loaded(signer, keys.Ring(tuple(found.values())))


def _check(config: Config) -> None:
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


def _own(path: Path) -> Path:
    """Whole and durable before its first token leaves, or not at all; who comes second takes the first one's."""
    if path.exists():
        return path
    from kube import certificates

    # Of this thread alone: the first two tokens may be asked for at once, and in a container each server is process 1.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(certificates.signing_key())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        temporary.unlink()
    except OSError as error:
        raise UsageError(f"--data-dir: cannot write {path}: {error.strerror}; name a writable directory") from error
    return path


def _unreadable(flag: str, path: str, error: Exception) -> UsageError:
    why = error.strerror if isinstance(error, OSError) else error
    return UsageError(f"{flag} {path}: {why}; name a PEM file with an RSA or ECDSA key")
