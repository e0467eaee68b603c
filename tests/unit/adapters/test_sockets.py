"""Descriptors that wake, and sockets as files."""

from __future__ import annotations

import os
import select

import pytest

from trun.adapters.sockets import Wake, check_tcp, socket_path
from trun.errors import BadOption


@pytest.mark.parametrize("kind", ["eventfd", "pipe"])
def test_a_wake_is_readable_from_set_to_clear(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "pipe":
        monkeypatch.delattr(os, "eventfd")
    wake = Wake()
    assert not select.select([wake.fd], [], [], 0)[0]

    for _ in range(100):
        wake.set()
    assert select.select([wake.fd], [], [], 0)[0]
    wake.clear()

    assert not select.select([wake.fd], [], [], 0)[0]
    wake.clear()
    wake.close()


@pytest.mark.parametrize("kind", ["eventfd", "pipe"])
def test_a_wake_that_was_closed_writes_to_nobody_elses_file(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "pipe":
        monkeypatch.delattr(os, "eventfd")
    wake = Wake()
    wake.close()
    read, write = os.pipe()

    wake.set()
    wake.close()

    assert not select.select([read], [], [], 0)[0]
    os.close(read)
    os.close(write)


def test_an_ipc_address_has_a_path_and_others_have_none() -> None:
    assert str(socket_path("ipc:///run/me/x.sock")) == "/run/me/x.sock"
    assert socket_path("tcp://127.0.0.1:1") is None
    with pytest.raises(BadOption, match="absolute path"):
        socket_path("ipc://@abstract")


def test_to_listen_any_port_may_be_asked_for_and_to_connect_one_is_needed() -> None:
    for any_port in ("tcp://127.0.0.1:0", "tcp://127.0.0.1:*", "tcp://[::1]:0"):
        check_tcp(any_port, bind=True)
        with pytest.raises(BadOption, match="from 1 to 65535"):
            check_tcp(any_port)
    check_tcp("tcp://here:65535")
