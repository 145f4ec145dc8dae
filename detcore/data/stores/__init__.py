"""Files at object stores and web servers, and their copies on this machine's disk."""

from detcore.data.stores.cache import FileCache, default_cache, staging_folder
from detcore.data.stores.store import FileStore, StoreError

__all__ = ["FileCache", "FileStore", "StoreError", "default_cache", "staging_folder"]
