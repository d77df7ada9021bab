"""Chains of error records: known by ERROR_TIME and SOURCE, in order of their positions, between the anomalies' own."""

from pathlib import Path

import pytest

from claimed_root import chain_of, claimed, on_disk
from cutbank.pipeline.sinking.claims import ChainId, Claim, encode
from cutbank.pipeline.sinking.rendering import render
from cutbank.pipeline.verifying import Verdict
from cutbank.testing.memory_store import MemoryStore
from sinking_world import CHAIN, MINUTE_MS, anomaly, error_record
from sunk_root import at_ms, audited, names

ERRORS = ChainId(CHAIN.pipeline, "errors", "0")


def odd(number: int, at_ms: int) -> bytes:
    return anomaly(2 * number + 1, at_ms=at_ms)


def even(number: int, at_ms: int) -> bytes:
    return error_record(2 * number, at_ms=at_ms)


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


def found(memory: MemoryStore, folder: Path) -> Verdict:
    on_disk(memory, folder)
    return audited(folder)


def replaced(memory: MemoryStore, claim: Claim, lines: list[bytes]) -> None:
    """The object and its claim, as a sink would have put these lines in this order."""
    (item,) = claim.objects
    rendered = render(claim.layout, lines)
    memory.overwrite(item.key, rendered.body)
    memory.overwrite(claim.key, encode(claim.model_copy(update={"objects": (rendered.described(item.key),)})))


def test_errors_and_anomalies_of_one_source_lie_in_two_chains(memory: MemoryStore, tmp_path: Path) -> None:
    chain_of(memory, 5, line=odd)
    chain_of(memory, 5, chain=ERRORS, line=even)
    verdict = found(memory, tmp_path)
    assert verdict.findings == ()
    assert [(str(account.chain), account.lines, account.unidentified) for account in verdict.chains] == [
        ("p/anomalies/0", 15, 0),
        ("p/errors/0", 15, 0),
    ]


def test_errors_of_one_source_in_two_chains_are_named(memory: MemoryStore, tmp_path: Path) -> None:
    chain_of(memory, 5, chain=ERRORS, line=even)
    chain_of(memory, 5, chain=ERRORS._replace(stream="others"), line=even)
    assert names(found(memory, tmp_path)) == {"one source in two chains"}


def test_errors_of_a_second_are_in_the_order_of_their_positions(memory: MemoryStore, tmp_path: Path) -> None:
    claim = chain_of(memory, 3, chain=ERRORS, line=even, a_claim=4)[1]
    lines = memory.objects[claim.objects[0].key].splitlines()
    replaced(memory, claim, [lines[0], lines[2], lines[1], lines[3]])
    assert names(found(memory, tmp_path)) == {"wrong order"}


def test_an_error_twice_is_a_doubled_line(memory: MemoryStore, tmp_path: Path) -> None:
    first, second, _ = chain_of(memory, 3, chain=ERRORS, line=even)
    lines = memory.objects[second.objects[0].key].splitlines()
    before = memory.objects[first.objects[0].key].splitlines()[-1]
    replaced(memory, second, [before, *lines])
    assert names(found(memory, tmp_path)) == {"doubled line"}


def test_an_error_of_a_later_minute_than_its_claim(memory: MemoryStore, tmp_path: Path) -> None:
    """By ERROR_TIME."""
    chain_of(memory, 1, chain=ERRORS, line=lambda number, at: error_record(number, at_ms=at + 2 * MINUTE_MS))
    assert names(found(memory, tmp_path)) == {"wrong minute"}


def test_an_error_beside_anomalies_in_one_object_stands_after_them(memory: MemoryStore, tmp_path: Path) -> None:
    """A record that somebody else published into the wrong stream."""
    claim, bodies = claimed(
        CHAIN,
        range(20),
        start=0,
        minute=0,
        line=lambda number, at: (error_record if number % 5 == 0 else anomaly)(number, at_ms=at),
    )
    chain_of(memory, 0)
    memory.create(claim.key, encode(claim))
    memory.create(claim.objects[0].key, bodies[0])
    assert claim.minute_ms == at_ms(0, 0)
    verdict = found(memory, tmp_path)
    assert verdict.findings == ()
    assert verdict.chains[0].lines == 20
