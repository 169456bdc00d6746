"""The key that the server makes for itself: whole from its first moment, also when the first two tokens are asked for at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from apiserver import access


def test_many_first_tokens_at_once_are_signed_with_one_whole_key(tmp_path: Path) -> None:
    path, start = tmp_path / "data" / access.KEY_NAME, Barrier(8)

    def read() -> bytes:
        start.wait()
        return access._own(path).read_bytes()

    with ThreadPoolExecutor(8) as pool:
        found = {reading.result() for reading in [pool.submit(read) for _ in range(8)]}
    assert len(found) == 1
    assert found.pop().startswith(b"-----BEGIN")
    assert [entry.name for entry in path.parent.iterdir()] == [access.KEY_NAME]
