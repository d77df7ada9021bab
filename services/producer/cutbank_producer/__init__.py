"""The producer service: the tutorial's stock_trades_producer, and replay of real input."""
