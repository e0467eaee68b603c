"""Modules that are sent to a service: built here, unpacked there, found by the jobs after them and by no other."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest

import trun
from tests.sites import PATIENCE_S, Site, as_person
from trun.adapters.building import build_wheel
from trun.adapters.packages import look_into
from trun.adapters.people import People

Make = Callable[..., types.ModuleType]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Write packages and import them; afterwards they are forgotten."""
    names: list[str] = []
    wants_bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # two versions may be written within one tick of the clock

    def write(name: str, code: str, folder: str = "one", **files: str) -> types.ModuleType:
        above = tmp_path / folder
        (above / name).mkdir(parents=True, exist_ok=True)
        (above / name / "__init__.py").write_text(code)
        for other, text in files.items():
            (above / other.replace("__", "/")).with_suffix(".toml" if other == "pyproject" else ".py").write_text(text)
        for known in [one for one in sys.modules if one.partition(".")[0] == name]:
            del sys.modules[known]
        monkeypatch.syspath_prepend(str(above))
        importlib.invalidate_caches()
        names.append(name)
        return importlib.import_module(name)

    yield write
    sys.dont_write_bytecode = wants_bytecode
    for known in [one for one in sys.modules if one.partition(".")[0] in names]:
        del sys.modules[known]


def names_in(wheel: bytes) -> list[str]:
    return zipfile.ZipFile(BytesIO(wheel)).namelist()


def where(name: str) -> str:
    """Import a module and say from where."""
    return str(importlib.import_module(name).__file__)


def test_a_package_without_a_project_is_packed_as_it_is(make: Make) -> None:
    module = make("mymodel", "__version__ = '1.5'\ndef fit(): ...\n", mymodel__deep="x = 1\n")

    wheel = build_wheel(importlib.import_module("mymodel.deep"))

    assert wheel == build_wheel(module)
    found = look_into(wheel)
    assert (found.distribution, found.version, found.functions) == ("mymodel", "1.5", ("mymodel.fit",))
    assert {"mymodel/__init__.py", "mymodel/deep.py", "mymodel-1.5.dist-info/RECORD"} <= set(names_in(wheel))


def test_a_project_is_built_by_its_own_build_and_left_as_it_was(make: Make, tmp_path: Path) -> None:
    project = (
        "[build-system]\nrequires = ['setuptools>=60']\nbuild-backend = 'setuptools.build_meta'\n"
        "[project]\nname = 'my-model'\nversion = '2.5'\ndependencies = ['numpy>=1.20']\n"
        "[tool.setuptools]\npackages = ['mymodel']\n"
    )
    module = make("mymodel", "def fit(): ...\n", pyproject=project)
    before = sorted(tmp_path.rglob("*"))

    found = look_into(build_wheel(module))

    assert (found.distribution, found.version, found.requires) == ("my-model", "2.5", ("numpy>=1.20",))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_build_that_fails_is_shown(make: Make) -> None:
    module = make("mymodel", "", setup="raise SystemExit('no such beam')\n")

    with pytest.raises(trun.TrunError, match=r"(?s)mymodel failed:.*no such beam"):
        build_wheel(module)


def test_an_installed_distribution_is_packed_with_its_own_version() -> None:
    import iniconfig

    found = look_into(build_wheel(iniconfig))

    assert found.distribution == "iniconfig"
    assert found.version == importlib.metadata.version("iniconfig")


@pytest.mark.parametrize("module", [os, trun, sys.modules["__main__"], "numpy"])
def test_what_every_service_has_is_not_packed(module: types.ModuleType) -> None:
    with pytest.raises(trun.BadOption):
        build_wheel(module)


def test_jobs_after_an_installation_find_the_module_and_others_do_not(make: Make, tmp_path: Path) -> None:
    code = "__version__ = '1.5'\nimport trun\n@trun.job\ndef fit(x): return 2 * x, __file__\n"
    module = make("mymodel", code)
    with trun.local(workers=2) as service:
        before = service.submit(where, "mymodel")
        upload = trun.install_service(module)
        fit = module.fit(4, when=upload.iscompleted)
        assert upload.result(PATIENCE_S)["functions"] == ["mymodel.fit"]
        value, path = fit.result(PATIENCE_S)
        assert value == 8
        assert path.startswith(service.folder)
        assert before.result(PATIENCE_S).startswith(str(tmp_path))
        shutil.rmtree(tmp_path / "one")
        assert [one["name"] for one in service.functions() if one["distribution"] == "mymodel"] == ["mymodel.fit"]
        assert service.versions()["mymodel"] == "1.5"
        assert service.function("mymodel.fit")(21).result(PATIENCE_S)[0] == 42
        inner = service.submit(lambda: trun.submit(where, "mymodel").result())
        assert inner.result(PATIENCE_S).startswith(service.folder)
        before.retry()
        with pytest.raises(ModuleNotFoundError):
            before.result(PATIENCE_S)


def test_a_warm_worker_with_another_version_is_not_used(make: Make) -> None:
    first = make("mymodel", "__version__ = '1'\ndef fit(): return __version__\n")
    with trun.local(workers=1) as service:
        one = trun.install_service(first)
        old = [service.function("mymodel.fit")(when=one.iscompleted) for _ in range(3)]
        assert [job.result(PATIENCE_S) for job in old] == ["1"] * 3
        two = trun.install_service(make("mymodel", "__version__ = '2'\ndef fit(): return __version__\n", "two"))
        new = [service.function("mymodel.fit")(when=two.iscompleted) for _ in range(3)]
        assert [job.result(PATIENCE_S) for job in new] == ["2"] * 3
        old[0].retry()
        assert old[0].result(PATIENCE_S) == "1"
        assert service.submit(os.getpid).result(PATIENCE_S) > 0


def test_a_package_whose_dependencies_are_not_there_is_refused_at_once(make: Make) -> None:
    project = (
        "[project]\nname = 'mymodel'\nversion = '1'\ndependencies = ['numpy<1']\n"
        "[build-system]\nrequires = ['setuptools>=60']\nbuild-backend = 'setuptools.build_meta'\n"
        "[tool.setuptools]\npackages = ['mymodel']\n"
    )
    module = make("mymodel", "", pyproject=project)
    words = r"mymodel 1 needs numpy <1; the service has \d"
    with trun.local(workers=1), pytest.raises(trun.VersionMismatch, match=words):
        trun.install_service(module).result(PATIENCE_S)


def test_a_name_that_the_service_does_not_have_is_answered_with_the_nearest(make: Make) -> None:
    with trun.local(workers=1) as service:
        with pytest.raises(trun.UnknownName, match="Did you mean 'detect_encoding'"):
            service.function("json.detect_encodng")(b"").result(PATIENCE_S)
        with pytest.raises(trun.UnknownName, match="no module 'nowhere'"):
            service.function("nowhere.fit")(1).result(PATIENCE_S)
        with pytest.raises(trun.BadOption):
            service.function("fit")
        assert service.function("json.dumps")([1], indent=None).result(PATIENCE_S) == "[1]"


# -- daemons ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def other(site: Site, monkeypatch: pytest.MonkeyPatch, folder: Path, *roles: str) -> Iterator[trun.Service]:
    """Be somebody else, with these roles at the service."""
    with as_person(monkeypatch, folder) as key:
        People(site.folder).add("other", key, roles)
        service = trun.remote_service(site.address, expect=site.key)
        try:
            yield service
        finally:
            service.leave_quietly()


def put_metadata(folder: Path, version: str) -> None:
    """Let ``mymodel`` in a folder be an installed distribution."""
    about = folder / "mymodel.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mymodel\nVersion: {version}\n")
    (about / "top_level.txt").write_text("mymodel\n")


@pytest.fixture
def site() -> Iterator[Site]:
    """Start a daemon that is gone when the test ends."""
    made = Site("fans")
    yield made
    made.stop("--kill")


def test_a_user_installs_for_himself_alone_and_it_outlives_the_daemon(
    site: Site, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    padding = "'" + os.urandom(1_500_000).hex() + "'"
    module = make("mymodel", "__version__ = '1'\ndef fit(x): return 2 * x\n", mymodel__large=f"x = {padding}\n")
    with other(site, monkeypatch, tmp_path / "a", "submit", "upload", "read") as service:
        upload = trun.install_service(module, service)
        shutil.rmtree(tmp_path / "one")
        job = service.function("mymodel.fit")(4, when=upload.iscompleted)
        assert upload.result(PATIENCE_S)["version"] == "1"
        assert job.result(PATIENCE_S) == 8
        site.stop("--kill")
        site.start()
        assert service.function("mymodel.fit")(5).result(PATIENCE_S) == 10
        assert service.versions()["mymodel"] == "1"
    with other(site, monkeypatch, tmp_path / "b", "submit", "read") as service:
        assert "mymodel" not in service.versions()
        with pytest.raises(trun.UnknownName, match="no module 'mymodel'"):
            service.function("mymodel.fit")(4).result(PATIENCE_S)


def test_without_the_role_upload_the_error_says_what_is_there(
    site: Site, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make("mymodel", "def fit(x): return 2 * x\n")
    with other(site, monkeypatch, tmp_path / "a", "submit", "read") as service:
        with pytest.raises(trun.NotAuthorised, match=r"role upload.*service\.versions\(\)"):
            trun.install_service(module, service).result(PATIENCE_S)
        assert service.versions()["numpy"] == importlib.metadata.version("numpy")
        assert service.function("numpy.add")(1, 2).result(PATIENCE_S) == 3
    assert not (site.folder / "users").exists()


def test_a_function_of_another_version_is_refused_with_both_versions_named(
    site: Site, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_metadata(tmp_path / "one", "1")
    module = make("mymodel", "def fit(x): return 2 * x\n")
    with other(site, monkeypatch, tmp_path / "a", "submit", "upload", "read") as service:
        upload = trun.install_service(module, service)
        assert upload.result(PATIENCE_S)["version"] == "1"
        sys.path.remove(str(tmp_path / "one"))
        put_metadata(tmp_path / "two", "2")
        module = make("mymodel", "def fit(x): return 3 * x\n", "two")
        from trun.adapters import versions

        versions._needs.cache_clear()
        assert service.submit(module.fit, 1).result(PATIENCE_S) == 2  # the folder is in sight: see below
        versions._needs.cache_clear()
        monkeypatch.setattr(versions, "_folder", lambda one: "/nowhere")
        with pytest.raises(trun.VersionMismatch, match=r"mymodel 2 here, and the service has mymodel 1"):
            service.submit(module.fit, 1).result(PATIENCE_S)


# -- on demand --------------------------------------------------------------------------------------------------------


def put_wheel(module: types.ModuleType, folder: Path) -> str:
    """Put a wheel of a module into an operator's folder, and return its version."""
    wheel = build_wheel(module)
    found = look_into(wheel)
    folder.mkdir(exist_ok=True)
    (folder / f"{found.distribution}-{found.version}-py3-none-any.whl").write_bytes(wheel)
    return found.version


def installed_by(job: trun.Job) -> list[object]:
    """Return what a job says that was installed for it."""
    return [entry.event.value for entry in job.messages() if getattr(entry.event, "name", "") == "installed"]


def test_a_missing_dependency_is_installed_from_the_operators_wheels(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_wheel(make("beamline", "__version__ = '3.1'\nangle = 5\n", "beam"), tmp_path / "wheels")
    monkeypatch.setenv("TRUN_INSTALL__WHEELS", str(tmp_path / "wheels"))
    project = (
        "[project]\nname = 'mymodel'\nversion = '1'\ndependencies = ['beamline>=3,<4']\n"
        "[build-system]\nrequires = ['setuptools>=60']\nbuild-backend = 'setuptools.build_meta'\n"
        "[tool.setuptools]\npackages = ['mymodel']\n"
    )
    module = make(
        "mymodel", "import beamline\ndef fit(): return beamline.angle, beamline.__file__\n", pyproject=project
    )
    with trun.local(workers=2) as service:
        upload = trun.install_service(module)
        shutil.rmtree(tmp_path / "beam")
        jobs = [service.function("mymodel.fit")(when=upload.iscompleted) for _ in range(3)]
        for job in jobs:
            angle, path = job.result(PATIENCE_S)
            assert angle == 5
            assert path.startswith(f"{service.folder}/environments/")
            assert installed_by(job) == [{"beamline": "3.1"}]
        assert len(list(Path(service.folder, "environments").iterdir())) == 1


def test_what_the_operators_wheels_do_not_have_fails_with_what_pip_said(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("TRUN_INSTALL__WHEELS", str(tmp_path / "wheels"))
    project = (
        "[project]\nname = 'mymodel'\nversion = '1'\ndependencies = ['beamline==9']\n"
        "[build-system]\nrequires = ['setuptools>=60']\nbuild-backend = 'setuptools.build_meta'\n"
        "[tool.setuptools]\npackages = ['mymodel']\n"
    )
    module = make("mymodel", "def fit(): ...\n", pyproject=project)
    with trun.local(workers=1) as service:
        upload = trun.install_service(module)
        job = service.function("mymodel.fit")(when=upload.iscompleted)
        with pytest.raises(trun.TrunError, match="beamline==9 cannot be installed on this service"):
            job.result(PATIENCE_S)
        assert list(Path(service.folder, "environments").iterdir()) == []


def test_a_function_brings_the_version_that_its_caller_has(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trun.adapters import versions

    put_metadata(tmp_path / "one", "1.5")
    module = make("mymodel", "def fit(x): return 2 * x, __file__\n")
    assert put_wheel(module, tmp_path / "wheels") == "1.5"
    monkeypatch.setenv("TRUN_INSTALL__WHEELS", str(tmp_path / "wheels"))
    site = Site("fans")
    try:
        with other(site, monkeypatch, tmp_path / "a", "submit", "read") as service:
            versions._needs.cache_clear()
            go = trun.Atom("go")
            job = service.submit(module.fit, 4, when=go)
            assert job.id
            shutil.rmtree(tmp_path / "one")
            go.set_ready()
            value, path = job.result(PATIENCE_S)
            assert (value, path.startswith(f"{site.folder}/environments/")) == (8, True)
            assert installed_by(job) == [{"mymodel": "1.5"}]
    finally:
        site.stop("--kill")
