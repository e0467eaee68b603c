"""What can be fetched from a folder, and what cannot: attacks on paths, links and kinds of files."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trun.adapters import export
from trun.adapters.addresses import place
from trun.adapters.export import open_published, resolve
from trun.errors import BadOption, TransferRefused

SECRET = b"nobody may read this"


@pytest.fixture(params=["openat2", "walk"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to open something below a folder."""
    if request.param == "walk":
        monkeypatch.setattr(export, "_openat2", lambda: None)
    elif export._openat2() is None:
        pytest.skip("this kernel has no openat2")
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path, way: str) -> Path:
    (tmp_path / "secret").write_bytes(SECRET)
    folder = tmp_path / "root"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "top").write_bytes(b"top")
    (folder / "a" / "b" / "deep").write_bytes(b"deep")
    return folder


def read(root: Path, relative: str, **options: bool) -> bytes:
    with open(resolve(root, relative, **options), "rb") as file:
        return file.read()


@pytest.mark.parametrize(("relative", "content"), [("top", b"top"), ("a/b/deep", b"deep")])
def test_files_below_the_folder_are_opened(root: Path, relative: str, content: bytes) -> None:
    assert read(root, relative) == content


def test_the_folder_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)

    assert read(tmp_path / "link", "a/b/deep") == b"deep"


@pytest.mark.parametrize(
    "relative",
    [
        *("", "..", "../secret", "a/../top", "./top", "/top", "a//b/deep", "top/", "a/../../secret", "/etc/passwd"),
        *("top\0", "top\n", "a/\x1b[2J", "x" * 256, "/".join(["x" * 200] * 30), "ü" * 128),
    ],
)
def test_paths_that_lead_elsewhere_are_refused(root: Path, relative: str) -> None:
    with pytest.raises(BadOption, match="no address of a file"):
        resolve(root, relative)


@pytest.mark.parametrize(
    "relative",
    [
        *("a", "missing", "top/x", "TOP", "..."),
        *("%2e%2e/secret", "..%2fsecret", "%2E%2E%2Fsecret", "..\\secret", "．．/secret"),
    ],
)
def test_what_is_no_file_is_not_found(root: Path, relative: str) -> None:
    with pytest.raises(FileNotFoundError, match="that can be fetched"):
        resolve(root, relative)


def test_no_link_is_followed(root: Path, tmp_path: Path) -> None:
    (root / "to_file").symlink_to(tmp_path / "secret")
    (root / "to_folder").symlink_to(tmp_path)
    (root / "inside").symlink_to("top")
    (root / "a" / "up").symlink_to("..")
    (root / "magic").symlink_to("/proc/self/cwd")

    for relative in ("to_file", "to_folder/secret", "inside", "a/up/top", "magic/setup.cfg"):
        with pytest.raises(FileNotFoundError, match="that can be fetched"):
            resolve(root, relative)


def test_only_regular_files_are_opened(root: Path) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.getcwd()
        os.chdir(root)  # a socket's path is short
        try:
            sock.bind("socket")
        finally:
            os.chdir(here)
    with contextlib.suppress(PermissionError):
        os.mknod(root / "device", 0o20666, os.makedev(1, 5))

    for relative in ("fifo", "socket", "device", "a"):
        with pytest.raises(FileNotFoundError, match="that can be fetched"):
            resolve(root, relative)


def test_hidden_files_need_to_be_asked_for(root: Path) -> None:
    (root / ".ssh").mkdir()
    (root / ".ssh" / "id").write_bytes(b"key")

    with pytest.raises(FileNotFoundError):
        resolve(root, ".ssh/id")
    assert read(root, ".ssh/id", hidden=True) == b"key"


def test_a_file_on_its_way_is_nobodys(root: Path) -> None:
    name = "." + "0" * 32 + ".part"
    (root / name).write_bytes(b"half")

    with pytest.raises(FileNotFoundError):
        resolve(root, name, hidden=True)


def test_a_hard_link_to_what_belongs_to_others_is_not_opened(root: Path, tmp_path: Path) -> None:
    os.link(tmp_path / "secret", root / "second")
    assert read(root, "second") == SECRET  # ours, where only we can have put it

    root.chmod(0o777)
    with pytest.raises(FileNotFoundError):
        resolve(root, "second")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_hard_link_to_somebody_elses_file_is_not_opened(root: Path, tmp_path: Path) -> None:
    os.link(tmp_path / "secret", root / "second")
    os.chown(tmp_path / "secret", 12345, 12345)

    with pytest.raises(FileNotFoundError):
        resolve(root, "second")


def test_what_is_too_big_is_refused(root: Path) -> None:
    os.close(resolve(root, "top", size_cap=3))
    with pytest.raises(TransferRefused, match="3 bytes, and at most 2"):
        resolve(root, "top", size_cap=2)


def test_a_missing_folder_has_no_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        resolve(tmp_path / "missing", "top")


def test_nobody_gets_out_while_folders_turn_into_links(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(SECRET)
    (root / "x").mkdir()
    (root / "x" / "file").write_bytes(b"fine")
    stop = threading.Event()

    def turn() -> None:
        (root / "link").symlink_to(tmp_path / "outside")
        while not stop.is_set():
            for name, other in (("x", "old"), ("link", "x"), ("x", "link"), ("old", "x")):
                os.rename(root / name, root / other)

    thread = threading.Thread(target=turn)
    thread.start()
    found = set()
    try:
        for _ in range(2000):
            try:
                found.add(read(root, "x/file"))
            except FileNotFoundError:
                found.add(b"")
    finally:
        stop.set()
        thread.join()

    assert found <= {b"fine", b""}


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for relative in ("top", "a/b/deep", "a", "missing", "a/b/missing", "missing/x"):
        try:
            os.close(resolve(root, relative))
        except FileNotFoundError:
            continue

    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture(scope="module")
def maze() -> Iterator[Path]:
    """A folder with links out of it beside files; every content says whether it may be seen."""
    with tempfile.TemporaryDirectory() as name:
        outer = Path(name)
        (outer / "a").write_bytes(SECRET)
        root = outer / "root"
        (root / "a" / "a").mkdir(parents=True)
        (root / "b").write_bytes(b"fine")
        (root / "a" / "b").write_bytes(b"fine")
        (root / "a" / "c").symlink_to("../../a")
        (root / "c").symlink_to("..")
        yield root


_PARTS = st.sampled_from(["a", "b", "c", "..", ".", "", "root", "%2e%2e", "\0", "A", "..;", "~", "/"])


@given(st.one_of(st.lists(_PARTS, max_size=6).map("/".join), st.text(max_size=30)))
def test_no_path_leads_out(maze: Path, relative: str) -> None:
    for way in (export._openat2(), None):
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.suppress(BadOption, FileNotFoundError),
        ):
            patch.setattr(export, "_openat2", lambda way=way: way)
            with open(resolve(maze, relative, hidden=True), "rb") as file:
                assert file.read() == b"fine"


@given(st.text(max_size=40))
def test_no_address_of_a_published_file_leads_out(maze: Path, text: str) -> None:
    for url in (f"trun://key/{text}", f"trun://key/jobs/{text}", f"trun://key/jobs/a/files/{text}"):
        try:
            found = place(url)
        except BadOption:
            continue
        assert all(part not in ("", ".", "..") and "/" not in part and "\0" not in part for part in found.parts)
        if found.uid:
            with pytest.raises(FileNotFoundError):
                open_published(maze, found)
