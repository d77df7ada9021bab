"""Writes the pages of docs/ that follow from the code: `make docs`. tests/unit/test_docs.py fails when one is stale."""

import importlib.util
import sys
from pathlib import Path

from cutbank.cli.services import load_services
from cutbank.cli.settings import markdown, shared_rows
from cutbank.runtime.metrics import metrics_markdown

FOLDER = Path(__file__).parent


def made_by(module_name: str, *parts: str) -> str:
    """The page that a module beside this file makes, of parts that others have made."""
    path = FOLDER / f"{module_name}.py"
    spec = importlib.util.spec_from_file_location(f"docs_{module_name}", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return str(module.page(*parts))


def pages() -> dict[str, str]:
    """File name and text of every generated page."""
    return {
        "settings.md": (
            "# Settings\n\nEvery setting of every service: an environment variable and an option. The option wins. "
            "Written by `make docs` from the\nsettings' own declarations; `cutbank settings` prints the same.\n\n"
            + markdown(shared_rows(load_services()))
            + "\n"
        ),
        "metrics.md": (
            "# Metrics\n\nWhat `/metrics` of each service shows, for Prometheus. Written by `make docs` from "
            "`runtime/metrics.py`.\n\n" + metrics_markdown()
        ),
        "limits.md": made_by("limits"),
        "reliability.md": made_by("reliability", made_by("reliability_kafka"), made_by("reliability_s3")),
        "kafka-figures.md": made_by("kafka_figures"),
        "sink-figures.md": made_by("sink_figures"),
    }


def main() -> int:
    """Write them."""
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
