"""Made-up trades: the tutorial's records, reproducible, within their bounds."""

import json

import pytest

from cutbank.errors import UsageError
from cutbank_producer.trades import (
    FIRST_ID,
    PRICE_MAX,
    PRICE_MIN,
    QUANTITY_MAX,
    QUANTITY_MIN,
    TICKERS,
    AnomalyRule,
    Trade,
    TradeGenerator,
)


def made(records: int, *, seed: int = 7, first_id: int = FIRST_ID, **rule: float) -> list[Trade]:
    return TradeGenerator(seed=seed, first_id=first_id, anomalies=AnomalyRule(**rule)).batch(records)


FROZEN = [
    b'{"tickerSymbol": "THALWEG", "tradeType": "SELL", "price": 103.74966123739988, "quantity": 91, "id": 1000000000}',
    b'{"tickerSymbol": "ESTUARY", "tradeType": "BUY", "price": 106.56563684111892, "quantity": 98, "id": 1000000001}',
]


def test_the_first_trades_are_frozen() -> None:
    # Any change here changes what `SEED` means to everybody who noted one down.
    assert [trade.value for trade in made(2)] == FROZEN


def test_a_record_has_the_tutorials_keys_in_order_types_and_widths() -> None:
    for trade in made(2000):
        document = json.loads(trade.value)
        assert list(document) == ["tickerSymbol", "tradeType", "price", "quantity", "id"]
        assert document["tickerSymbol"] in TICKERS
        assert len(document["tickerSymbol"]) <= 8
        assert document["tradeType"] in {"BUY", "SELL"}
        assert type(document["price"]) is float
        assert type(document["quantity"]) is int
        assert document["id"] == trade.id
        assert trade.ticker == document["tickerSymbol"].encode()


def test_a_record_with_its_key_takes_about_the_tutorials_128_bytes() -> None:
    sizes = [len(trade.value) + len(trade.ticker) for trade in made(5000)]
    assert 115 < sum(sizes) / len(sizes) < 128
    assert max(sizes) <= 128


def test_the_price_is_written_in_its_shortest_round_trip() -> None:
    for trade in made(200):
        text = trade.value.split(b'"price": ')[1].split(b",")[0].decode()
        assert text == repr(float(text))


def test_normal_and_anomalous_trades_lie_where_they_should() -> None:
    trades = made(20_000)
    for trade in trades:
        document = json.loads(trade.value)
        price, quantity = document["price"], document["quantity"]
        if trade.anomalous:
            assert 2 * PRICE_MIN <= price <= 3 * PRICE_MAX
            assert 2 * QUANTITY_MIN <= quantity <= 3 * QUANTITY_MAX
        else:
            assert PRICE_MIN <= price <= PRICE_MAX
            assert QUANTITY_MIN <= quantity <= QUANTITY_MAX
    # 20,000 coins at 5 %: a standard deviation is 31.
    assert 850 < sum(trade.anomalous for trade in trades) < 1150
    assert {json.loads(trade.value)["quantity"] for trade in trades} >= {QUANTITY_MIN, QUANTITY_MAX}
    assert {trade.ticker.decode() for trade in trades} == set(TICKERS)


def test_price_and_quantity_have_factors_of_their_own() -> None:
    anomalies = [json.loads(trade.value) for trade in made(500, share=1.0)]
    factors = [(item["price"] / 100.0, item["quantity"] / 100.0) for item in anomalies]
    assert any(price < 2.3 and quantity > 2.7 for price, quantity in factors)
    assert any(price > 2.7 and quantity < 2.3 for price, quantity in factors)


@pytest.mark.parametrize(("share", "anomalies"), [(0.0, 0), (1.0, 1000)])
def test_the_share_reaches_both_ends(share: float, anomalies: int) -> None:
    assert sum(trade.anomalous for trade in made(1000, share=share)) == anomalies


def test_quantities_at_the_largest_multiplier_stay_within_32_bits() -> None:
    worst = [json.loads(t.value)["quantity"] for t in made(1000, share=1.0, multiplier_min=1000, multiplier_max=1000)]
    assert max(worst) == 1000 * QUANTITY_MAX < 2**31


def test_another_seed_and_another_first_id_give_other_trades() -> None:
    def prices(trades: list[Trade]) -> list[float]:
        return [json.loads(trade.value)["price"] for trade in trades]

    base = prices(made(50))
    assert prices(made(50)) == base
    assert not set(prices(made(50, seed=8))) & set(base)
    # A restarted producer goes on with a later id: the same trades again would teach the model nothing.
    assert not set(prices(made(50, first_id=FIRST_ID + 50))) & set(base)


def test_ids_end_with_32_bits_before_any_trade_of_the_batch() -> None:
    generator = TradeGenerator(seed=7, first_id=2**31 - 3, anomalies=AnomalyRule())
    assert [trade.id for trade in generator.batch(2)] == [2**31 - 3, 2**31 - 2]
    with pytest.raises(UsageError, match="set FIRST_ID"):
        generator.batch(2)
    assert [trade.id for trade in generator.batch(1)] == [2**31 - 1]
