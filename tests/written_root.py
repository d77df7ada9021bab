"""Roots for queries: claims and their objects as a sink writes them, of any minutes, times, layouts; on any store."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from cutbank.objects.base import ObjectStore
from cutbank.pipeline.sinking.claims import Birth, ChainId, Claim, FirstRecord, Layout, encode
from cutbank.pipeline.sinking.layout import object_key
from cutbank.pipeline.sinking.lines import rowtime
from cutbank.pipeline.sinking.rendering import render
from cutbank.pipeline.sinking.schema import ERROR_COLUMNS, anomaly_columns
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Position

SPEC = PipelineSpec()
CHAIN = ChainId(SPEC.name, SPEC.destination, "0")
ERRORS = ChainId(SPEC.name, SPEC.errors, "0")
START_MS = 1_795_388_400_000
"""2026-11-22T23:00Z."""
MINUTE_MS = 60_000


def layout(form: str = "ndjson", compression: str = "none", *, errors: bool = False, **more: Any) -> Layout:
    """A layout with the stock columns where its format has columns."""
    columns = ERROR_COLUMNS if errors else anomaly_columns(SPEC)
    given: dict[str, Any] = {"format": form, "compression": compression, **more}
    if form != "ndjson":
        given["columns"] = tuple(column.name for column in columns)
    if form == "parquet":
        given["types"] = tuple(column.type for column in columns)
    return Layout.model_validate(given)


def source(number: int, *, pipeline: str = SPEC.name) -> dict[str, Any]:
    return {
        "pipeline": pipeline,
        "stream": "trades@1f2e3d4c",
        "run": 1,
        "partition": "0",
        "position": str(number),
        "ordinal": 0,
    }


def stock(number: int, at_ms: int, **more: Any) -> bytes:
    """An anomaly of the stock pipeline, as its scorer writes it."""
    fields = {
        "tickerSymbol": "AMZN" if number % 3 else "GOOG",
        "tradeType": "BUY",
        "price": 100.0 + number / 4,
        "quantity": number * 7,
        "id": number,
        "ANOMALY_SCORE": 1.0 + (number * 7 % 5) / 8,
        "ROWTIME": rowtime(at_ms),
        "SOURCE": source(number),
    }
    return orjson.dumps({**fields, **more})


def error(number: int, at_ms: int, *, name: str = "invalid_json") -> bytes:
    """A line of the error stream, as the scorer writes it."""
    fields = {
        "ERROR_TIME": rowtime(at_ms),
        "ERROR_LEVEL": "ERROR",
        "ERROR_NAME": name,
        "MESSAGE": "no JSON",
        "DATA_ROWTIME": rowtime(at_ms),
        "DATA_ROW": "7b",
        "DATA_BYTES": 1,
        "PUMP_NAME": SPEC.name,
        "SOURCE": source(number),
    }
    return orjson.dumps(fields)


async def write(
    store: ObjectStore,
    minutes: Mapping[int, Sequence[bytes]],
    *,
    chain: ChainId = CHAIN,
    laid_out: Layout | Mapping[int, Layout] | None = None,
) -> list[Claim]:
    """A chain: of each minute (from `START_MS`, increasing) a claim and its object with these lines."""
    birth = Birth(
        pipeline=chain.pipeline, stream=chain.stream, partition=chain.partition, start=Position(0), identity="x"
    )
    await store.create(birth.key, encode(birth))
    at, claims = 0, []
    for minute, lines in minutes.items():
        of = laid_out.get(minute, layout()) if isinstance(laid_out, Mapping) else laid_out or layout()
        minute_ms = START_MS + minute * MINUTE_MS
        rendered = render(of, lines)
        key = object_key(chain, of, start=Position(at), minute_ms=minute_ms, ordinal=0)
        claim = Claim(
            pipeline=chain.pipeline,
            stream=chain.stream,
            partition=chain.partition,
            start=Position(at),
            end=Position(at + len(lines)),
            minute_ms=minute_ms,
            layout=of,
            objects=(rendered.described(key),),
            first=FirstRecord(position=Position(at), sha256=hashlib.sha256(lines[0]).hexdigest()),
            marks_before=(),
            marks_after=(),
        )
        await store.create(claim.key, encode(claim))
        await store.create(key, rendered.body)
        claims.append(claim)
        at += len(lines)
    return claims
