"""The machine and the versions that a recorded figure belongs to."""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from anydepth_deploy.reading.processor import processor_name

RESULTS = Path(__file__).parent / "results"


def machine(*packages: str) -> dict[str, Any]:
    """Processor, cores, memory, system, Python and package versions."""
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages * page / 2**30, 1),
        "load_before": [round(value, 2) for value in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write(name: str, content: dict[str, Any]) -> Path:
    """Write one result file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path
