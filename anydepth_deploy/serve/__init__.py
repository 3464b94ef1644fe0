"""Serving a bundle: a model repository for the Triton Inference Server.

:mod:`~anydepth_deploy.serve.repository` writes one, :mod:`~anydepth_deploy.serve.check.repository`
checks any, and :mod:`anydepth_deploy.serve.models` is what the server's Python runs. Nothing is
imported here: the server has neither ``tritonclient`` nor ``onnx``.
"""
