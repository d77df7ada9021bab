"""Without the extra, a kafka:// URL says what to install."""

import sys

import pytest

from cutbank.clock import SystemClock
from cutbank.errors import MissingExtra
from cutbank.metrics import NoMetrics
from cutbank.transports.registry import open_transport


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("aiokafka", "cutbank.transports.kafka"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiokafka", None)
    with pytest.raises(MissingExtra, match=r"pip install 'cutbank\[kafka\]'"):
        open_transport("kafka://localhost", clock=SystemClock(), metrics=NoMetrics())
