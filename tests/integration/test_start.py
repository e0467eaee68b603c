"""The first moments of a script: its node starts while it imports the rest, and every door is open when it has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import subprocess, sys
import trun

early = []
start = subprocess.Popen

class Noted(start):
    def __init__(self, *args, **kwargs):
        early.append("trun.jobs" in sys.modules)
        super().__init__(*args, **kwargs)

subprocess.Popen = Noted
service = trun.local(workers=1)
assert early == [False], early
assert service.map(len, ["a", "bc"]).results() == [1, 2]
assert trun.submit(len, "abc", service=service).result() == 3
service.close()
print("well")
"""


def test_the_node_starts_before_the_script_imports_what_it_needs_later(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)

    assert (done.stdout, done.stderr) == ("well\n", "")
