"""The certificate of the port for bulk data."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from trun.adapters.certificate import FILE, certificate, make
from trun.errors import StateError


def test_it_is_made_once_and_private(tmp_path: Path) -> None:
    made = certificate(tmp_path / "keys")

    assert certificate(tmp_path / "keys") == made
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in made.path.parent.iterdir()] == [FILE]


def test_the_fingerprint_is_that_of_the_certificate_alone(tmp_path: Path) -> None:
    made = certificate(tmp_path)
    text = made.path.read_text()

    der = ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE") :])

    assert made.fingerprint == hashlib.sha256(der).hexdigest()


def test_no_two_are_the_same() -> None:
    assert make() != make()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command")
def test_others_can_read_it(tmp_path: Path) -> None:
    path = certificate(tmp_path).path

    read = ["openssl", "x509", "-in", str(path), "-noout", "-subject", "-checkend", "3000000000"]
    text = subprocess.run(read, capture_output=True, text=True, check=True).stdout
    verified = subprocess.run(["openssl", "verify", "-CAfile", str(path), str(path)], capture_output=True, text=True)

    assert "trun" in text
    assert verified.stdout.rstrip().endswith("OK"), verified.stderr


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = certificate(tmp_path).path
    path.chmod(0o640)

    with pytest.raises(StateError, match="chmod 600"):
        certificate(tmp_path)


@pytest.mark.parametrize("text", ["", "nothing", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"])
def test_a_damaged_one_is_named(tmp_path: Path, text: str) -> None:
    certificate(tmp_path).path.write_text(text)

    with pytest.raises(StateError, match="remove it, and a new one is made"):
        certificate(tmp_path)
