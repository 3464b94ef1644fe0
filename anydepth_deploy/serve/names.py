"""What a repository's models, tensors and parameters are called: both halves rely on it."""

from __future__ import annotations

import re

from anydepth_deploy.errors import UsageError

__all__ = [
    "ARRIVED",
    "BUDGET_MS",
    "CLASSES",
    "DEFAULT_DEPTH",
    "GATED",
    "IN_FLIGHT",
    "LADDER",
    "LEVELS",
    "LIMITS",
    "MADE_BY",
    "MANIFEST",
    "MAX_BATCH",
    "MAX_IMAGES",
    "MAX_PIXELS",
    "MAX_QUEUE",
    "MEASURED",
    "NAME",
    "RAW_OUTPUT",
    "ROUTER",
    "Names",
    "check_name",
    "safe_name",
]

MANIFEST = "manifest.json"
"""Beside every ``model.py``: a copy of the bundle's."""

# Keys of a configuration's parameters; all values are text.
NAME = "name"
"""What the models of one bundle have in common: the name of its ensemble."""
MADE_BY = "made_by"
GATED = "gated"
"""The model that runs any depth, or nothing."""
LEVELS = "levels"
"""JSON: the model of each row of the depth table that has one of its own."""
MAX_BATCH = "max_batch"
"""Images that one of those takes at most."""
DEFAULT_DEPTH = "default_depth"
RAW_OUTPUT = "raw_output"
"""The output that the host suppresses; nothing where models give detections."""
MAX_IMAGES = "max_images"
"""Images that one request may bring, to whichever model; of a router and of preprocessing."""
MAX_PIXELS = "max_pixels"
"""Pixels that all pictures of one request may have; of preprocessing."""
IN_FLIGHT = "in_flight"
"""Images that a router has under way at once."""
MAX_QUEUE = "max_queue"
"""Images that wait in a router beside those."""
LIMITS = (MAX_IMAGES, MAX_PIXELS, IN_FLIGHT, MAX_QUEUE)
"""Numbers that repositories written before do not have: the defaults hold then."""
ROUTER = (GATED, LEVELS, MAX_BATCH, DEFAULT_DEPTH, RAW_OUTPUT)
"""What a router has."""

BUDGET_MS = "budget_ms"
"""What a request at depth ``auto`` may take, where it does not say; nothing where it has to. Also
the name of the request's own parameter."""
MEASURED = "measured"
"""JSON: what a ladder has to be measured of, so that the router's costs begin with it: ``runtime``,
``precision``, ``threads`` and the names of ``artifacts``. A router has these two; repositories
written before do not, and neither do their routers know what depths take until they are run."""

ARRIVED = "arrived"
"""The tensor that tells the router when preprocessing took a request: nanoseconds of the system's
monotonic clock."""

CLASSES = "classes"
LADDER = "ladder"


class Names:
    """The models that serve one bundle."""

    def __init__(self, name: str) -> None:
        self.ensemble = name
        self.gated = f"{name}_gated"
        self.router = f"{name}_router"
        self.preprocess = f"{name}_preprocess"
        self.postprocess = f"{name}_postprocess"

    def static(self, row: int, level: int | None) -> str:
        """The model of one depth: by its level, or by its row where the ladder has no such rung."""
        name = self.ensemble
        return f"{name}_row_{row}" if level is None else f"{name}_level_{level}"


def safe_name(text: str) -> str:
    """``text`` with what a model's name may not hold replaced."""
    return re.sub("[^A-Za-z0-9_-]+", "_", text).strip("_-") or "model"


def check_name(name: str) -> str:
    """``name``, if a model may be called so. Raises :class:`UsageError`."""
    if not re.fullmatch("[A-Za-z0-9_][A-Za-z0-9_-]{0,99}", name):
        raise UsageError(
            f"the name '{name}' cannot be a model's: expected letters, digits, _ and -, at most 100"
        )
    return name
