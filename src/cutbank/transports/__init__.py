"""Logs with named, partitioned streams, behind one protocol: `open_transport(url, clock=…, metrics=…)`."""

from cutbank.transports.registry import TRANSPORTS, open_transport

__all__ = ["TRANSPORTS", "open_transport"]
