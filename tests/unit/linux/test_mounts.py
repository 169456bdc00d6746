from pathlib import Path

from linux import mounts

INFO = """\
23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
50 23 0:40 / /var/lib/k/pods/u/volumes/kubernetes.io~secret/my\\040secret rw,nosuid - tmpfs tmpfs rw,mode=755
51 50 0:41 /export /var/lib/k/pods/u/volumes/kubernetes.io~nfs/data/deep rw - nfs4 server:/export rw
52 23 0:42 / /var/lib/k/pods/u2 rw - tmpfs tmpfs rw
"""


def test_parse_knows_the_kernels_escapes() -> None:
    found = mounts.parse(INFO)
    assert found[1].point.endswith("/my secret")
    assert found[2] == mounts.Mount(
        "/var/lib/k/pods/u/volumes/kubernetes.io~nfs/data/deep", "nfs4", "server:/export", "/export"
    )


def test_below_is_deepest_first_and_no_neighbour() -> None:
    found = mounts.below("/var/lib/k/pods/u", mounts.parse(INFO))
    assert [mount.kind for mount in found] == ["nfs4", "tmpfs"]


def test_remove_tree_follows_no_link(tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "data").write_text("precious")
    gone = tmp_path / "gone"
    (gone / "sub").mkdir(parents=True)
    (gone / "sub/link").symlink_to(keep)
    mounts.remove_tree(str(gone))
    mounts.remove_tree(str(gone))
    assert not gone.exists()
    assert (keep / "data").read_text() == "precious"
