"""What every test may rely on: folders of its own, and how hard Hypothesis works.

Folders: TRUN_STATE_DIR, TRUN_RUNTIME_DIR and TRUN_CONFIG_DIR point to fresh temporary folders for each test, so that no
test sees the user's services or keys. The paths are short because a Unix socket's path may have about 100 bytes.

Hypothesis: profile ``dev`` (50 examples), ``ci`` (200, where CI=true) or ``nightly`` (50,000);
``--hypothesis-profile`` wins. A test whose single example is expensive (processes, sockets, large machines) fixes
its own ``max_examples``.

Rule: nothing here starts a process or imports trun; fixtures of one room live beside the tests of that room.
"""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for a job in the background: our scripts would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, print_blob=True)
settings.register_profile("nightly", max_examples=50_000, deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "dev")

#: One folder for the whole run. It goes when the interpreter does: atexit calls in reverse order, so that the services
#: which trun itself closes at exit still find their folders.
_ROOT = Path(tempfile.mkdtemp(prefix="trun-", dir="/tmp" if os.access("/tmp", os.W_OK) else None))
atexit.register(shutil.rmtree, _ROOT, ignore_errors=True)

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def trun_folders(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a state, a runtime and a configuration folder; the value is the folder that holds the three."""
    folder = _ROOT / str(next(_numbers))
    for variable, name in (("TRUN_STATE_DIR", "state"), ("TRUN_RUNTIME_DIR", "run"), ("TRUN_CONFIG_DIR", "config")):
        (folder / name).mkdir(parents=True, mode=0o700)
        monkeypatch.setenv(variable, str(folder / name))
    return folder
