"""HTTP/2's header compression as a gRPC client needs it (RFC 7541).

What we send is never compressed. What we receive has no dynamic table, since our SETTINGS say that ours has no room; what is left
is the static table, of which only the names that gRPC answers with are kept, and Huffman's code. That code is canonical: the
lengths of its words are all there is to know of it (the RFC's appendix B).
"""

from collections.abc import Mapping
from functools import cache, lru_cache

# 5 for A to 30 for Z, of the 256 bytes and the end of a string.
_LENGTHS = (
    "ISXXXXXXXTZXXZXXXXXXXXZXXXXXXXXXBFFHIBDGFFDGDBBBAAABBBBBBBCDKBHFIBCCCCCCCCCCCCCCCCCCCCCCDCDIOIJBKABABABBBACCBBBABCBAABCCCCCKGJIX"
    "PRPPRRRSRSSSSSTSTTRSTSSSSQRSRSSTRQPRRSSQSRRTQRSSQQRQSRSSPRRRSRRSVVPORSRUVVVWWVTUOQVWWVWTQQVVXWWWPTPQRQQSRRUUTTVSVWVVWWWWWXWWWWWVZ"
)
_END = 256
_STATIC = {
    8: (":status", "200"),
    9: (":status", "204"),
    10: (":status", "206"),
    11: (":status", "304"),
    12: (":status", "400"),
    13: (":status", "404"),
    14: (":status", "500"),
    31: ("content-type", ""),
}


class HeaderError(Exception):
    """The peer does not speak as our SETTINGS ask it to."""


@cache
def _codes() -> dict[tuple[int, int], int]:
    """Symbols by length and word."""
    found: dict[tuple[int, int], int] = {}
    code = before = 0
    for length, symbol in sorted((ord(letter) - ord("A") + 5, symbol) for symbol, letter in enumerate(_LENGTHS)):
        code <<= length - (before or length)
        found[length, code] = symbol
        code, before = code + 1, length
    return found


def _expanded(text: bytes) -> bytes:
    codes, out, word, length = _codes(), bytearray(), 0, 0
    for byte in text:
        for bit in range(7, -1, -1):
            word, length = word << 1 | byte >> bit & 1, length + 1
            symbol = codes.get((length, word))
            if symbol is not None:
                if symbol == _END:
                    raise HeaderError("a string that ends within itself")
                out.append(symbol)
                word = length = 0
    if length > 7 or word != (1 << length) - 1:
        raise HeaderError("a string that ends badly")
    return bytes(out)


def _number(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """The number at `at`, of which the first byte holds so many bits, and where the next thing begins."""
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
        if shift > 28:
            raise HeaderError("a number without end")


def _text(block: bytes, at: int) -> tuple[str, int]:
    packed = block[at] & 128
    length, at = _number(block, at, 7)
    raw = block[at : at + length]
    if len(raw) < length:
        raise HeaderError("a string without end")
    return (_expanded(raw) if packed else raw).decode("latin-1"), at + length


@lru_cache(maxsize=64)
def decoded(block: bytes) -> Mapping[str, str]:
    """The headers of a block; those whose names are of no use to a gRPC client have none. Remembered, as nearly all answers of a
    server have the same."""
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(block):
            first = block[at]
            if first & 128:  # known by name and value
                index, at = _number(block, at, 7)
                name, value = _known(index)
            elif first & 224 == 32:  # the size of the dynamic table
                _, at = _number(block, at, 5)
                continue
            else:
                index, at = _number(block, at, 6 if first & 64 else 4)
                name, at = (_known(index)[0], at) if index else _text(block, at)
                value, at = _text(block, at)
            found[name] = value
    except IndexError:
        raise HeaderError("headers without end") from None
    return found


def _known(index: int) -> tuple[str, str]:
    if not 0 < index < 62:
        raise HeaderError(f"a header by number {index}, where there is no table")
    return _STATIC.get(index, ("", ""))


def literal(name: str, value: str) -> bytes:
    """A header as it is."""
    return b"\0" + _plain(name.encode()) + _plain(value.encode())


def _plain(text: bytes) -> bytes:
    length = len(text)
    if length < 127:
        return bytes((length,)) + text
    head, rest = bytearray((127,)), length - 127
    while rest > 127:
        head.append(rest & 127 | 128)
        rest >>= 7
    return bytes(head) + bytes((rest,)) + text
