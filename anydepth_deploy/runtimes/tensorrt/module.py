"""The Python modules of TensorRT and TensorRT-RTX: what they are called, and importing them.

What builds engines and what runs them look at the same module in different ways
(:mod:`anydepth_deploy.building.backend`, :mod:`anydepth_deploy.runtimes.tensorrt.library`); why it
cannot be had is found out here, for both.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

from anydepth_deploy.errors import AnyDepthError, MissingExtraError

__all__ = ["MODULES", "TensorRtModule"]


@dataclass(frozen=True)
class TensorRtModule:
    """``runtime``: as in :data:`anydepth_deploy.runtimes.registry.RUNTIMES`. ``name``: what is
    imported. ``title``: for messages. ``extra``: of this package, that installs it or what goes
    with it."""

    runtime: str
    name: str
    title: str
    extra: str

    def load(self, purpose: str, broken: type[AnyDepthError]) -> ModuleType:
        """Import it; needs no GPU.

        Raises :class:`MissingExtraError` (with ``purpose``) where it is not installed, and
        ``broken`` where it is and cannot be loaded.
        """
        try:
            return importlib.import_module(self.name)
        except ModuleNotFoundError as error:
            if error.name != self.name:
                raise broken(
                    f"{self.title} is installed, but without its part {error.name}"
                ) from None
            raise MissingExtraError(self.name, self.extra, purpose) from None
        except (ImportError, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise broken(f"{self.title} is installed but cannot be loaded: {reason}") from None


MODULES = {
    module.runtime: module
    for module in (
        TensorRtModule("tensorrt", "tensorrt", "TensorRT", "tensorrt"),
        TensorRtModule("tensorrt-rtx", "tensorrt_rtx", "TensorRT-RTX", "rtx"),
    )
}
"""By the name of the runtime."""
