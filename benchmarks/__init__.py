"""Benchmarks of every stage; `python -m benchmarks` runs them."""
