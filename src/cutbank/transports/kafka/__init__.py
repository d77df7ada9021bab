"""Kafka and Redpanda as a transport, on aiokafka's connections and record format.

Rooms inside: `settings`, `codes` (error codes by reaction), `wire` (requests that aiokafka lacks), `cluster`
(connections, metadata, coordinators), `batches` (records on the wire), `reading`, `admin` and `routing` (the log),
`transaction` (fenced, exactly once), `assignment` and `membership` (groups), then `lease`, `consumer`, `publishing` and
`transport`, which implement the protocol.
"""

from cutbank.transports.kafka.permissions import Needs
from cutbank.transports.kafka.settings import KafkaSettings
from cutbank.transports.kafka.transport import KafkaTransport, open_kafka

__all__ = ["KafkaSettings", "KafkaTransport", "Needs", "open_kafka"]
