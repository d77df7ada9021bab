"""Claims as documents: keys, order, canonical JSON, a frozen example that later versions must still read."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from cutbank.errors import PartitionStopped
from cutbank.pipeline.sinking.claims import (
    MARKS_MAX,
    Birth,
    ChainId,
    Claim,
    DataObject,
    FirstRecord,
    Layout,
    Link,
    Lost,
    Mark,
    decode,
    encode,
    link_from_key,
)
from cutbank.records import Position

GOLDEN = Path(__file__).parent / "golden"
CHAIN = ChainId("anomaly-extractor", "anomalies", "0")
KINESIS = Position((49_600_000_000_000_000_000_000_000_000_000_000_000_000_000_000_000_000_001 << 64) | 7)


def example(**changes: Any) -> Claim:
    fields: dict[str, Any] = {
        "pipeline": CHAIN.pipeline,
        "stream": CHAIN.stream,
        "partition": CHAIN.partition,
        "start": Position(100),
        "end": Position(160),
        "minute_ms": 1_790_000_040_000,
        "layout": Layout(),
        "objects": (DataObject(key="2026/09/21/14/x-100-0.json", count=2, line_bytes=300, sha256="ab" * 32),),
        "first": FirstRecord(position=Position(101), sha256="cd" * 32),
        "marks_before": (Mark(partition="0", run=1, position=Position(4), ordinal=0),),
        "marks_after": (Mark(partition="0", run=2, position=KINESIS, ordinal=1),),
        "spec_hash": "ef" * 32,
        **changes,
    }
    return Claim(**fields)


EXAMPLES: tuple[Birth | Claim | Lost, ...] = (
    Birth(pipeline="anomaly-extractor", stream="anomalies", partition="0", start=Position(100), identity="a-uuid"),
    example(),
    Lost(
        pipeline="anomaly-extractor",
        stream="anomalies",
        partition="0",
        start=Position(100),
        end=Position(160),
        missing=("2026/09/21/14/x-100-0.json",),
        why="objects missing and records past retention",
    ),
)


@pytest.mark.parametrize("document", EXAMPLES, ids=lambda document: document.kind)
def test_a_document_comes_back_as_it_was(document: Birth | Claim | Lost) -> None:
    assert decode(encode(document), type(document), key=document.key) == document


@pytest.mark.parametrize(
    ("field", "value"),
    [("minute_ms", 10**18), ("minute_ms", -60_000), ("minute_ms", 1), ("run", 10**30), ("run", -1), ("ordinal", 2**63)],
)
def test_a_number_out_of_range_stops_the_partition_and_no_more(field: str, value: int) -> None:
    document = orjson.loads(encode(example()))
    (document if field == "minute_ms" else document["marks_after"][0])[field] = value
    with pytest.raises(PartitionStopped, match=field):
        decode(json.dumps(document).encode(), Claim, key=example().key)


@pytest.mark.parametrize("document", EXAMPLES, ids=lambda document: document.kind)
def test_the_frozen_examples_still_read_and_still_encode_to_the_same_bytes(document: Birth | Claim | Lost) -> None:
    frozen = (GOLDEN / f"{document.kind}-v1.json").read_bytes()
    assert decode(frozen, type(document), key=document.key) == document
    assert encode(document) == frozen


def test_a_document_under_another_key_is_refused() -> None:
    with pytest.raises(PartitionStopped, match="another key"):
        decode(encode(example()), Claim, key=CHAIN.claim_key(Position(101)))
    with pytest.raises(PartitionStopped, match="another key"):
        decode(encode(example()), Claim, key=ChainId("other", "anomalies", "0").claim_key(Position(100)))


@pytest.mark.parametrize(
    "changes",
    [
        {"end": Position(100)},
        {"first": None},
        {"objects": ()},
        {"first": FirstRecord(position=Position(160), sha256="cd" * 32)},
        {"objects": example().objects * 2},
        {"partition_values": ("x",)},
        {
            "marks_after": tuple(
                Mark(partition=str(n), run=1, position=Position(0), ordinal=0) for n in range(MARKS_MAX + 1)
            )
        },
    ],
)
def test_a_claim_that_contradicts_itself_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        example(**changes)


@pytest.mark.parametrize("value", ["x", "x/y/z", ""])
def test_a_partition_value_with_other_parts_than_there_are_keys_stops_the_partition_and_no_more(value: str) -> None:
    keyed = Layout(prefix="!{partitionKeyFromQuery:a}/!{partitionKeyFromQuery:b}/", partition_keys=("a", "b"))
    document = orjson.loads(encode(example(layout=keyed, partition_values=("x/y",))))
    document["partition_values"] = [value]
    with pytest.raises(PartitionStopped, match="a part for each partition key"):
        decode(json.dumps(document).encode(), Claim, key=example().key)


@pytest.mark.parametrize("key", ["", "../x", "/x", "_cutbank/x", "a//b"])
def test_a_claim_names_no_object_outside_the_data(key: str) -> None:
    with pytest.raises(ValidationError):
        DataObject(key=key, count=1, line_bytes=1, sha256="ab" * 32)


def test_a_listing_gives_the_newest_claim_first_its_loss_right_after_and_the_birth_last() -> None:
    positions = [Position(0), Position(9), Position(10), Position(1 << 64), KINESIS]
    newest_first = [
        key for position in reversed(positions) for key in (CHAIN.claim_key(position), CHAIN.lost_key(position))
    ]
    keys = [*newest_first, CHAIN.birth_key]
    assert sorted(keys, key=str.encode) == keys


@pytest.mark.parametrize(
    "chain",
    [CHAIN, ChainId("p", "s", "shardId-000000000001"), ChainId("p", "s", "a/b%c ö"), ChainId("p.q", "s_t", "0")],
)
def test_keys_read_back(chain: ChainId) -> None:
    assert link_from_key(chain.birth_key) == Link(chain, "birth", None)
    assert link_from_key(chain.claim_key(KINESIS)) == Link(chain, "claim", KINESIS)
    assert link_from_key(chain.lost_key(KINESIS)) == Link(chain, "lost", KINESIS)
    assert chain.birth_key.startswith(chain.prefix)


@pytest.mark.parametrize(
    "key",
    [
        "2026/11/22/23/x.json",
        "_cutbank/p/s/birth",
        "_cutbank/p/s/0/deaths",
        "_cutbank/p/s/0/" + "f" * 64,
        "_cutbank/p/s/0/" + "F" * 63,
        "_cutbank/p/s/0/" + "F" * 64 + ".losts",
        "_cutbank/p/s/%30/birth",
        "_cutbank/p/s/%30/" + "F" * 64,
        "_cutbank/_probe/0123",
    ],
)
def test_other_keys_are_nobodys(key: str) -> None:
    assert link_from_key(key) is None
