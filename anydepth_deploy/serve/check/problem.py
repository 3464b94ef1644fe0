"""What the checks of a repository look at, and what they find."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydepth_deploy.serve import names
from anydepth_deploy.serve.protocol import datatype
from anydepth_deploy.serve.signature import Tensor

__all__ = ["BACKENDS", "CONFIG", "Loaded", "Problem", "dims_text"]

CONFIG = "config.pbtxt"

BACKENDS = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
    "ensemble": "ensemble",
}
"""The backend that a platform stands for; an ensemble has none, and is named like one here."""


@dataclass(frozen=True)
class Problem:
    """``file``: of the repository, which the problem is in. The message says what was found, what
    was expected, and what to do."""

    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


@dataclass(frozen=True)
class Loaded:
    """A configuration that was read. ``variant``: of ``configs/VARIANT.pbtxt``, else nothing."""

    folder: Path
    file: str
    variant: str
    config: Any

    @property
    def backend(self) -> str:
        """``ensemble`` for an ensemble; nothing where neither backend nor platform is given."""
        return str(self.config.backend or BACKENDS.get(self.config.platform, ""))

    @property
    def max_batch(self) -> int:
        return int(self.config.max_batch_size)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """By name, as configured: without the batch where Triton makes batches."""
        return {item.name: _tensor(item) for item in self.config.input}

    @property
    def outputs(self) -> dict[str, Tensor]:
        return {item.name: _tensor(item) for item in self.config.output}

    @property
    def optional(self) -> set[str]:
        """The inputs that a request may leave out."""
        return {item.name for item in self.config.input if item.optional}

    def completed(self, items: Sized) -> bool:
        """Whether Triton lists inputs or outputs by itself, where the configuration has none.

        Ours always list them, but for the outputs of engines."""
        asks = self.backend == "tensorrt" or (self.backend == "onnxruntime" and self.owner is None)
        return asks and not len(items)

    def parameter(self, key: str) -> str | None:
        """The text of a parameter; None where it is not there."""
        if key not in self.config.parameters:
            return None
        return str(self.config.parameters[key].string_value)

    @property
    def owner(self) -> str | None:
        """The name of the ensemble that this model belongs to; None where we did not make it."""
        return None if self.parameter(names.MADE_BY) is None else self.parameter(names.NAME)

    @property
    def is_router(self) -> bool:
        return self.owner is not None and any(key in self.config.parameters for key in names.ROUTER)

    def versions(self) -> list[Path]:
        """The folders of versions, oldest first."""
        found = [item for item in self.folder.iterdir() if item.is_dir() and item.name.isdigit()]
        return sorted(
            (item for item in found if int(item.name) > 0), key=lambda item: int(item.name)
        )

    def problem(self, message: str) -> Problem:
        return Problem(self.file, message)


def _tensor(item: Any) -> Tensor:
    return Tensor(item.name, datatype(item.data_type), tuple(item.dims))


def dims_text(dims: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, dims))}]"
