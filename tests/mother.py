"""Starts daemons fast: a process that has everything imported and forks a node for each line that it reads.

A kill loop would spend most of its time on imports otherwise. The forked node is the real one, from ``main`` on. Lines:
JSON of the arguments; the answer is the pid. ``python tests/mother.py LOGFILE``. A line may hold a ``fault`` too: where
the node shall kill itself (see ``faulty``).

Rule: no thread, no socket and no trun object exists here before the fork.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import nacl.bindings  # noqa: F401

import faulty
import services.node as node
import trun.adapters.bulk
import trun.adapters.clock
import trun.adapters.keys
import trun.adapters.powers
import trun.adapters.wire
import trun.correspondence
import trun.engine.driver
import trun.engine.gate
import trun.engine.loop
import trun.engine.verbs
import trun.engine.views
import trun.executors.lasting  # noqa: F401


def main() -> None:
    """Fork until the input ends."""
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.setsid()
                ready = os.open(json.loads(line)["ready"], os.O_WRONLY)
                nothing = os.open(os.devnull, os.O_RDONLY)
                for source, target in ((nothing, 0), (log, 1), (log, 2)):
                    os.dup2(source, target)
                if fault := json.loads(line).get("fault"):
                    faulty.arm(**fault)
                code = node.main([*json.loads(line)["arguments"], "--ready-fd", str(ready)])
            finally:
                os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
