"""Measuring: how long a depth takes, said so that it can be defended.

A *workload* (``bundle_workload``, ``checkpoint_workload``) is run over ``pictures`` by the
``loops`` that ``plans`` and ``options`` ask for (``measure``), while a ``monitor`` reads
``sensors``; ``run`` makes a result of it (``results``) with ``statistics`` and a ``verdict``.
``command`` does that for every combination that a command line names, ``show`` prints it.

Results become tables (``merge``, ``report``), comparisons (``compare``) and pictures (``plots``,
its panels in ``plot_depths`` and ``plot_latency``), beside the ``published`` points.
"""
