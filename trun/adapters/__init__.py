"""The only rooms with windows: sockets, databases, folders, pickles, the clock, watchers.

One module per outside thing, each behind a protocol of ``trun.ports``: a foreign library is imported in exactly one
module here and nowhere else. Adapters decide nothing and turn foreign exceptions into ours.

Rule: a new dependency gets a module of its own; what two adapters share belongs below, in ports or messages.
"""
