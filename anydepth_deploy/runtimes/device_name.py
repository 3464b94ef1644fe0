"""What a measurement of a runtime holds for: the processor or the GPU that computes, by name."""

from __future__ import annotations

from anydepth_deploy.errors import AnyDepthError
from anydepth_deploy.reading.processor import field_of, processor_name
from anydepth_deploy.reading.system_files import Tree, UnreadableError
from anydepth_deploy.runtimes.registry import on_device

__all__ = ["device_name"]

DRIVER = "/proc/driver/nvidia/gpus/*/information"


def device_name(runtime: str, tree: Tree | None = None) -> str:
    """The GPU that ``runtime`` computes on, as CUDA names it, or the processor.

    Without CUDA's bindings the first GPU that the driver lists is meant; ``unknown GPU`` where it
    lists none. GPUs are **unverified** on hardware. Raises :class:`UsageError` for an unknown
    runtime.
    """
    files = tree or Tree()
    if not on_device(runtime):
        return processor_name(files)
    from anydepth_deploy.runtimes.tensorrt.cuda import load_cuda

    try:
        return load_cuda().device().name
    except AnyDepthError:
        return _listed(files) or "unknown GPU"


def _listed(tree: Tree) -> str | None:
    for path in tree.find(DRIVER):
        try:
            if name := field_of(tree, path, "Model"):
                return name
        except UnreadableError:
            continue
    return None
