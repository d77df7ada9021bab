"""Bugs to plant into sinks on S3: each must be caught by the run, which shows that it would catch them in the product.

A plant changes one thing of one module in this process. Only `chaos.service` calls them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from aiobotocore.client import AioBaseClient

from cutbank.pipeline.sinking.chain import Chain
from cutbank.pipeline.sinking.claims import Claim, DataObject
from cutbank.pipeline.sinking.reading import Reader
from cutbank.pipeline.sinking.stretch import Stretch
from object_servers.requests import What, what_of


def put_over() -> None:
    """Claims and objects are put without create-only, over whatever is there; the probe at the start sees nothing."""
    call = AioBaseClient._make_api_call

    async def wrong(client: Any, operation: str, params: dict[str, Any]) -> Any:
        if operation == "PutObject" and what_of(params["Key"]) is not What.PROBE:
            params = {name: value for name, value in params.items() if name != "IfNoneMatch"}
        return await call(client, operation, params)

    AioBaseClient._make_api_call = wrong


def taken_for_own() -> None:
    """An object that is there when its claim's is put is taken for its own, without a look at what it holds."""

    async def wrong(_chain: Chain, _claim: Claim, _item: DataObject, _body: bytes) -> None:
        return

    Chain._check_same = wrong  # type: ignore[method-assign, assignment]


def claim_after_object() -> None:
    """The objects are put before the claim that names them."""
    claimed, append = Reader.claim, Chain.append
    bodies_of: dict[str, Sequence[bytes]] = {}

    async def remembered(reader: Reader, stretch: Stretch) -> tuple[Claim, list[bytes]]:
        claim, bodies = await claimed(reader, stretch)
        bodies_of[claim.key] = bodies
        return claim, bodies

    async def wrong(chain: Chain, claim: Claim) -> Claim:
        if (bodies := bodies_of.pop(claim.key, None)) is not None:
            await chain.put(claim, bodies)
        return await append(chain, claim)

    Reader.claim = remembered  # type: ignore[method-assign, assignment]
    Chain.append = wrong  # type: ignore[method-assign, assignment]


S3_PLANTS: dict[str, Callable[[], None]] = {
    "put-over": put_over,
    "taken-for-own": taken_for_own,
    "claim-after-object": claim_after_object,
}
"""By name, as `--plant` takes them."""
