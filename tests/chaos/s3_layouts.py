"""How a run's sinks are told to lay objects out: drawn anew for each of them, as an operator changes settings in a
restart. Values only.
"""

import random
from collections.abc import Mapping
from typing import get_args

from cutbank_sink.settings import SinkSettings

PREFIXES = (
    "yyyy/MM/dd/HH/",
    "anomalies/!{timestamp:yyyy-MM-dd}/hour=!{timestamp:HH}/",
    "!{timestamp:yyyy/MM/dd/HH/mm}/type=!{partitionKeyFromQuery:tradeType}/",
    "symbol=!{partitionKeyFromQuery:tickerSymbol}/!{timestamp:yyyy/MM/dd}/",
)
ZONES = ("UTC", "Asia/Kolkata", "America/New_York", "Pacific/Chatham")
FORMATS, COMPRESSIONS = (get_args(SinkSettings.model_fields[name].annotation) for name in ("format", "compression"))
"""All that a sink takes."""

VALUES_OPEN = 50
"""Values with an object of their own where a claim is to have many."""

MANY_VALUES: Mapping[str, str] = {
    "CUTBANK_PREFIX": "!{timestamp:yyyy/MM/dd/HH}/at=!{partitionKeyFromQuery:SOURCE.position}/",
    "CUTBANK_PARTITION_VALUES_MAX": str(VALUES_OPEN),
}
"""Each anomaly has a value of its own, so a claim of more than `VALUES_OPEN` has as many objects and a rest."""


def drawn(rng: random.Random, *, unlike: Mapping[str, str]) -> dict[str, str]:
    """Settings of a sink whose prefix, zone, format and compression all differ from those of another."""

    def other(name: str, values: tuple[str, ...]) -> str:
        return rng.choice([value for value in values if value != unlike.get(name)])

    return {
        "CUTBANK_PREFIX": other("CUTBANK_PREFIX", PREFIXES),
        "CUTBANK_TIMEZONE": other("CUTBANK_TIMEZONE", ZONES),
        "CUTBANK_FORMAT": other("CUTBANK_FORMAT", FORMATS),
        "CUTBANK_COMPRESSION": other("CUTBANK_COMPRESSION", COMPRESSIONS),
        "CUTBANK_PARTITION_VALUES_MAX": str(rng.choice((1, 2, 500))),
    }
