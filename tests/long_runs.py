"""What the commands of the long runs share: numbers as options, and the results that docs/reliability.md is made of."""

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def at_least(least: int) -> Callable[[str], int]:
    """For argparse: a whole number from `least` on."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return number


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
