"""Flipped bits in a journal (see ``flips.py``): none gives another answer than what was written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import flips
from trun.adapters.sqlite import FILE
from trun.errors import StateDamaged


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    seed = random.randrange(10**9)

    counts, wrong = flips.run(300, seed, tmp_path)

    assert not wrong, f"seed {seed}: {wrong[:5]}"
    assert counts["noticed: StateDamaged"] > 30


def test_a_flipped_bit_in_the_names_of_tables_is_damage(tmp_path: Path) -> None:
    flips.make(tmp_path / "state", killed=False)
    path = tmp_path / "state" / FILE
    data = bytearray(path.read_bytes())
    data[data.index(b"CREATE TABLE lives") + 15] ^= 0x80
    path.write_bytes(data)

    with pytest.raises(StateDamaged, match="trun recover"):
        flips.read(tmp_path / "state")
