"""``python -m trun`` is the command ``trun``.

Nothing else stands here, so that both ways in are the same way. Rule: no code beyond the call.
"""

from __future__ import annotations

import sys

from trun.cli import main

if __name__ == "__main__":
    sys.exit(main())
