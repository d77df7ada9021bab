"""Replay: a stretch of the retained source scored again into another stream, beside a live pipeline.

`prepare` looks at everything and changes nothing, `replay` does it. The modules, from the inside out: output (what lies
in the output stream), origins (where a model begins, and whether the live one did there), plan, running.
"""

from cutbank.pipeline.replaying.origins import NO_LIVE_RUN, Live, Origin
from cutbank.pipeline.replaying.plan import WARM_UP_RECORDS_MAX, Part, Plan, Request, prepare
from cutbank.pipeline.replaying.running import Account, PartAccount, replay, replay_group

__all__ = [
    "NO_LIVE_RUN",
    "WARM_UP_RECORDS_MAX",
    "Account",
    "Live",
    "Origin",
    "Part",
    "PartAccount",
    "Plan",
    "Request",
    "prepare",
    "replay",
    "replay_group",
]
