"""The checkpoint itself as a session: what every artifact is compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.depth import Depth
from anydepth_deploy.detections import Detections
from anydepth_deploy.families.family import Outputs
from anydepth_deploy.families.registry import find_family
from anydepth_deploy.families.shared.settling import Said
from anydepth_deploy.families.shared.stages import AnyDepthModel, Comparison
from anydepth_deploy.families.shared.usual_state import usual_state

__all__ = ["TorchSession"]


class TorchSession:
    """Runs a torch model with the calls of :class:`anydepth_deploy.bundle.session.Session`."""

    def __init__(self, model: AnyDepthModel) -> None:
        self.model = model.eval()
        self.table = model.table

    @property
    def outputs(self) -> Outputs:
        """What the raw outputs mean: asked of the family when something is compared."""
        return find_family(self.model.family).outputs

    @classmethod
    def open(cls, checkpoint: str | Path, said: Said | None = None) -> TorchSession:
        """Read a checkpoint file, of which ``said`` says what no key reveals. Raises
        :class:`CheckpointError`."""
        return cls(load_model(read_checkpoint(checkpoint, said)))

    @usual_state()
    def run(self, images: NDArray[np.float32], depth: Depth | str | int = "super") -> Detections:
        """Detections of float32 [N, 3, H, W] at ``depth``."""
        with torch.inference_mode():
            found = self.model.detect(_tensor(images), depth)
        return _detections(found)

    @usual_state()
    def run_raw(
        self, images: NDArray[np.float32], depth: Depth | str | int = "super"
    ) -> dict[str, NDArray[np.generic]]:
        """The heads' raw outputs by name."""
        with torch.inference_mode():
            found = self.model(_tensor(images), depth)
        return {name: tensor.numpy() for name, tensor in found.items()}

    @usual_state()
    def compare(
        self,
        images: NDArray[np.float32],
        depth: Depth,
        raw: dict[str, NDArray[np.generic]],
    ) -> tuple[dict[str, NDArray[np.generic]], Detections, float]:
        """What the model gives where an artifact gave ``raw``: the quantities of its raw outputs
        in the artifact's order, its detections, and how far from the best the artifact's choices
        were.

        See :meth:`AnyDepthModel.compare`.
        """
        with torch.inference_mode():
            found: Comparison = self.model.compare(
                _tensor(images),
                depth,
                {name: torch.from_numpy(np.array(array)) for name, array in raw.items()},
            )
        arrays = {name: tensor.numpy() for name, tensor in found.raw.items()}
        return self.outputs.quantities(arrays), _detections(found.detections), found.gap


def _tensor(images: NDArray[np.float32]) -> torch.Tensor:
    """The same memory where it may be written; torch warns of what may not."""
    return torch.from_numpy(images if images.flags.writeable else images.copy())


def _detections(found: dict[str, torch.Tensor]) -> Detections:
    return Detections(found["labels"].numpy(), found["boxes"].numpy(), found["scores"].numpy())
