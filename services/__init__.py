"""The daemons for cluster nodes, installed as ``trun.daemons``: one composition root per file.

Each file chooses adapters, starts threads and hands over to the engine; templates for systemd and Slurm stand beside
them. Nobody imports a daemon: it is started as a process, ``python -m trun.daemons.node``.

Rule: no logic here. What can be tested without a process belongs in a storey of ``trun``.
"""
