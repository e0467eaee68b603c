"""Where payloads run.

An executor takes an order and reports what became of it; it never sees a condition and never changes the state of a
job. One launcher runs the payload in the same way on all of them.

Rule: an executor satisfies the Protocol in ``trun.ports`` and passes the contract suite in ``tests/contract``.
"""
