"""Files at object stores and web servers, and their copies on this machine's disk."""

from detcore.data.stores.cache import FileCache, cache_folder, default_cache
from detcore.data.stores.store import FileStore, StoreError

__all__ = ["FileCache", "FileStore", "StoreError", "cache_folder", "default_cache"]
