"""What the Python models of a Triton repository import: one module per kind of model.

Each has a class ``TritonPythonModel``, as Triton's Python backend expects it; the ``model.py`` in
the repository does no more than import it. They need the deployment half of this package in the
server's Python, and no runtime: networks are executed by Triton's own backends.
"""
