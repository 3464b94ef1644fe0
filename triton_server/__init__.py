"""Calling a Triton server with a repository of this project, and running one on this machine.

``client`` is an example to start from. The rest is for tests, benchmarks and the demo:
``environment`` sets up a real server from PyPI, ``server`` runs it, ``backends`` stand in for the
backends that PyPI does not have.
"""
