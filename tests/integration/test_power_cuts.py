"""Power cuts in the middle of commits (see ``powercuts.py``): no journal is refused, torn, or short of a word."""

from __future__ import annotations

import random
from pathlib import Path

import powercuts


def test_a_power_cut_leaves_what_was_acknowledged_and_all_or_nothing_of_the_rest(tmp_path: Path) -> None:
    seed = random.randrange(10**9)

    counts, wrong = powercuts.run(130, seed, tmp_path)

    assert not wrong, f"seed {seed}: {wrong[:5]}"
    assert {what.partition(":")[0] for what in counts} >= {"pages", "file"}
    assert counts["pages: before"] > 20
