"""What Cutbank's own tests use, shipped so that users can test their transports, stores and pipelines too."""

from cutbank.testing.clock import ManualClock

__all__ = ["ManualClock"]
