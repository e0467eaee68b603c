"""What is unpacked of a wheel, and what is refused: names, links, bombs, scripts, and wheels that lie."""

from __future__ import annotations

import io
import os
import stat
import sys
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trun.adapters import packages
from trun.adapters.packages import look_into, unpack
from trun.errors import BadOption, PackageRefused

_INFO = "fit-1.0.dist-info"
_ABOUT = (
    (f"{_INFO}/METADATA", b"Metadata-Version: 2.1\nName: fit\nVersion: 1.0\nRequires-Dist: numpy>=1.2\n"),
    (f"{_INFO}/WHEEL", b"Wheel-Version: 1.0\nTag: py3-none-any\n"),
)
_CODE = ("fit/__init__.py", b"__all__ = ['run']\ndef run(): ...\ndef walk(): ...\nraise SystemExit\n")


def wheel_of(*members: tuple[str | zipfile.ZipInfo, bytes], about: Iterable[tuple[str, bytes]] = _ABOUT) -> bytes:
    """Return an archive with these members; names are written as they are."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (*members, *about):
            archive.writestr(name, data)
    return memory.getvalue()


def odd(name: str, mode: int) -> zipfile.ZipInfo:
    """Return a member of which the archive says that it is something else than a file."""
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    return member


def refuse(wheel: bytes, folder: Path) -> str:
    """Expect a wheel to be refused and to leave nothing; return the reason."""
    with pytest.raises(PackageRefused) as caught:
        unpack(wheel, folder / "users" / "one")
    assert [path for path in folder.rglob("*") if path.name != "users"] == []
    return str(caught.value)


def test_a_wheel_is_unpacked_whole_and_nothing_of_it_is_executed(tmp_path: Path) -> None:
    found = unpack(wheel_of(_CODE, ("fit/deep/data.bin", b"\0" * 10)), tmp_path / "one")

    assert (found.distribution, found.version) == ("fit", "1.0")
    assert (found.modules, found.functions, found.requires) == (("fit",), ("fit.run",), ("numpy>=1.2",))
    assert (tmp_path / "one/fit/deep/data.bin").read_bytes() == b"\0" * 10
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert not (tmp_path / "one/fit/__init__.py").stat().st_mode & (stat.S_IXUSR | stat.S_ISUID)


@pytest.mark.parametrize(
    "name",
    [
        "../evil.py",
        "fit/../../evil.py",
        "/etc/evil.py",
        "//evil.py",
        "fit//evil.py",
        "./evil.py",
        "fit\\..\\evil.py",
        "C:/evil.py",
        "fit/evil\n.py",
        "fit/.. /evil.py",
        "fit/" + "x" * 300 + ".py",
        "a/" * 60 + "evil.py",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    assert "no name for a file" in refuse(wheel_of(_CODE, (name, b"evil")), tmp_path)


def test_a_name_with_a_zero_in_it_is_refused(tmp_path: Path) -> None:
    wheel = wheel_of(_CODE, ("fit/aXb.py", b"evil")).replace(b"aXb", b"a\0b")

    refuse(wheel, tmp_path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_are_refused(kind: int, tmp_path: Path) -> None:
    assert "link or a device" in refuse(wheel_of(_CODE, (odd("fit/evil", kind | 0o777), b"/etc/passwd")), tmp_path)


def test_a_link_that_is_called_a_folder_is_refused(tmp_path: Path) -> None:
    assert "link or a device" in refuse(wheel_of(_CODE, (odd("fit/evil/", stat.S_IFLNK), b"/etc")), tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["fit/__init__.py", "fit/__INIT__.py", "FIT/other.py", "fit/__init__.py/a.py"])
def test_names_that_are_equal_on_some_disk_are_refused(second: str, tmp_path: Path) -> None:
    assert "two members" in refuse(wheel_of(_CODE, (second, b"evil")), tmp_path)


@pytest.mark.parametrize("name", ["evil.pth", "fit/evil.PTH", "sitecustomize.py", "usercustomize/__init__.py"])
def test_what_would_be_executed_when_python_starts_is_refused(name: str, tmp_path: Path) -> None:
    assert "executed when Python starts" in refuse(wheel_of(_CODE, (name, b"import os")), tmp_path)


@pytest.mark.parametrize("name", ["json.py", "os/__init__.py", "trun/errors.py", "socket.cpython-311-x86_64.so"])
def test_what_would_stand_before_other_modules_is_refused(name: str, tmp_path: Path) -> None:
    assert "stand before" in refuse(wheel_of(_CODE, (name, b"evil")), tmp_path)


@pytest.mark.parametrize("name", ["fit-1.0.data/scripts/fit", "fit-1.0.data/data/etc/x", "fit-1.0.data/headers/x.h"])
def test_scripts_are_refused(name: str, tmp_path: Path) -> None:
    assert "script" in refuse(wheel_of(_CODE, (name, b"#!python")), tmp_path)


def test_modules_in_the_data_folder_come_to_their_place_and_are_looked_at_there(tmp_path: Path) -> None:
    unpack(wheel_of(("fit-1.0.data/purelib/fit/__init__.py", b"")), tmp_path / "one")

    assert (tmp_path / "one/fit/__init__.py").is_file()
    refuse(wheel_of(("fit-1.0.data/purelib/evil.pth", b"")), tmp_path / "other")


def test_a_bomb_is_refused_by_what_comes_out_of_it(tmp_path: Path) -> None:
    reason = refuse(wheel_of(_CODE, ("fit/zeros.bin", bytes(packages.SMALL_BYTES + 1))), tmp_path)

    assert "larger than allowed" in reason


def test_a_bomb_that_says_it_is_small_is_refused(tmp_path: Path) -> None:
    size = packages.SMALL_BYTES + 1
    wheel = wheel_of(_CODE, ("fit/zeros.bin", bytes(size))).replace(size.to_bytes(4, "little"), b"\x05\0\0\0")

    refuse(wheel, tmp_path)


def test_what_does_not_fit_into_the_users_quota_is_refused_with_the_figures(tmp_path: Path) -> None:
    users = tmp_path / "users"
    unpack(wheel_of(_CODE, ("fit/data.bin", bytes(3 << 20))), users / "one", quota=5 << 20)

    with pytest.raises(PackageRefused, match=r"fit 1\.0 does not fit: .* have 3 MiB of 5 \(\[install\] quota\)"):
        unpack(wheel_of(_CODE, ("fit/data.bin", bytes(2 << 20))), users / "two", quota=5 << 20)
    assert [path.name for path in users.iterdir()] == ["one"]

    unpack(wheel_of(_CODE), users / "two", quota=5 << 20)


def test_a_wheel_that_lies_about_its_size_does_not_get_past_the_quota(tmp_path: Path) -> None:
    size = 3 << 20
    wheel = wheel_of(_CODE, ("fit/zeros.bin", bytes(size))).replace(size.to_bytes(4, "little"), b"\x05\0\0\0")

    with pytest.raises(PackageRefused):
        unpack(wheel, tmp_path / "users" / "one", quota=1 << 20)
    assert list((tmp_path / "users").iterdir()) == []


def test_the_quota_is_the_operators() -> None:
    assert packages.quota_of({}) == 4 << 30
    assert packages.quota_of({packages.QUOTA: "10MB"}) == 10_000_000
    with pytest.raises(BadOption, match=r"\[install\] quota"):
        packages.quota_of({packages.QUOTA: "much"})


def test_too_many_files_are_refused_before_they_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "FILES", 20)

    assert "more than 20 files" in refuse(wheel_of(*((f"fit/{n}.py", b"") for n in range(40))), tmp_path)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    wheel = bytearray(wheel_of(_CODE))
    start = wheel.rindex(b"PK\x01\x02", 0, wheel.index(b"fit/__init__.py", wheel.index(b"PK\x01\x02")))
    wheel[start + 8] |= 1

    assert "encrypted" in refuse(bytes(wheel), tmp_path)


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ((), "dist-info"),
        ((*_ABOUT, ("other-2.dist-info/METADATA", b"")), "dist-info"),
        (((f"{_INFO}/METADATA", b"Name: fit\n"), _ABOUT[1]), "what it is"),
        ((_ABOUT[0],), "no fit-1.0.dist-info/WHEEL"),
        ((_ABOUT[0], (f"{_INFO}/WHEEL", b"Tag: cp27-cp27m-win32\n")), "cp27"),
    ],
)
def test_a_wheel_that_does_not_say_what_it_is_is_refused(
    about: tuple[tuple[str, bytes], ...], reason: str, tmp_path: Path
) -> None:
    assert reason in refuse(wheel_of(_CODE, about=about), tmp_path)


def test_what_a_killed_worker_left_is_swept_away(tmp_path: Path) -> None:
    for name, age in ((".old.new", 2 * packages.LEFT_S), (".busy.new", 0.0)):
        (tmp_path / name / "fit").mkdir(parents=True)
        moment = time.time() - age
        os.utime(tmp_path / name, (moment, moment))

    unpack(wheel_of(_CODE), tmp_path / "one")

    assert sorted(path.name for path in tmp_path.iterdir()) == [".busy.new", "one"]


@pytest.mark.parametrize("wheel", [b"", b"PK", b"no archive" * 100, wheel_of(_CODE) + b"x", wheel_of(_CODE)[:-1]])
def test_what_is_no_archive_is_refused(wheel: bytes, tmp_path: Path) -> None:
    refuse(wheel, tmp_path)


def test_a_wheel_for_this_python_fits() -> None:
    own = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    import sysconfig

    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    for tag in (f"{own}-{own}-{platform}", "py2.py3-none-any", f"cp39-abi3-{platform}"):
        assert look_into(wheel_of(_CODE, about=(_ABOUT[0], (f"{_INFO}/WHEEL", f"Tag: {tag}\n".encode())))).version


@given(st.data())
def test_a_damaged_wheel_is_refused_or_is_inside_its_folder(data: st.DataObject) -> None:
    import tempfile

    wheel = bytearray(wheel_of(_CODE, ("fit/a.py", b"x" * 50)))
    for _ in range(data.draw(st.integers(1, 4))):
        wheel[data.draw(st.integers(0, len(wheel) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            unpack(bytes(wheel), folder / "users" / "one")
        except PackageRefused:
            assert list((folder / "users").glob("*")) == []
        else:
            assert [path.name for path in folder.iterdir()] == ["users"]
            assert [path.name for path in (folder / "users").iterdir()] == ["one"]
            assert not any(path.is_symlink() for path in folder.rglob("*"))
