"""Object stores: the protocol, the registry and the stores. Puts are create-only; an object never changes."""

from cutbank.objects.base import ObjectInfo, ObjectStore, key_check
from cutbank.objects.registry import STORES, open_store

__all__ = ["STORES", "ObjectInfo", "ObjectStore", "key_check", "open_store"]
