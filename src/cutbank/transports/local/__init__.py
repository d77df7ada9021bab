"""The embedded log `local://`: one SQLite file, many processes; streams, groups and exactly-once commits.

Rooms inside: `rows` (the format of a batch), `schema`, `database` (connections and the lock), `workers` and `watch`
(threads), `engine` (what all share), `records` and `streams` (the log), `groups` and `shares` (membership), then
`lease`, `consumer` and `transport`, which implement the protocol.
"""

from cutbank.transports.local.settings import LocalSettings
from cutbank.transports.local.transport import LocalTransport, open_local

__all__ = ["LocalSettings", "LocalTransport", "open_local"]
