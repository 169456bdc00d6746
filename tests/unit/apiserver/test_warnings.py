"""Warning headers stay small and printable."""

from apiserver.http import warnings


def test_quoting_and_repetition() -> None:
    found = warnings.headers(['unknown field "a\\b"', "once", "once"])
    assert found == [b'Warning: 299 - "unknown field \\"a\\\\b\\""\r\n', b'Warning: 299 - "once"\r\n']


def test_no_control_characters_end_a_header() -> None:
    assert warnings.headers(["a\r\nSet-Cookie: x\0"]) == [b'Warning: 299 - "aSet-Cookie: x"\r\n']


def test_many_or_long_texts_are_cut() -> None:
    assert warnings.headers(["x" * 4096]) == [b'Warning: 299 - "' + b"x" * 4096 + b'"\r\n']
    assert warnings.headers(["x" * 4097, "y"]) == [
        b'Warning: 299 - "' + b"x" * 256 + b'"\r\n',
        b'Warning: 299 - "y"\r\n',
    ]
    many = warnings.headers(f"unknown field {number:090}" for number in range(10_000))
    assert 30 < len(many) < 42
