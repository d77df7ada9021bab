"""The stream of trades depends on its settings alone, not on how it is cut."""

from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank_producer.trades import AnomalyRule, TradeGenerator


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    first_id=st.integers(-(2**31), 2**31 - 1000),
    share=st.floats(0, 1),
    cuts=st.lists(st.integers(1, 60), min_size=1, max_size=8),
)
def test_how_trades_are_cut_into_batches_changes_nothing(
    seed: int, first_id: int, share: float, cuts: list[int]
) -> None:
    rule = AnomalyRule(share=share)
    pieces = TradeGenerator(seed=seed, first_id=first_id, anomalies=rule)
    whole = TradeGenerator(seed=seed, first_id=first_id, anomalies=rule)
    cut = [trade for records in cuts for trade in pieces.batch(records)]
    assert cut == whole.batch(sum(cuts))
    assert [trade.id for trade in cut] == list(range(first_id, first_id + len(cut)))
