"""Reading what sinks have written: chains in order, objects beside them."""

from cutbank.objects import ObjectInfo
from cutbank.pipeline.sinking import ChainId, inspect
from cutbank.pipeline.sinking.claims import Claim, Layout, Link, encode
from cutbank.records import Position
from sinking_world import CHAIN, World, anomaly


def gap(chain: ChainId, start: int, end: int) -> Claim:
    return Claim(
        pipeline=chain.pipeline,
        stream=chain.stream,
        partition=chain.partition,
        start=Position(start),
        end=Position(end),
        minute_ms=0,
        layout=Layout(),
        objects=(),
        first=None,
        marks_before=(),
        marks_after=(),
    )


async def test_claims_come_chain_by_chain_and_oldest_first(world: World) -> None:
    chains = [ChainId("p", "s", "0"), ChainId("p", "s", "1"), ChainId("q", "s", "0")]
    for chain in chains:
        for start in (10, 0, 200):
            claim = gap(chain, start, start + 10)
            await world.store.create(claim.key, encode(claim))
    found = [(claim.chain, claim.start) async for claim in inspect.claims(world.store)]
    assert found == [(chain, start) for chain in chains for start in (0, 10, 200)]
    assert [claim.chain async for claim in inspect.claims(world.store, "q")] == [chains[2]] * 3
    assert [chain async for chain in inspect.chains(world.store)] == chains
    assert [chain async for chain in inspect.chains(world.store, "p")] == chains[:2]
    assert [claim.start async for claim in inspect.chain_claims(world.store, chains[1])] == [0, 10, 200]


async def test_a_pipeline_is_not_mistaken_for_one_whose_name_it_begins(world: World) -> None:
    for name in ("p", "p2", "p.x"):
        claim = gap(ChainId(name, "s", "0"), 0, 1)
        await world.store.create(claim.key, encode(claim))
    assert [claim.pipeline async for claim in inspect.claims(world.store, "p")] == ["p"]


async def test_everything_beside_the_claims_is_data_or_foreign(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    await world.sink_all()
    for key in ("!first", "_cutbank-not", "_cutbank0", "zzz/last", "_cutbank/notes"):
        await world.store.create(key, b"12")
    (own,) = (await world.claims())[0].objects
    found = [info async for info in inspect.data_objects(world.store)]
    foreign = [ObjectInfo(key, 2) for key in ("!first", "_cutbank-not", "_cutbank0", "zzz/last")]
    assert found == [foreign[0], ObjectInfo(own.key, own.line_bytes), *foreign[1:]]
    links = {key: link async for key, link in inspect.links(world.store)}
    assert links.pop("_cutbank/notes") is None
    assert links == {
        CHAIN.claim_key(Position(0)): Link(CHAIN, "claim", Position(0)),
        CHAIN.birth_key: Link(CHAIN, "birth", None),
    }
