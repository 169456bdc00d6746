"""The plugin's JSON agrees with the standard library's, in both directions and in what it refuses."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.codec import decode, encode

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))  # what `decode` takes
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_reads_back_here_and_elsewhere(value: object) -> None:
    text = encode(value)  # type: ignore[arg-type]
    assert text.isascii()
    assert json.loads(text) == value
    assert decode(text.encode()) == value


@given(VALUES)
def test_what_others_write_is_read(value: object) -> None:
    assert decode(b"\n " + json.dumps(value, indent=1).encode() + b"\n") == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a": 1,}', "property name"),
        (b'{"a": 1} x', "Extra data"),
        (b'{"a": "', "Unterminated string"),
        (b'{"mtu": 1, "mtu": 2}', "'mtu' is given twice"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff", "utf-8"),
        (b'{"bridge": "\\ud800"}', "half a surrogate pair"),
        (b'{"a": [{"\\u0000": 1}]}', "NUL"),
    ],
)
def test_what_is_no_json_is_refused_in_words(text: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        decode(text)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        decode(data)
    except ValueError:
        return
