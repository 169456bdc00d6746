"""Which of many subnets holds an address, or overlaps another: found by length and first address, so a thousand cost little."""

from collections.abc import Iterable
from typing import Generic, TypeVar

from overlay.model import Address, Range

T = TypeVar("T")


class Spans(Generic[T]):
    """Values by the subnet they stand for; none of them overlap."""

    def __init__(self, values: Iterable[tuple[Range, T]] = ()) -> None:
        self._by_length: dict[tuple[int, int], dict[int, T]] = {}
        for subnet, value in values:
            self.add(subnet, value)

    def add(self, subnet: Range, value: T) -> None:
        key = (subnet.version, subnet.prefixlen)
        self._by_length.setdefault(key, {})[int(subnet.network_address)] = value

    def put(self, address: Address, length: int, value: T) -> None:
        """For the subnet of this length that has the address; the first value stays."""
        shift = address.max_prefixlen - length
        self._by_length.setdefault((address.version, length), {}).setdefault(int(address) >> shift << shift, value)

    def same(self, subnet: Range) -> T | None:
        """Of just this subnet."""
        return self._by_length.get((subnet.version, subnet.prefixlen), {}).get(int(subnet.network_address))

    def holding(self, subnet: Range) -> T | None:
        """Of the one in which the subnet lies."""
        start = int(subnet.network_address)
        for (version, length), values in self._by_length.items():
            if version == subnet.version and length <= subnet.prefixlen:
                shift = subnet.max_prefixlen - length
                found = values.get(start >> shift << shift)
                if found is not None:
                    return found
        return None

    def at(self, address: Address) -> T | None:
        """Of the one that has the address."""
        number = int(address)
        for (version, length), values in self._by_length.items():
            if version == address.version:
                shift = address.max_prefixlen - length
                found = values.get(number >> shift << shift)
                if found is not None:
                    return found
        return None

    def overlapping(self, subnet: Range) -> T | None:
        """Of one that holds the subnet or lies in it; there is no other way to overlap."""
        found = self.holding(subnet)
        if found is not None:
            return found
        shift = subnet.max_prefixlen - subnet.prefixlen
        start = int(subnet.network_address) >> shift
        for (version, length), values in self._by_length.items():
            if version == subnet.version and length > subnet.prefixlen:
                for first, value in values.items():
                    if first >> shift == start:
                        return value
        return None
