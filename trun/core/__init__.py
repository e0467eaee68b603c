"""The pure core: what a job is, how its state changes, which one is next.

Messages come in, effects go out. This storey has no clock, no lock and no I/O: whatever it needs to know arrives in a
message, whatever it wants done leaves as an effect that the engine performs.

Who may come in: the engine, and tests. Rule: if you need a window to the world here, you are in the wrong room.
"""
