"""Gradient-guided Adaptive Modulation: the weight of a loss by what its gradients are a share of.

Source: RT-DETRv4. Once an epoch, the share p of the gradients that AIFI gets is held against a
band, rho - delta to rho + delta, and outside of it the weight changes so that p would come to the
band's other end if only the weighted loss reached AIFI: odds of p go with the weight.

The authors find AIFI's parameters by a prefix that only distributed training puts before names, so
that in one process the share is always 0; here it is found whatever stands before the names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from anydepth_deploy.errors import CheckpointError, UsageError
from anydepth_deploy.families.shared.recipe import itself

__all__ = ["PUBLISHED", "Modulation", "SemanticSettings", "gradient_share", "next_weight"]

AIFI = re.compile(r"(?:^|\.)encoder\.encoder\.")
"""In names of AIFI's parameters, with what wrappers put before them or without."""

NOTHING = 1e-6
"""Percent below which AIFI gets no gradient to speak of."""

LEAST_RATIO = 0.1
MOST_CHANGE = 10.0
"""Of a weight at once, either way."""


@dataclass(frozen=True)
class SemanticSettings:
    """How much a teacher counts.

    ``weight``: of the loss at first. ``default``: what the weight goes back to in the last stage of
    a run, and where AIFI gets no gradient. ``rho``, ``delta``: middle and half width of the band of
    AIFI's share of all gradients, in percent.

    Raises :class:`UsageError` for weights that are not above 0, or a band that is not within 0 and
    100.
    """

    weight: float
    default: float
    rho: float
    delta: float

    def __post_init__(self) -> None:
        for name in ("weight", "default"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"teacher: {name} {value:g}, expected a number above 0")
        if not (self.delta >= 0 and self.rho - self.delta > 0 and self.rho + self.delta < 100):
            raise UsageError(
                f"teacher: rho {self.rho:g}, delta {self.delta:g}, expected a band from rho - "
                "delta to rho + delta within 0 and 100 percent"
            )

    @classmethod
    def nearest(cls, parameters: int) -> SemanticSettings:
        """The published ones of the network whose number of ``parameters`` is nearest, by ratio."""
        name = min(PUBLISHED, key=lambda name: abs(math.log(parameters / PARAMETERS[name])))
        return PUBLISHED[name]


PUBLISHED: Mapping[str, SemanticSettings] = MappingProxyType(
    {
        "s": SemanticSettings(weight=5, default=20, rho=11, delta=1),
        "m": SemanticSettings(weight=5, default=15, rho=3.5, delta=0.25),
        "l": SemanticSettings(weight=15, default=15, rho=2, delta=0.1),
        "x": SemanticSettings(weight=20, default=20, rho=2, delta=0.25),
    }
)
"""RT-DETRv4's by size."""

PARAMETERS: Mapping[str, int] = MappingProxyType(
    {"s": 10_519_253, "m": 19_787_440, "l": 31_487_224, "x": 63_011_160}
)
"""Of RT-DETRv4's networks, as they are trained."""


def gradient_share(parameters: Iterable[tuple[str, nn.Parameter]]) -> Tensor | None:
    """AIFI's share of all gradients in percent, a float32 scalar: 100 times the sum of the absolute
    gradients of ``encoder.encoder.*`` by that of all; None where there is no gradient.

    ``parameters``: by name, with whatever wrappers put before the names. Those without a gradient
    count as 0. Not finite where a gradient is not, or all are 0.
    """
    inside: list[Tensor] = []
    outside: list[Tensor] = []
    for name, parameter in parameters:
        if parameter.grad is not None:
            (inside if AIFI.search(name) else outside).append(parameter.grad)
    if not inside and not outside:
        return None
    part, rest = (nn.utils.get_total_norm(grads, norm_type=1.0) for grads in (inside, outside))
    # A list without gradients has a norm on the CPU.
    device = (inside or outside)[0].device
    part, rest = part.to(device).float(), rest.to(device).float()
    return 100.0 * part / (part + rest)


def next_weight(weight: float, share: float, settings: SemanticSettings) -> float:
    """The weight of the next epoch, from that of this one and AIFI's mean ``share`` in percent.

    Within the band it stays. Below, the aim is the band's upper end, above it the lower one:
    w * q (1 - p) / (p (1 - q)) with p the share and q the aim as fractions, the factor within 0.1
    and 10. Where AIFI gets nothing, it is the default.
    """
    if share < NOTHING:
        return settings.default
    lower, upper = settings.rho - settings.delta, settings.rho + settings.delta
    if lower <= share <= upper:
        return weight
    aim = (upper if share < lower else lower) / 100.0
    found = share / 100.0
    ratio = max(aim * (1.0 - found) / (found * (1.0 - aim)), LEAST_RATIO)
    return min(max(weight * ratio, weight / MOST_CHANGE), weight * MOST_CHANGE)


class Modulation:
    """A weight that follows AIFI's share of the gradients, epoch by epoch.

    ``average``: a scalar of this process to its mean over all that train together; all end an epoch
    with the same weight. It is called twice an epoch, in all of them.

    Attributes:
        weight: of the loss now.
        share: mean share of the epoch that ended last, in percent; None before the first.
    """

    def __init__(
        self, settings: SemanticSettings, average: Callable[[Tensor], Tensor] = itself
    ) -> None:
        self.settings = settings
        self.weight = settings.weight
        self.share: float | None = None
        self._average = average
        self._sum = torch.zeros(())
        self._steps = torch.zeros(())

    @torch.no_grad()
    def measure(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Take in the gradients of a step, those of all its passes, before or after clipping; those
        of a scaled loss as well, as a common factor is no matter.

        A step whose gradients are not finite, which changes no weights under mixed precision
        either, does not count. Waits for no device.
        """
        share = gradient_share(parameters)
        if share is None:
            return
        counts = share.isfinite()
        self._sum = self._sum.to(share.device) + torch.where(counts, share, 0.0)
        self._steps = self._steps.to(share.device) + counts

    def end_of_epoch(self, device: torch.device, *, last_stage: bool = False) -> float:
        """The weight of the next epoch. ``device``: where processes can average.

        ``last_stage``: whether the run's last stage has begun, where the weight is the default.
        """
        steps = float(self._average(self._steps.to(device)))
        total = float(self._average(self._sum.to(device)))
        self.share = total / steps if steps > 0 else 0.0
        self.weight = (
            self.settings.default
            if last_stage
            else next_weight(self.weight, self.share, self.settings)
        )
        self._sum, self._steps = torch.zeros(()), torch.zeros(())
        return self.weight

    def state_dict(self) -> dict[str, float | None]:
        """Plain numbers: what a run needs to go on, within an epoch as well."""
        return {
            "weight": self.weight,
            "share": self.share,
            "sum": float(self._sum),
            "steps": float(self._steps),
        }

    def load_state_dict(self, state: Mapping[str, Any], origin: str) -> None:
        """Go on from :meth:`state_dict`. ``origin``: the file, for messages.

        Raises :class:`CheckpointError` for anything but such numbers.
        """
        numbers = {name: state.get(name) for name in ("weight", "sum", "steps")}
        share = state.get("share")
        odd = [name for name, value in numbers.items() if not _is_number(value)]
        if not odd and not state["weight"] > 0:
            odd = ["weight"]
        if share is not None and not _is_number(share):
            odd.append("share")
        if odd:
            raise CheckpointError(
                f"{origin}: {odd[0]} of the teacher's weight is {state.get(odd[0])!r}, expected a "
                "number as training writes it; delete the file to start anew"
            )
        self.weight, self.share = float(state["weight"]), None if share is None else float(share)
        self._sum, self._steps = (
            torch.tensor(float(state["sum"])),
            torch.tensor(float(state["steps"])),
        )


def _is_number(value: object) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and math.isfinite(value) and value >= 0  # type: ignore[arg-type,operator]
