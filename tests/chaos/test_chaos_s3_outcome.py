"""A result of faults on S3: what was played again counts anew, kills are told from other things, layouts all differ."""

import random
from typing import Any

from chaos.played import FIGURES
from chaos.s3_layouts import COMPRESSIONS, FORMATS, drawn
from chaos.s3_outcome import kills_in, renewed
from chaos.s3_stage import Fell


def fault(happened: dict[str, int], *, lost: int = 0) -> dict[str, Any]:
    figures = {**dict.fromkeys(FIGURES, 0), "records": 100, "lost": lost}
    return {"ok": not lost, "happened": happened, "seconds": 1.5, **figures}


def result(faults: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"seed": 1, "short": False, "plants": {}, "findings": [], "faults": faults, **more}


BEFORE = result(
    {"kills": fault({f"killed {Fell.CLAIM_OBJECT}": 3, "aimed at random": 9}), "weather": fault({}, lost=2)},
    plants={"put-over": {"caught": True}},
    findings=["weather: lost: 7", "kills: slow"],
)


def test_what_was_played_again_counts_in_place_of_what_it_came_to_before() -> None:
    found = renewed(BEFORE, result({"weather": fault({"scorer killed, its snapshot there": 1})}))
    assert list(found["faults"]) == ["kills", "weather"]
    assert (found["records"], found["lost"], found["kills_total"], found["seconds"]) == (200, 0, 4, 3.0)
    assert found["fell"] == {f"killed {Fell.CLAIM_OBJECT}": 3, "scorer killed, its snapshot there": 1}
    assert (found["ok"], found["findings"], found["plants"]) == (True, ["kills: slow"], BEFORE["plants"])


def test_a_kill_counts_once() -> None:
    happened = {f"killed {fell}": 2 for fell in Fell}
    assert kills_in({**happened, "killed with 50 partition values open": 2, "aimed at random": 5}) == 2 * len(Fell)


def test_a_sink_is_told_what_differs_from_the_one_before_in_all() -> None:
    rng, before = random.Random(3), dict[str, str]()
    seen: set[tuple[str, str]] = set()
    for _ in range(100):
        told = drawn(rng, unlike=before)
        assert all(
            told[f"CUTBANK_{n}"] != before.get(f"CUTBANK_{n}") for n in ("PREFIX", "TIMEZONE", "FORMAT", "COMPRESSION")
        )
        seen.add((told["CUTBANK_FORMAT"], told["CUTBANK_COMPRESSION"]))
        before = told
    assert seen == {(form, compression) for form in FORMATS for compression in COMPRESSIONS}
    assert len(seen) == 9
