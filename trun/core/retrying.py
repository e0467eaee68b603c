"""Whether a job that ended badly is tried again: the one retry policy.

``retries`` counts bad attempts (raised, timeout, memory, died); a lost worker is not counted there, but a job that
three workers died under is poison and is not tried again, whatever its retries. Attempts given back unbegun count
nowhere.

Pure functions. Rule: nobody else decides about another attempt.
"""

from __future__ import annotations

from trun.core.record import Life
from trun.messages import JobSpec

#: Worker deaths, over all attempts and runs, after which a job is poison.
MAX_DEATHS = 3
#: Longest delay before a retry, in seconds: thirty days.
MAX_DELAY_S = 30 * 86_400.0


def is_poison(life: Life) -> bool:
    """Whether as many workers died under the job as one job may cost."""
    return life.deaths >= MAX_DEATHS


def has_retry(spec: JobSpec, life: Life) -> bool:
    """Whether another attempt follows, ``life.failures`` bad ones being counted."""
    return life.failures <= spec.retries


def delay_s(spec: JobSpec, life: Life) -> float:
    """Return the seconds before the next attempt: ``retry_delay * backoff ** (bad attempts - 1)``."""
    if spec.retry_delay <= 0:
        return 0.0
    try:
        return float(min(MAX_DELAY_S, spec.retry_delay * spec.backoff ** (life.failures - 1)))
    except OverflowError:
        return MAX_DELAY_S
