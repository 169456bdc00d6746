"""How long the certificates last that this kubelet was given and nobody renews: the year after which clusters die, told in time.

The same series as of those that it renews (`identity.Lifetimes`). A certificate's end is taken out of its DER here, by ten
lines: `cryptography` is 11 MB that a node with nothing to renew does without. (X.509: RFC 5280 section 4.1; DER: X.690.)
"""

import logging
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_VERSION, _UTC_TIME = 0xA0, 0x17


def ends(pem: bytes) -> datetime:
    """When the first certificate of a PEM file ends. Raises ValueError."""
    text = pem.decode("ascii", "replace")
    first, last = text.find(_BEGIN), text.find(_END)
    if first < 0 or last < first:
        raise ValueError("no certificate in PEM")
    (_, certificate), *_ = _elements(ssl.PEM_cert_to_DER_cert(text[first : last + len(_END)]))
    (_, signed), *_ = _elements(certificate)
    fields = [content for tag, content in _elements(signed) if tag != _VERSION]
    if len(fields) < 4:  # serial number, algorithm, issuer, validity
        raise ValueError("no certificate in DER")
    _, (tag, when) = _elements(fields[3])
    layout = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(when.decode("ascii"), layout).replace(tzinfo=UTC)


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element."""
    at = 0
    while at < len(der):
        if at + 2 > len(der):
            raise ValueError("DER that is cut short")
        tag, size, at = der[at], der[at + 1], at + 2
        if size & 0x80:
            more = size & 0x7F
            size, at = int.from_bytes(der[at : at + more], "big"), at + more
        if at + size > len(der):
            raise ValueError("DER that is cut short")
        yield tag, der[at : at + size]
        at += size


class Fixed(Collector):
    """`given` are PEM certificates by side, client and server."""

    def __init__(self, given: Mapping[str, bytes], clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._ends: dict[str, datetime] = {}
        for side, pem in given.items():
            try:
                self._ends[side] = ends(pem)
            except ValueError as error:
                log.warning("when the %s certificate ends cannot be told: %s", side, error)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for side, end in self._ends.items():
            name = f"kubelet_certificate_manager_{side}_ttl_seconds"
            left = (end - self._clock()).total_seconds()
            yield GaugeMetricFamily(name, f"Seconds until the {side} certificate ends", value=left)
