"""Measuring: how long a depth takes, said so that it can be defended.

One of the ``workloads``, a bundle's artifacts or a checkpoint, is run over pictures as ``options``
ask for; ``timing`` makes the calls and notes when, while it reads ``sensors``. ``run`` makes a
result of it (``results``) with ``statistics`` and a ``verdict``, and ``combinations`` one for each
combination that a command line names.

Results become tables and comparisons, beside what was published (``report``), and pictures
(``plots``).
"""
