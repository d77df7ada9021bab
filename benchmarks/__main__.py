"""`make bench`: records/s of each stage alone and of the whole embedded pipeline, and peak memory.

Each stage's module has `measure() -> dict`; here they run one after another, print as they end, and their results
are one JSON object on the last line. Figures of one run compare with each other; those of two machines do not.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

STAGES = {
    "producing": "generate, encode and publish trades",
    "local_log": "the embedded log: publish and read, two processes at once and each alone",
    "detectors": "each detector alone, one thread",
    "scoring": "decode, score and make lines, without transport",
    "sinking": "read anomalies, claim, sort and put objects on the file system",
    "pipeline": "producer, scorer and sink as three processes; peak memory of each",
}


def measured(stage: str) -> dict[str, Any]:
    """One stage in a process of its own, so that none inherits another's memory, threads or warm caches."""
    call = f"import json, {stage}; print(json.dumps({stage}.measure()))"
    output = subprocess.run(
        [sys.executable, "-c", call],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    ).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def main() -> int:
    """Run the chosen stages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; all by default")
    stages = parser.parse_args().stages or list(STAGES)
    if unknown := [stage for stage in stages if stage not in STAGES]:
        parser.error(f"unknown stage {unknown[0]!r}; stages are {', '.join(STAGES)}")
    results: dict[str, Any] = {
        "machine": {
            "python": platform.python_version(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "load_1min": round(os.getloadavg()[0], 2),
        }
    }
    for stage in stages:
        print(f"{stage}: {STAGES[stage]}", flush=True)
        results[stage] = measured(stage)
        for name, value in results[stage].items():
            print(f"  {name:<44} {value:>14,}" if isinstance(value, (int, float)) else f"  {name:<44} {value}")
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
