"""The one visible list of object stores, by the scheme of their URL. Owns the choice, nothing else.

An opener imports what its store needs, so that a store's libraries are loaded only by those who use it.
"""

from collections.abc import Callable

from cutbank.clock import Clock
from cutbank.errors import MissingExtra, UsageError
from cutbank.metrics import Metrics
from cutbank.objects.base import ObjectStore


def _open_file(url: str, clock: Clock, metrics: Metrics) -> ObjectStore:
    from cutbank.objects.filesystem import FileSystemStore, path_from_url

    return FileSystemStore(path_from_url(url), clock=clock, metrics=metrics)


def _open_s3(url: str, clock: Clock, metrics: Metrics) -> ObjectStore:
    try:
        from cutbank.objects.s3 import parse_url
        from cutbank.objects.s3.store import S3Store
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("aioboto3", "aiobotocore", "botocore"):
            raise
        raise MissingExtra("s3:// needs the extra s3: pip install 'cutbank[s3]'") from error
    place, settings = parse_url(url)
    return S3Store(place, settings, clock=clock, metrics=metrics)


STORES: dict[str, Callable[[str, Clock, Metrics], ObjectStore]] = {"file": _open_file, "s3": _open_s3}
"""Scheme to opener. An opener does no I/O; the store does when it is entered or used."""


def open_store(url: str, *, clock: Clock, metrics: Metrics) -> ObjectStore:
    """The store that `url` names, to be entered with `async with`.

    `file:///absolute/folder`, `file://relative/folder`, `s3://bucket/root?region=…` (docs/s3.md has its parameters).
    Raises MissingExtra, UsageError for a scheme that is not in `STORES` or a URL that its store does not understand.
    """
    scheme, found, _ = url.partition("://")
    if not found or scheme not in STORES:
        known = ", ".join(f"{name}://" for name in STORES)
        raise UsageError(f"object store {url!r}: unknown kind; the URL begins with one of: {known}")
    return STORES[scheme](url, clock, metrics)
