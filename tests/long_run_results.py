"""The result file of a long run: its figures, when and on what it ran. docs/reliability.md is made of these files."""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def save(path: Path, figures: Mapping[str, Any]) -> None:
    """Write them as JSON, and below `ran` the date (UTC), the Python and the number of cores; makes the folder."""
    ran = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**figures, "ran": ran}, indent=2) + "\n", encoding="utf-8")
