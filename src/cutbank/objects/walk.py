"""Walks a folder tree in the order of whole keys, as an object store lists them. Owns no file.

Invariant: keys come in the order of their UTF-8 bytes. A folder takes the place of `name/` among its siblings, so
that `a-b` and `a.b` come before `a/b`, as on S3, and not where a plain walk over folders would put them.
Memory: at most `PAGE_ENTRIES` names for each level of the tree, however many files there are; a larger folder is read
again for each page. Blocking: for a thread.
"""

import heapq
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

PAGE_ENTRIES = 10_000
"""Names taken from a folder at a time."""


def walk(root: str, *, prefix: str, after: str, hidden: str) -> Iterator[list[tuple[str, int]]]:
    """Pages, never empty, of (key, bytes) of every plain file below `root` whose key has the prefix, after `after`.

    The folder `hidden` below the root is left out, as are links, devices and names that are not UTF-8. A folder that
    is missing or vanishes has no files. Raises OSError.
    """
    start, _, _ = prefix.rpartition("/")
    if not _plain_folders(root, start):
        return
    yield from _folder(root, f"{start}/" if start else "", prefix.encode(), after.encode(), hidden)


def _plain_folders(root: str, path: str) -> bool:
    """Whether every part of `path` below the root is a folder and none is a link."""
    for part in path.split("/") if path else ():
        root = os.path.join(root, part)  # noqa: PTH118  # plain strings: this is the hot loop's kind
        if os.path.islink(root) or not os.path.isdir(root):  # noqa: PTH112, PTH114  # as above
            return False
    return True


def _folder(root: str, base: str, prefix: bytes, after: bytes, hidden: str) -> Iterator[list[tuple[str, int]]]:
    """The files below folder `base` (empty, or with its slash), in order."""
    names: list[bytes] = []
    more = True
    while more:
        done = names[-1] if names else b""
        names = _names(root, base, done, lambda key: _of_use(key, prefix, after), hidden)
        more = len(names) == PAGE_ENTRIES
        page: list[tuple[str, int]] = []
        for name in names:
            key = name.decode()
            if not key.endswith("/"):
                with suppress(FileNotFoundError):
                    page.append((key, os.lstat(os.path.join(root, key)).st_size))  # noqa: PTH118  # hot
                continue
            if page:
                yield page
                page = []
            yield from _folder(root, key, prefix, after, hidden)
        if page:
            yield page


def _names(root: str, base: str, done: bytes, wanted: Callable[[bytes], bool], hidden: str) -> list[bytes]:
    """The next page of whole keys in this folder past `done`: files as they are, folders with their slash."""
    try:
        with os.scandir(os.path.join(root, base)) as entries:  # noqa: PTH118  # hot
            keys = _keys(entries, base, hidden)
            return heapq.nsmallest(PAGE_ENTRIES, (key for key in keys if key > done and wanted(key)))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _keys(entries: Iterable[os.DirEntry[str]], base: str, hidden: str) -> Iterator[bytes]:
    for entry in entries:
        try:
            key = f"{base}{entry.name}".encode()
        except UnicodeEncodeError:
            continue
        if entry.is_file(follow_symlinks=False):
            yield key
        elif entry.is_dir(follow_symlinks=False) and (base or entry.name != hidden):
            yield key + b"/"


def _of_use(key: bytes, prefix: bytes, after: bytes) -> bool:
    """Whether this file is asked for, or this folder may hold one that is."""
    if not key.endswith(b"/"):
        return key.startswith(prefix) and key > after
    return (key.startswith(prefix) or prefix.startswith(key)) and (key > after or after.startswith(key))
