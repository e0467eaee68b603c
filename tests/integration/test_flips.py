"""Flipped bits in a journal (see ``flips.py``): none gives another answer than what was written."""

from __future__ import annotations

import random
from pathlib import Path

import flips


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    seed = random.randrange(10**9)

    counts, wrong = flips.run(300, seed, tmp_path)

    assert not wrong, f"seed {seed}: {wrong[:5]}"
    assert counts["noticed: StateDamaged"] > 30
