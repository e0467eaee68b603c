"""Who may install, whose jobs find what was installed, and which versions are refused at the door."""

from __future__ import annotations

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
