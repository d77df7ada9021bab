"""Claims and objects are read ahead, in their order and within limits; an audit tells how far it is."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import pytest

from claimed_root import chain_of
from cutbank.errors import StoreUnavailable
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.sinking.claims import CLAIMS_ROOT, ChainId, Layout
from cutbank.pipeline.verifying import Progress, Scope, Verdict, ahead, auditor, listing, tables, tails, verify
from cutbank.pipeline.verifying.ahead import Held
from cutbank.testing.memory_store import MemoryStore
from cutbank.testing.taps import Call, TappedStore
from sinking_world import CHAIN, anomaly
from sunk_root import at_ms, names

T = TypeVar("T")


class Slow:
    """Reads take some turns of the loop, claims and objects each as many at once as are asked for."""

    def __init__(self, *, turns: int = 5) -> None:
        self.turns = turns
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.read: list[str] = []
        self.fail = ""

    async def __call__(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        if call.name != "read":
            return await do()
        kind = "claims" if call.subject.startswith(CLAIMS_ROOT) else "objects"
        self.read.append(call.subject)
        self.now[kind] += 1
        self.most[kind] = max(self.most[kind], self.now[kind])
        try:
            for _ in range(self.turns * (3 if self.now[kind] % 2 else 1)):  # they overtake each other
                await asyncio.sleep(0)
            if call.subject == self.fail:
                raise StoreUnavailable(f"{call.subject}: away")
            return await do()
        finally:
            self.now[kind] -= 1


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def store(memory: MemoryStore, slow: Slow) -> ObjectStore:
    return TappedStore(memory.open(), slow)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[Held]:
    """What an audit's chains hold: claims, objects, claims, …"""
    made: list[Held] = []

    class Noted(Held):
        def __init__(self, bytes_max: int) -> None:
            super().__init__(bytes_max)
            made.append(self)

    monkeypatch.setattr(ahead, "Held", Noted)
    return made


async def audited(store: ObjectStore, scope: Scope | None = None) -> tuple[Verdict, list[Progress]]:
    told: list[Progress] = []
    verdict = await verify(store, scope=scope, progress=lambda now: told.append(replace(now)))
    return verdict, told


class TestAhead:
    async def test_many_are_asked_for_at_once_and_no_more_than_the_limit(
        self, memory: MemoryStore, store: ObjectStore, slow: Slow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ahead, "AHEAD_MAX", 6)
        chain_of(memory, 60)
        verdict, _ = await audited(store)
        assert verdict.findings == ()
        assert verdict.chains[0].lines == 180
        assert 1 < slow.most["claims"] <= 6
        assert 1 < slow.most["objects"] <= 6

    async def test_objects_take_no_more_than_the_limit(
        self,
        memory: MemoryStore,
        store: ObjectStore,
        slow: Slow,
        held: list[Held],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        made = chain_of(memory, 30)
        largest = max(ahead.object_weight(claim, claim.objects[0]) for claim in made)
        monkeypatch.setattr(ahead, "AHEAD_BYTES_MAX", 3 * largest)
        assert (await audited(store))[0].findings == ()
        _, objects = held
        assert 2 * largest < objects.bytes_peak <= 3 * largest
        assert objects.bytes == 0
        assert slow.most["objects"] == 3

    async def test_one_that_is_larger_than_the_limit_is_held_alone(
        self, memory: MemoryStore, store: ObjectStore, slow: Slow, held: list[Held], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain_of(memory, 10, layout=Layout(compression="gzip"))
        monkeypatch.setattr(ahead, "AHEAD_BYTES_MAX", 10)
        monkeypatch.setattr(ahead, "CLAIMS_BYTES_MAX", 10)
        assert (await audited(store))[0].findings == ()
        assert slow.most["objects"] == 1
        assert [each.bytes for each in held] == [0, 0]

    async def test_claims_take_no_more_than_the_limit(
        self, memory: MemoryStore, store: ObjectStore, slow: Slow, held: list[Held], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = chain_of(memory, 30)
        largest = max(map(ahead.claim_weight, made))
        monkeypatch.setattr(ahead, "CLAIMS_BYTES_MAX", 4 * largest)
        assert (await audited(store))[0].findings == ()
        claims, _ = held
        assert 2 * largest < claims.bytes_peak <= 4 * largest
        assert claims.bytes == 0

    async def test_what_an_object_takes_beyond_its_claim_is_counted(
        self, memory: MemoryStore, store: ObjectStore, held: list[Held]
    ) -> None:
        made = chain_of(memory, 3)
        key = made[1].objects[0].key
        memory.overwrite(key, memory.objects[key] * 1000)
        verdict, _ = await audited(store)
        assert names(verdict) == {"doubled line"}
        assert held[1].bytes_peak >= len(memory.objects[key])
        assert held[1].bytes == 0

    async def test_an_error_of_the_store_ends_the_audit_and_leaves_no_task(
        self, memory: MemoryStore, store: ObjectStore, slow: Slow
    ) -> None:
        made = chain_of(memory, 40)
        for key in (made[20].objects[0].key, made[30].key):
            slow.fail = key
            with pytest.raises(StoreUnavailable, match="away"):
                await audited(store)
            assert len(asyncio.all_tasks()) == 1

    async def test_objects_after_the_span_are_not_read(
        self, memory: MemoryStore, store: ObjectStore, slow: Slow
    ) -> None:
        made = chain_of(memory, 200)
        slow.fail = made[20].objects[0].key  # after the span: nobody asks for it
        verdict, told = await audited(store, Scope(None, at_ms(10, 0)))
        assert verdict.findings == ()
        assert verdict.chains[0].claims == 10
        assert [key for key in slow.read if not key.startswith(CLAIMS_ROOT)] == [
            claim.objects[0].key for claim in made[:10]
        ]
        assert (told[-1].claims, told[-1].claims_max) == (10, 10)


class TestProgress:
    async def test_it_moves_within_a_chain_and_knows_all_claims_before(
        self, memory: MemoryStore, store: ObjectStore
    ) -> None:
        chain_of(memory, 30)
        chain_of(memory, 5, chain=ChainId("p", "anomalies", "1"), line=lambda n, at: anomaly(n, source="1", at_ms=at))
        _, told = await audited(store)
        looked_at = [now for now in told if now.claims_max]
        assert {now.claims_max for now in looked_at} == {35}
        assert [now.claims for now in looked_at] == sorted(now.claims for now in looked_at)
        assert {now.claims for now in looked_at} == set(range(36))
        assert told[-1].lines == 35 * 3

    async def test_while_it_lists_and_when_it_looks_for_files(
        self, memory: MemoryStore, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listing, "TOLD_EVERY", 10)
        monkeypatch.setattr("cutbank.pipeline.verifying.files.TOLD_EVERY", 10)
        chain_of(memory, 35)
        _, told = await audited(store)
        assert {now.listed for now in told if not now.claims_max} >= {10, 20, 30}
        assert {now.files for now in told} >= {0, 10, 20, 30}


class TestManyMissing:
    async def test_only_so_many_are_looked_for_once_more(
        self, memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As when a lifecycle rule has removed the objects and left the claims."""
        monkeypatch.setattr(auditor, "MISSING_MAX", 4)
        for claim in chain_of(memory, 9):
            memory.remove(claim.objects[0].key)
        verdict, _ = await audited(memory.open())
        assert [(finding.kind.label, finding.count) for finding in verdict.findings] == [("missing object", 9)]


class TestEnds:
    def test_lines_of_more_sources_than_are_told_apart_are_read_in_another_way(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        texts = [anomaly(1000 + number, source=str(number % 3)) for number in range(60)]
        assert tails.read_tails(texts, tables.Names().number) is not None
        monkeypatch.setattr(tails, "ENDS_MAX", 2)
        assert tails.read_tails(texts, tables.Names().number) is None
        maker = tables.TableMaker(tables.Names(), digests=False)
        maker.add(texts)
        assert len(maker.table()) == 60

    def test_ends_that_are_kept_are_bounded(self) -> None:
        for number in range(tails.ENDS_KEPT + 10):
            assert tails.read_tails([anomaly(1, source=str(number))], tables.Names().number) is not None
        assert tails._end.cache_info().currsize == tails.ENDS_KEPT


async def test_a_hundred_claims_of_a_thousand_source_partitions_and_256_bit_positions(memory: MemoryStore) -> None:
    """Nothing of it is fast, all of it is proven."""

    def line(number: int, at_ms: int) -> bytes:
        text = anomaly(number, source=str(number % 1000), at_ms=at_ms)
        return text.replace(b'"position":"', b'"position":"49590338271490256608559692538361571095921575989136588898.')

    chain_of(memory, 100, a_claim=20, line=line)
    verdict, _ = await audited(memory.open())
    assert verdict.findings == ()
    assert verdict.chains[0].lines == 2000
    assert verdict.chains[0].chain == CHAIN
