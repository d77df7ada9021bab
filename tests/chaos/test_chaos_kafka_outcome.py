"""A result of which some faults are played again holds those anew, the rest as it was, and sums of both."""

from typing import Any

from chaos.kafka_kills import kills_in
from chaos.kafka_outcome import renewed
from chaos.played import FIGURES


def result(seed: int, faults: dict[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"seed": seed, "points": {"from": seed}, "plants": {}, "findings": [], "faults": faults, **more}


def fault(happened: dict[str, int], *, lost: int = 0) -> dict[str, Any]:
    figures = {**dict.fromkeys(FIGURES, 0), "records": 100, "lost": lost}
    return {"ok": not lost, "happened": happened, "seconds": 1.5, **figures}


BEFORE = result(
    1,
    {"storm": fault({"sink left by kill -9": 2, "sink joined": 3}), "links": fault({"all connections cut": 9}, lost=4)},
    plants={"unfenced": {"caught": True}},
    findings=["links: lost: 7", "storm: slow"],
)


def test_what_was_played_again_counts_in_place_of_what_it_came_to_before() -> None:
    found = renewed(BEFORE, result(2, {"links": fault({"all connections cut": 5})}))
    assert list(found["faults"]) == ["storm", "links"]
    assert (found["records"], found["lost"], found["kills_total"], found["seconds"]) == (200, 0, 2, 3.0)
    assert found["ok"]
    assert found["findings"] == ["storm: slow"]
    assert (found["seed"], found["points"], found["plants"]) == (1, {"from": 1}, BEFORE["plants"])


def test_the_points_are_those_of_the_newest_kills() -> None:
    killed = fault({"kill -9 at random and at chosen calls": 12})
    found = renewed(BEFORE, result(2, {"kills": killed}))
    assert found["points"] == {"from": 2}
    assert (found["kills_total"], found["lost"], found["ok"]) == (14, 4, False)


def test_kills_of_services_are_told_from_those_of_brokers() -> None:
    assert kills_in({"scorer killed, END_TXN on its way": 2, "the anomalies' leader killed": 5, "sink joined": 1}) == 2
