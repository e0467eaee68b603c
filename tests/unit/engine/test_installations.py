"""Who may install, whose jobs find what was installed, and which versions are refused at the door."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from trun.core.machine import Machine
from trun.core.record import JobState
from trun.engine.gate import Gate, Refusal
from trun.engine.packages import Packages
from trun.errors import BadOption, NotAuthorised, VersionMismatch
from trun.messages import Call, Hello, JobSpec, Need, Package, Payload, Submit

ME, OTHER = "m" * 40, "o" * 40
HERE = b"\0here"


class People:
    """Two users: the roles of the first are up to the test, the second has all."""

    def __init__(self, *roles: str) -> None:
        self.mine = frozenset(roles)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)

    def roles(self, key: str) -> frozenset[str]:
        return self.mine if key == ME else frozenset({"admin"})

    def user(self, key: str) -> str:
        return key

    def name(self, key: str) -> str:
        return key[:3]


def job(uid: str, **more: Any) -> JobSpec:
    return JobSpec(**{"uid": uid, "name": uid, "call": Call("f", Payload(b"x")), **more})


def install(uid: str, version: str, *, owner: str = ME, name: str = "mymodel", **more: Any) -> JobSpec:
    package = Package(distribution=name, version=version, digest=f"{version.encode().hex():0>64}", **more)
    return job(uid, kind="install", package=package, owner=owner)


@pytest.fixture
def machine() -> Machine:
    return Machine(service_key="here")


@pytest.fixture
def packages(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    monkeypatch.delenv("TRUN_INSTALL__WHEELS", raising=False)
    monkeypatch.delenv("TRUN_INSTALL__INDEX", raising=False)
    return Packages(machine, str(tmp_path))


def submit(machine: Machine, *specs: JobSpec) -> None:
    machine.handle(Submit(specs=specs), 1.0)


def complete(machine: Machine, uid: str) -> None:
    machine.records[uid].life.state = JobState.COMPLETED


def found(packages: Packages, machine: Machine, uid: str) -> list[str]:
    """Return the versions that a job finds."""
    paths, wanted = packages.paths(machine.records[uid])
    assert wanted == ()
    return [bytes.fromhex(Path(path).name).decode().lstrip("\0") for path in paths]


def test_a_job_finds_what_its_user_had_submitted_before_it_and_what_has_completed(
    machine: Machine, packages: Packages
) -> None:
    submit(machine, job("before", owner=ME), install("one", "1"), job("after", owner=ME), job("theirs", owner=OTHER))
    assert found(packages, machine, "after") == []

    complete(machine, "one")

    assert found(packages, machine, "after") == ["1"]
    assert found(packages, machine, "before") == []
    assert found(packages, machine, "theirs") == []


def test_the_last_version_of_each_distribution_counts(machine: Machine, packages: Packages) -> None:
    submit(machine, install("one", "1"), install("other", "7", name="tools"), install("two", "2", name="My_Model"))
    submit(machine, job("between", owner=ME), install("three", "3", name="my-model"), job("last", owner=ME))
    for uid in ("one", "other", "two", "three"):
        complete(machine, uid)

    assert found(packages, machine, "between") == ["2", "7", "1"]
    assert found(packages, machine, "last") == ["3", "7", "1"]


def test_a_job_from_inside_finds_what_the_job_around_it_finds(machine: Machine, packages: Packages) -> None:
    submit(machine, install("one", "1"), job("outer", owner=ME), job("inner", parent="outer"))
    submit(machine, job("claims", parent="outer", owner=OTHER), install("two", "2"), job("late", parent="inner"))
    complete(machine, "one")
    complete(machine, "two")

    assert found(packages, machine, "inner") == ["1"]
    assert found(packages, machine, "late") == ["1"]
    assert found(packages, machine, "claims") == []


def test_another_version_than_the_installed_one_is_refused_with_both_named(
    machine: Machine, packages: Packages
) -> None:
    submit(machine, install("one", "1"))
    wants = job("fit", owner=ME, needs=(Need(distribution="MyModel", wanted="==2"),))

    error = packages.refusal(Submit(specs=(wants,)))

    assert isinstance(error, VersionMismatch)
    assert "MyModel 2 here, and the service has MyModel 1" in str(error)
    theirs = job("fit", owner=OTHER, needs=wants.needs)
    assert packages.refusal(Submit(specs=(theirs,))) is None


def test_a_version_that_the_service_has_itself_is_compared(machine: Machine, packages: Packages) -> None:
    need = Need(distribution="numpy", wanted="==0.0.1")

    assert isinstance(packages.refusal(Submit(specs=(job("fit", needs=(need,)),))), VersionMismatch)
    in_sight = Need(distribution="numpy", wanted="==0.0.1", where="/")
    assert packages.refusal(Submit(specs=(job("fit", needs=(in_sight,)),))) is None


def test_what_comes_with_the_same_submission_counts(machine: Machine, packages: Packages) -> None:
    needs = (Need(distribution="tools", wanted=">=2"),)
    mine = install("one", "1", requires=needs)

    assert isinstance(packages.refusal(Submit(specs=(mine,))), VersionMismatch)
    assert packages.refusal(Submit(specs=(install("two", "2.5", name="tools"), mine))) is None


def test_a_job_that_was_accepted_is_not_refused_when_it_is_sent_again(machine: Machine, packages: Packages) -> None:
    wants = job("fit", needs=(Need(distribution="numpy", wanted="==0.0.1"),))
    submit(machine, wants)

    assert packages.refusal(Submit(specs=(wants,))) is None


@pytest.mark.parametrize("digest", ["", "../../etc", "a" * 63, "A" * 64, "/" * 64])
def test_a_digest_that_is_a_path_is_refused(digest: str, packages: Packages) -> None:
    spec = job("one", kind="install", package=Package(distribution="a", version="1", digest=digest))

    assert isinstance(packages.refusal(Submit(specs=(spec,))), BadOption)


@pytest.mark.parametrize("where", ["", "/"])
def test_a_need_that_is_an_option_of_a_command_is_refused(where: str, packages: Packages) -> None:
    spec = job("one", needs=(Need(distribution="--index-url=http://evil", wanted="", where=where),))

    assert isinstance(packages.refusal(Submit(specs=(spec,))), BadOption)


def test_a_job_that_needs_hundreds_of_distributions_is_refused(packages: Packages) -> None:
    needs = tuple(Need(distribution=f"n{n}") for n in range(1000))

    assert isinstance(packages.refusal(Submit(specs=(job("one", needs=needs),))), BadOption)


def test_what_is_missing_is_wanted_where_the_operator_allows_it(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUN_INSTALL__INDEX", "https://host/simple")
    packages = Packages(machine, str(tmp_path))
    needs = (Need(distribution="no-such-thing", wanted="==2"), Need(distribution="numpy"))
    submit(machine, job("fit", owner=ME, needs=needs), job("fat", owner=OTHER, needs=needs))

    paths, wanted = packages.paths(machine.records["fit"])

    assert wanted == ("no-such-thing==2",)
    assert [Path(path).parent.name for path in paths] == ["environments"]
    assert packages.paths(machine.records["fat"]) == (paths, wanted)


@pytest.mark.parametrize("roles", [(), ("read",), ("submit",), ("upload",), ("submit", "upload"), ("admin",)])
@pytest.mark.parametrize("kind", ["install", "call"])
def test_only_who_may_submit_and_upload_installs(roles: tuple[str, ...], kind: str, machine: Machine) -> None:
    gate = Gate(machine, People(*roles), service="house")
    gate.offer = lambda user: "Call numpy.add."
    spec = job("one", kind=kind, package=Package(distribution="a", version="1", digest="a" * 64))
    if roles:
        gate.admit(HERE, ME, Hello(session="s"))
    if {"submit", "upload"} <= set(roles) or "admin" in roles:
        gate.admit(HERE, ME, Submit(specs=(spec,)))
        return
    with pytest.raises(Refusal) as caught:
        gate.admit(HERE, ME, Submit(specs=(spec,)))
    assert isinstance(caught.value.error, NotAuthorised)
    assert ("Call numpy.add." in str(caught.value.error)) is (roles == ("submit",))


# -- circumstances ----------------------------------------------------------------------------------------------------


def test_a_dependency_that_is_not_needed_here_is_not_asked_for(machine: Machine, packages: Packages) -> None:
    elsewhere = Need(distribution="no-such-thing", wanted=">=9", marker="python_version < '3.0'")
    here = Need(distribution="no-such-thing", wanted=">=9", marker="python_version >= '3.0'")

    assert packages.refusal(Submit(specs=(install("one", "1", requires=(elsewhere,)),))) is None
    error = packages.refusal(Submit(specs=(install("one", "1", requires=(here,)),)))
    assert isinstance(error, VersionMismatch)
    assert "needs no-such-thing >=9; the service has none" in str(error)


def test_a_marker_that_is_none_is_refused(packages: Packages) -> None:
    odd = Need(distribution="a", marker="__import__('os')")

    assert isinstance(packages.refusal(Submit(specs=(job("fit", needs=(odd,)),))), BadOption)


# -- what no job uses -------------------------------------------------------------------------------------------------


def unpacked(packages: Packages, machine: Machine, uid: str) -> Path:
    """Make the folder that an installation has left."""
    folder = Path(packages.target(machine.records[uid].spec))
    (folder / "mymodel-1.dist-info").mkdir(parents=True)
    folder.with_suffix(".json").write_text("{}")
    return folder


def replaced(machine: Machine, packages: Packages) -> Path:
    """Install a first version, then a second; return where the first one lies."""
    submit(machine, install("one", "1"), job("between", owner=ME), install("two", "2"))
    for uid in ("one", "two"):
        complete(machine, uid)
    unpacked(packages, machine, "two")
    return unpacked(packages, machine, "one")


@pytest.fixture
def hasty(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    """Packages that are kept no longer than jobs use them."""
    monkeypatch.setenv("TRUN_INSTALL__KEEP", "0s")
    return Packages(machine, str(tmp_path))


def test_a_version_that_was_replaced_goes_when_no_job_uses_it(machine: Machine, hasty: Packages) -> None:
    first = replaced(machine, hasty)
    assert hasty.prune() == []  # the job between them has not ended

    complete(machine, "between")

    assert hasty.prune() == [str(first)]
    assert not first.exists()
    assert not first.with_suffix(".json").exists()
    assert Path(hasty.target(machine.records["two"].spec)).is_dir()
    assert hasty.prune() == []


def test_jobs_of_others_keep_nothing_and_jobs_from_inside_do(machine: Machine, hasty: Packages) -> None:
    first = replaced(machine, hasty)
    submit(machine, job("theirs", owner=OTHER))
    submit(machine, job("inner", parent="between"))
    complete(machine, "between")

    machine.records["inner"].life.number = 2
    assert hasty.prune() == []
    machine.records["inner"].life.state = JobState.FAILED

    assert hasty.prune() == [str(first)]


def test_what_was_replaced_lately_is_kept(machine: Machine, packages: Packages) -> None:
    first = replaced(machine, packages)
    complete(machine, "between")
    machine.records["two"].life.ended = time.time()

    assert packages.prune() == []
    assert first.is_dir()


def test_the_same_package_installed_again_is_not_taken_away(machine: Machine, hasty: Packages) -> None:
    submit(machine, install("one", "1"), install("again", "1"))
    for uid in ("one", "again"):
        complete(machine, uid)
    folder = unpacked(hasty, machine, "one")

    assert hasty.prune() == []
    assert folder.is_dir()


def test_a_coming_installation_looks_for_what_no_job_uses(machine: Machine, hasty: Packages) -> None:
    first = replaced(machine, hasty)
    complete(machine, "between")

    assert hasty.refusal(Submit(specs=(install("three", "3"),))) is None

    assert not first.exists()


def test_what_was_installed_on_demand_goes_when_it_is_not_wanted(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUN_INSTALL__INDEX", "https://host/simple")
    monkeypatch.setenv("TRUN_INSTALL__KEEP", "0s")
    hasty = Packages(machine, str(tmp_path))
    submit(machine, job("fit", owner=ME, needs=(Need(distribution="no-such-thing", wanted="==2"),)))
    ((path,), _) = hasty.paths(machine.records["fit"])
    (Path(path) / "no_such_thing-2.dist-info").mkdir(parents=True)
    (tmp_path / "environments" / "left").mkdir()
    for folder in (Path(path), tmp_path / "environments" / "left"):
        os.utime(folder, (1, 1))

    assert hasty.prune() == [str(tmp_path / "environments" / "left")]
    assert hasty.taken(machine.records["fit"]) == {"no_such_thing": "2"}
    complete(machine, "fit")
    assert hasty.prune() == [path]


def test_the_record_of_a_job_says_which_versions_it_took(machine: Machine, packages: Packages) -> None:
    submit(machine, install("one", "1"), job("fit", owner=ME), job("theirs", owner=OTHER))
    complete(machine, "one")
    unpacked(packages, machine, "one")

    assert packages.taken(machine.records["one"]) == {"mymodel": "1"}
    assert packages.taken(machine.records["fit"]) == {"mymodel": "1"}
    assert packages.taken(machine.records["theirs"]) == {}
