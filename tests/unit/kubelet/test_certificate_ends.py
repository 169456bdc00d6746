"""When certificates end that nobody renews, read without the library that makes them: it agrees with that library."""

import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from kube import certificates
from kubelet.certificate.fixed import Fixed, ends

AUTHORITY = certificates.authority()


@pytest.mark.parametrize("days", [1, 365, 40 * 365])  # the last one past 2050, where another kind of time begins
def test_the_end_is_the_one_that_was_written(days: int) -> None:
    pem = certificates.authority(days=days).certificate
    assert ends(pem) == certificates.leaf(pem).ends
    leaf = certificates.issue(AUTHORITY, "system:node:n", ("system:nodes",)).certificate
    assert ends(b"Bag Attributes\n" + leaf + AUTHORITY.certificate) == certificates.leaf(leaf).ends


@pytest.mark.parametrize("text", [b"", b"\xff", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"])
def test_what_is_none_is_said(text: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        ends(text)
    with caplog.at_level(logging.WARNING):
        assert list(Fixed({"client": text}, lambda: datetime.now(UTC)).collect()) == []
    assert "client certificate" in caplog.text


@given(st.integers(0, len(AUTHORITY.certificate) - 1), st.binary(max_size=3))
def test_damage_is_a_value_error_or_a_time(at: int, other: bytes) -> None:
    damaged = AUTHORITY.certificate[:at] + other + AUTHORITY.certificate[at + len(other) :]
    with suppress(ValueError):
        assert ends(damaged).tzinfo is UTC


def test_series_of_either_side() -> None:
    now = certificates.leaf(AUTHORITY.certificate).ends - timedelta(hours=1)
    registry = CollectorRegistry()
    registry.register(Fixed({"client": AUTHORITY.certificate, "server": AUTHORITY.certificate}, lambda: now))
    text = generate_latest(registry).decode()
    for side in ("client", "server"):
        assert f"kubelet_certificate_manager_{side}_ttl_seconds 3600.0\n" in text
