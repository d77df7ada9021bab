"""Cutbank extracts anomalous events from live streams.

The library's rooms: the vocabulary (`records`, `errors`, `clock`, `settings`, `retry`, `metrics`), then
`transports`, `detectors` and `objects`, which never import one another, `pipeline`, which brings them together,
and `runtime`, `testing` and `cli`. ARCHITECTURE.md says how a record travels through them.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("cutbank")
except PackageNotFoundError:  # a source tree on the path, never installed
    __version__ = "0.0.0"

__all__ = ["__version__"]
