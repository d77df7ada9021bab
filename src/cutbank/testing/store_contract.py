"""The contract suite of object stores: every store passes it, ours and yours.

Subclass `StoreContract` in a test module, and give it a fixture `opener` that returns a function of no arguments: each
call gives a new, not yet entered store on the same empty root. Needs pytest with pytest-asyncio in auto mode.

Each test owns its root; the suite holds no state.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from cutbank.errors import AlreadyExists, ObjectMissing
from cutbank.objects.base import KEY_BYTES_MAX, SEGMENT_BYTES_MAX, ObjectInfo, ObjectStore

Opener: TypeAlias = Callable[[], ObjectStore]

CREATORS = 20
"""How many create one key at once."""

BIG_BYTES = 8 << 20

BAD_KEYS = (
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    "a/..",
    "a\\b",
    "a\nb",
    "a\0b",
    "a?b",
    "ä",
    "a/" * (KEY_BYTES_MAX // 2) + "a",
    "a" * (SEGMENT_BYTES_MAX + 1),
)

SIBLINGS = (
    "a/b",
    "a/b-/x",
    "a!b",
    "a-b",
    "a-b-",
    "a.b/c",
    "a0",
    "a1/0",
    "aa/a",
    "b",
    "b-/a",
    "ba/a/x",
    "ba/a-",
    "ba/a0",
)
"""Keys whose order differs between whole keys and a walk over folders (`a` and `a/b` cannot both be files)."""


async def _listed(store: ObjectStore, prefix: str = "", *, after: str = "") -> list[str]:
    return [info.key async for info in store.list(prefix, after=after)]


async def _fill(store: ObjectStore, keys: tuple[str, ...]) -> None:
    for key in keys:
        await store.create(key, key.encode())


class StoreContract:
    """What every object store does. Methods are tests; see the module."""

    @pytest.fixture
    def opener(self) -> Opener:
        """Override: makes stores on one root."""
        raise NotImplementedError("give the contract a fixture `opener`")

    async def test_what_was_created_is_read(self, opener: Opener) -> None:
        """Text, nothing and every byte."""
        async with opener() as store:
            for key, body in {"a/text": b"hello\n", "a/empty": b"", "binary": bytes(range(256)) * 3}.items():
                await store.create(key, body)
                assert await store.read(key) == body

    async def test_a_big_body_is_whole(self, opener: Opener) -> None:
        """8 MiB."""
        body = b"".join(number.to_bytes(8, "big") for number in range(BIG_BYTES // 8))
        async with opener() as store:
            await store.create("big", body)
            assert await store.read("big") == body
            assert [info async for info in store.list("big")] == [ObjectInfo("big", BIG_BYTES)]

    async def test_a_taken_key_keeps_its_body(self, opener: Opener) -> None:
        """Also when the second body is the same: the creator learns that the key was taken."""
        async with opener() as store:
            await store.create("a/b", b"first")
            for body in (b"second", b"first"):
                with pytest.raises(AlreadyExists):
                    await store.create("a/b", body)
            assert await store.read("a/b") == b"first"

    async def test_one_of_many_concurrent_creators_wins(self, opener: Opener) -> None:
        """Two stores on the same root, as two processes have them."""
        async with opener() as one, opener() as other:
            bodies = [b"%d" % number * 1000 for number in range(CREATORS)]

            async def creates(number: int) -> bool:
                try:
                    await (one, other)[number % 2].create("x/y/z", bodies[number])
                except AlreadyExists:
                    return False
                return True

            won = await asyncio.gather(*map(creates, range(CREATORS)))
            assert won.count(True) == 1
            assert await one.read("x/y/z") == await other.read("x/y/z") == bodies[won.index(True)]

    async def test_a_missing_object_is_missing(self, opener: Opener) -> None:
        """By every call, also beside and below an object that is there."""
        async with opener() as store:
            assert not await store.exists("never")
            with pytest.raises(ObjectMissing):
                await store.read("never")
            await store.create("a/b", b"")
            for key in ("a", "a/c", "a/b/c", "b/a"):
                assert not await store.exists(key)
                with pytest.raises(ObjectMissing):
                    await store.read(key)

    async def test_a_deleted_object_is_gone(self, opener: Opener) -> None:
        """And may be created again; deleting nothing is no error."""
        async with opener() as store:
            await store.create("a/b", b"1")
            await store.create("a/c", b"2")
            await store.delete("a/b")
            await store.delete("a/b")
            await store.delete("x/y/z")
            assert not await store.exists("a/b")
            assert await _listed(store) == ["a/c"]
            await store.create("a/b", b"3")
            assert await store.read("a/b") == b"3"

    async def test_exists(self, opener: Opener) -> None:
        """It is there as soon as it is created."""
        async with opener() as store:
            await store.create("a/b", b"")
            assert await store.exists("a/b")

    async def test_keys_are_listed_in_the_order_of_their_bytes(self, opener: Opener) -> None:
        """Of whole keys, as S3 does, whatever the order of creation."""
        async with opener() as store:
            await _fill(store, SIBLINGS[::-1])
            assert await _listed(store) == sorted(SIBLINGS, key=str.encode)

    @pytest.mark.parametrize(
        "prefix", ["", "a", "a-", "a-b", "a/", "a1", "a1/", "b", "b/", "ba/a", "ba/a-", "ba/a/", "c", "c/d/"]
    )
    async def test_a_prefix_need_not_end_at_a_slash(self, opener: Opener, prefix: str) -> None:
        """A prefix is characters, not folders."""
        async with opener() as store:
            await _fill(store, SIBLINGS)
            assert await _listed(store, prefix) == sorted(key for key in SIBLINGS if key.startswith(prefix))

    @pytest.mark.parametrize("prefix", ["", "a", "ba/"])
    async def test_a_listing_goes_on_after_any_text(self, opener: Opener, prefix: str) -> None:
        """After every key, and after texts that are no keys."""
        async with opener() as store:
            await _fill(store, SIBLINGS)
            for after in ("", *SIBLINGS, "a-b/", "a/", "a.b", "b/", "ba/a", "ba/a/", "b0zzz", "zz"):
                wanted = sorted(key for key in SIBLINGS if key.startswith(prefix) and key > after)
                assert await _listed(store, prefix, after=after) == wanted, after

    async def test_a_listing_may_stop_early(self, opener: Opener) -> None:
        """The newest claim is found this way."""
        async with opener() as store:
            await _fill(store, tuple(f"claims/{number:04}" for number in range(50)))
            async for info in store.list("claims/"):
                assert info.key == "claims/0000"
                break
            assert len(await _listed(store)) == 50

    async def test_sizes_are_listed(self, opener: Opener) -> None:
        """In bytes of the body."""
        async with opener() as store:
            await store.create("a", b"")
            await store.create("b/c", b"12345")
            assert [info async for info in store.list("")] == [ObjectInfo("a", 0), ObjectInfo("b/c", 5)]

    @pytest.mark.parametrize("key", BAD_KEYS)
    async def test_a_bad_key_is_refused_by_every_call(self, opener: Opener, key: str) -> None:
        """Before anything is done."""
        async with opener() as store:
            calls: tuple[Callable[[], Awaitable[object]], ...] = (
                lambda: store.create(key, b""),
                lambda: store.read(key),
                lambda: store.exists(key),
                lambda: store.delete(key),
            )
            for call in calls:
                with pytest.raises(ValueError, match="object key"):
                    await call()
            assert await _listed(store) == []

    async def test_every_allowed_character_makes_a_key(self, opener: Opener) -> None:
        """As written, nothing escaped or folded."""
        keys = ("AZaz09!_.*'()%=@,+:~- /x", "%2F", "a" * SEGMENT_BYTES_MAX, "birth", "...", "a/.b", "Case", "case")
        async with opener() as store:
            await _fill(store, keys)
            assert await _listed(store) == sorted(keys)
            for key in keys:
                assert await store.read(key) == key.encode()

    async def test_the_longest_key_is_taken(self, opener: Opener) -> None:
        """As long as the store says; on S3 its root counts."""
        async with opener() as store:
            assert KEY_BYTES_MAX // 2 <= store.key_bytes_max <= KEY_BYTES_MAX
            key = ("x" * (SEGMENT_BYTES_MAX - 1) + "/") * (KEY_BYTES_MAX // SEGMENT_BYTES_MAX + 1)
            key = key[: store.key_bytes_max - 1] + "y"
            await store.create(key, b"body")
            assert await store.read(key) == b"body"
            assert await _listed(store) == [key]

    async def test_another_opening_sees_the_same(self, opener: Opener) -> None:
        """The root is the store's identity."""
        async with opener() as store:
            await store.create("a/b", b"body")
        async with opener() as again:
            assert await again.read("a/b") == b"body"
            assert await _listed(again) == ["a/b"]
            with pytest.raises(AlreadyExists):
                await again.create("a/b", b"other")

    async def test_a_probe_leaves_nothing(self, opener: Opener) -> None:
        """Also several at once, as processes start together."""
        async with opener() as one, opener() as other:
            await asyncio.gather(one.probe(), other.probe(deletes=True), one.probe())
            assert await _listed(one) == []

    async def test_a_url_names_the_root(self, opener: Opener) -> None:
        """The same for every opening."""
        assert opener().url == opener().url
        assert "://" in opener().url
