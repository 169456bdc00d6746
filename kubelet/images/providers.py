"""Credential provider plugins: programs that know a registry's credentials of the moment.

    --image-credential-provider-config    a CredentialProviderConfig (kubelet.config.k8s.io/v1): which images each is for
    --image-credential-provider-bin-dir   where the programs are

A plugin gets a CredentialProviderRequest on standard input and answers with a CredentialProviderResponse within a minute. The
answer is kept as long and for as much (Image, Registry, Global) as it says itself; those who ask meanwhile wait for the same
run. A plugin that fails is told in the log, and the pull goes on without it.
(Upstream: pkg/credentialprovider/plugin/plugin.go.)
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from kube.errors import UsageError
from kube.settings import one_line, parse_duration
from kubelet.images.credentials import matches, matching, repository
from kubelet.runtime import RegistryAuth

log = logging.getLogger(__name__)

_CONFIG_VERSIONS: Final = ("kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1")
_WIRE_VERSIONS: Final = ("credentialprovider.kubelet.k8s.io/v1", "credentialprovider.kubelet.k8s.io/v1beta1")
_SECONDS: Final = 60.0
_LARGEST: Final = 1 << 20


class _Variable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    value: str


class Provider(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    name: str
    match_images: tuple[str, ...]
    default_cache_duration: str
    api_version: str
    args: tuple[str, ...] = ()
    env: tuple[_Variable, ...] = ()


class _Config(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    api_version: str
    kind: str
    providers: tuple[Provider, ...]


class _Entry(msgspec.Struct, frozen=True):
    username: str = ""
    password: str = ""


class _Response(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    cache_key_type: Literal["Image", "Registry", "Global"]
    cache_duration: str | None = None
    auth: dict[str, _Entry] | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    until: float
    auth: Mapping[str, RegistryAuth]


def load(path: str, folder: str) -> tuple[Provider, ...]:
    """Raises UsageError naming the file, the field and the remedy."""
    import yaml

    flag = "--image-credential-provider-config"
    try:
        with open(path, "rb") as file:
            document = yaml.safe_load(file)
        config = msgspec.convert(document, _Config)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{flag} {path}: {one_line(error)}; name a readable YAML or JSON file") from error
    except msgspec.ValidationError as error:
        raise UsageError(f"{flag} {path}: {error}") from error
    if config.api_version not in _CONFIG_VERSIONS or config.kind != "CredentialProviderConfig":
        raise UsageError(f"{flag} {path}: write apiVersion: {_CONFIG_VERSIONS[0]} and kind: CredentialProviderConfig")
    if not folder:
        raise UsageError(f"{flag} is given: say where the programs are with --image-credential-provider-bin-dir")
    for number, provider in enumerate(config.providers):
        _check(provider, folder, f"{flag} {path}: providers[{number}]")
    names = [provider.name for provider in config.providers]
    if len(set(names)) < len(names):
        raise UsageError(f"{flag} {path}: two providers have the same name")
    return config.providers


def _check(provider: Provider, folder: str, where: str) -> None:
    if not provider.name or "/" in provider.name or provider.name in (".", ".."):
        raise UsageError(f"{where}.name: {provider.name!r} is not a file name")
    if not provider.match_images:
        raise UsageError(f"{where}.matchImages: name at least one place")
    if provider.api_version not in _WIRE_VERSIONS:
        raise UsageError(f"{where}.apiVersion: {provider.api_version!r} is none of {', '.join(_WIRE_VERSIONS)}")
    try:
        parse_duration(provider.default_cache_duration)
    except ValueError as error:
        raise UsageError(f"{where}.defaultCacheDuration: {error}") from error
    program = os.path.join(folder, provider.name)
    if not os.access(program, os.X_OK):
        raise UsageError(f"{where}.name: {program} is not a program; put it into --image-credential-provider-bin-dir")


class Providers:
    def __init__(
        self, providers: Sequence[Provider], folder: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._providers = providers
        self._folder = folder
        self._clock = clock
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._turns: dict[tuple[str, str], asyncio.Lock] = {}

    async def credentials(self, image: str) -> list[RegistryAuth]:
        image = repository(image)
        tables = [
            await self._of(provider, image)
            for provider in self._providers
            if any(matches(pattern, image) for pattern in provider.match_images)
        ]
        return matching(tables, image)

    async def _of(self, provider: Provider, image: str) -> Mapping[str, RegistryAuth]:
        async with self._turns.setdefault((provider.name, _registry(image)), asyncio.Lock()):
            for key in (image, _registry(image), ""):
                kept = self._kept.get((provider.name, key))
                if kept is not None and kept.until > self._clock():
                    return kept.auth
            try:
                response = await self._ask(provider, image)
                seconds = parse_duration(response.cache_duration or provider.default_cache_duration)
            except (OSError, ValueError, TimeoutError) as error:
                words = str(error) or f"no answer within {_SECONDS:g} s"
                log.warning("credential provider %s for image %s: %s", provider.name, image, words)
                return {}
            auth = {
                place: RegistryAuth(username=entry.username, password=entry.password)
                for place, entry in (response.auth or {}).items()
            }
            key = {"Image": image, "Registry": _registry(image), "Global": ""}[response.cache_key_type]
            if seconds > 0:
                self._tidy()
                self._kept[provider.name, key] = _Kept(self._clock() + seconds, auth)
            return auth

    def _tidy(self) -> None:
        now = self._clock()
        self._kept = {key: kept for key, kept in self._kept.items() if kept.until > now}

    async def _ask(self, provider: Provider, image: str) -> _Response:
        """Raises OSError, ValueError, TimeoutError."""
        request = {"kind": "CredentialProviderRequest", "apiVersion": provider.api_version, "image": image}
        process = await asyncio.create_subprocess_exec(
            os.path.join(self._folder, provider.name),
            *provider.args,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **{each.name: each.value for each in provider.env}},
        )
        try:
            async with asyncio.timeout(_SECONDS):
                out, err = await process.communicate(json.dumps(request).encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise OSError(f"exit status {process.returncode}: {err[-300:].decode(errors='replace').strip()}")
        return _response(out, provider.api_version)


def _response(out: bytes, version: str) -> _Response:
    if len(out) > _LARGEST:
        raise ValueError(f"the answer is longer than {_LARGEST} bytes")
    response = msgspec.json.decode(out, type=_Response)  # its errors are ValueErrors
    if response.kind != "CredentialProviderResponse" or response.api_version != version:
        raise ValueError(
            f"the answer is a {response.api_version} {response.kind}, not a {version} CredentialProviderResponse"
        )
    return response


def _registry(image: str) -> str:
    """Host and port, as upstream keys its answers."""
    return image.partition("/")[0]
