"""Makes up stock trades: the tutorial's records, some of them anomalous. Owns the random numbers and the ids.

Invariant: the trades are a pure function of seed, first id, share and multipliers: how they are cut into batches
changes nothing. Only `random()` is drawn from, which Python keeps the same in every version.
Not thread-safe; no I/O.
"""

import random
from dataclasses import dataclass
from typing import NamedTuple

from cutbank.errors import UsageError
from cutbank_producer.settings import INT32_MAX

FIRST_ID = 1_000_000_000
"""Id of the first trade of a new stream: ten digits, as long as an id of 32 bits gets."""

PRICE_MIN, PRICE_MAX = 90.0, 110.0
QUANTITY_MIN, QUANTITY_MAX = 80, 120
"""Normal trades, each uniform between its bounds and independent of the other and of the ticker.

Uniform, since a forest sees the tails of anything else as anomalies. Measured with RANDOM_CUT_FOREST's defaults over
several seeds of data and forest, 1,000 to 90,000 records, the first 256 left out: at a score over 1, recall 1.00,
precision .70 to .88; with normal distributions of the same width, precision .42 to .57.
"""

TICKERS = (
    "ALLUVIUM", "BACKWATR", "CASCADE", "CATARACT", "DELTA", "ESTUARY", "FLOODPLN", "HEADWATR", "LEVEE", "MEANDER",
    "OXBOW", "POINTBAR", "RAPIDS", "RIFFLE", "RIVERBED", "SANDBAR", "SPILLWAY", "THALWEG", "TRIBUTRY", "WATRSHED",
)  # fmt: skip
"""Nobody's real symbols, up to 8 characters."""

TRADE_TYPES = ("BUY", "SELL")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnomalyRule:
    """How many trades are anomalous, and how much."""

    share: float = 0.05
    """0 to 1."""
    multiplier_min: float = 2.0
    multiplier_max: float = 3.0
    """Bounds of the two factors, one for the price and one for the quantity, each uniform between them."""


class Trade(NamedTuple):
    """One record."""

    id: int
    ticker: bytes
    value: bytes
    """The JSON object, keys in the tutorial's order, the price in its shortest round trip."""
    anomalous: bool


class TradeGenerator:
    """An endless sequence of trades."""

    def __init__(self, *, seed: int, first_id: int, anomalies: AnomalyRule) -> None:
        # The first id is part of the seed: a restarted producer goes on with other trades, not with the same again.
        self._random = random.Random(f"trades/{seed}/{first_id}").random
        self._next_id = first_id
        self._anomalies = anomalies
        self._openings = tuple(
            (ticker.encode(), f'{{"tickerSymbol": "{ticker}", "tradeType": "{trade_type}", "price": ')
            for ticker in TICKERS
            for trade_type in TRADE_TYPES
        )

    @property
    def next_id(self) -> int:
        """Id of the next trade."""
        return self._next_id

    def batch(self, records: int) -> list[Trade]:
        """The next trades, in order. Raises UsageError, before any, when 32 bits hold no more ids."""
        first = self._next_id
        if first + records - 1 > INT32_MAX:
            raise UsageError(f"ids are used up: {first} and {records} more pass 32 bits; set FIRST_ID to a lower one")
        draw, openings, rule = self._random, self._openings, self._anomalies
        choices = len(openings)
        price_span, quantity_span = PRICE_MAX - PRICE_MIN, QUANTITY_MAX - QUANTITY_MIN + 1
        share, least, spread = rule.share, rule.multiplier_min, rule.multiplier_max - rule.multiplier_min
        trades = []
        for trade_id in range(first, first + records):
            ticker, opening = openings[int(draw() * choices)]
            price = PRICE_MIN + price_span * draw()
            quantity = QUANTITY_MIN + int(quantity_span * draw())
            anomalous = draw() < share
            if anomalous:
                price *= least + spread * draw()
                quantity = round(quantity * (least + spread * draw()))
            value = f'{opening}{price!r}, "quantity": {quantity}, "id": {trade_id}}}'.encode()
            trades.append(Trade(trade_id, ticker, value, anomalous))
        self._next_id = first + records
        return trades
