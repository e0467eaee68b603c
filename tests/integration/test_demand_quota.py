"""What is installed on demand for the jobs of a user counts towards the quota of their packages."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

import trun
from tests.sites import PATIENCE_S, daemons
from trun.adapters.ondemand import provide
from trun.adapters.packages import unpack, used_bytes
from trun.engine import pruning
from trun.errors import PackageRefused

MIB = 1 << 20


def put(folder: Path, name: str, size: int = 10) -> Path:
    """Put a wheel into the operator's folder; its one module has so many bytes, which are hard to pack."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.5-py3-none-any.whl"
    about = f"{name}-1.5.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", f"def size():\n    return {size}\n")
        archive.writestr(f"{name}/data", os.urandom(size))
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", f"{name}/__init__.py,,\n{name}/data,,\n")
    return path


class Service:
    """The folders of a service, and what its operator allows."""

    def __init__(self, folder: Path, quota: str = "1MiB") -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        self.settings = {**os.environ, "TRUN_INSTALL__WHEELS": str(self.wheels), "TRUN_INSTALL__QUOTA": quota}

    def home(self, user: str) -> Path:
        return self.folder / "users" / user

    def provide(self, name: str, user: str) -> dict[str, str]:
        return provide(self.place(name), (name,), home=self.home(user), environment=self.settings)

    def place(self, name: str) -> Path:
        return self.folder / "environments" / name

    @property
    def left(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "environments").iterdir())


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Return a service with three packages that its operator offers."""
    made = Service(tmp_path)
    put(made.wheels, "one", 600_000)
    put(made.wheels, "two", 600_000)
    put(made.wheels, "vast", 20_000_000)
    return made


def test_what_goes_beyond_the_quota_is_refused_and_leaves_nothing(service: Service) -> None:
    assert service.provide("one", "ann") == {"one": "1.5"}
    assert MIB > used_bytes(service.home("ann")) > 600_000
    with pytest.raises(PackageRefused, match=r"two does not fit: your packages .* of 1 \(\[install\] quota\)"):
        service.provide("two", "ann")
    assert service.left == ["one"]
    assert service.provide("one", "ann") == {"one": "1.5"}


def test_pip_is_stopped_before_it_has_filled_the_disk(service: Service) -> None:
    with pytest.raises(PackageRefused, match="vast does not fit"):
        service.provide("vast", "ann")
    assert service.left == []
    assert used_bytes(service.home("ann")) < MIB


def test_what_somebody_else_has_brought_costs_nothing(service: Service) -> None:
    assert service.provide("one", "ann") == {"one": "1.5"}
    assert service.provide("two", "bob") == {"two": "1.5"}
    assert service.provide("two", "ann") == {"two": "1.5"}
    assert used_bytes(service.home("ann")) < MIB


def test_uploads_and_what_is_installed_on_demand_share_one_quota(service: Service) -> None:
    wheel = (service.wheels / "two-1.5-py3-none-any.whl").read_bytes()
    assert service.provide("one", "ann") == {"one": "1.5"}
    with pytest.raises(PackageRefused, match=r"two 1\.5 does not fit"):
        unpack(wheel, service.home("ann") / "digest", quota=MIB)
    unpack(wheel, service.home("bob") / "digest", quota=MIB)
    with pytest.raises(PackageRefused, match="one does not fit"):
        provide(service.place("other"), ("one",), home=service.home("bob"), environment=service.settings)


def test_what_was_removed_counts_no_more(service: Service) -> None:
    service.provide("one", "ann")
    pruning.remove([str(service.place("one"))]).join()
    assert service.provide("one", "bob") == {"one": "1.5"}
    assert service.provide("two", "ann") == {"two": "1.5"}


def test_a_job_that_needs_more_than_its_user_may_have_fails_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheels = tmp_path / "wheels"
    for name, size in (("demandone", 600_000), ("demandtwo", 600_000)):
        with zipfile.ZipFile(put(wheels, name, size)) as archive:
            archive.extractall(tmp_path / name)
        monkeypatch.syspath_prepend(str(tmp_path / name))
    monkeypatch.setenv("TRUN_INSTALL__WHEELS", str(wheels))
    monkeypatch.setenv("TRUN_INSTALL__QUOTA", "1MiB")
    import demandone  # type: ignore[import-not-found]
    import demandtwo  # type: ignore[import-not-found]

    with daemons() as start:
        start("fans")
        service = trun.remote_service("fans")
        go = trun.Atom("go")
        first = service.submit(demandone.size, when=go)
        second = service.submit(demandtwo.size, when=first.iscompleted)
        assert second.id
        for name in ("demandone", "demandtwo"):
            (tmp_path / name).rename(tmp_path / f"{name}.gone")
        go.set_ready()
        assert first.result(PATIENCE_S) == 600_000
        with pytest.raises(trun.TrunError, match=r"demandtwo==1\.5 does not fit: .*\[install\] quota"):
            second.result(PATIENCE_S)
