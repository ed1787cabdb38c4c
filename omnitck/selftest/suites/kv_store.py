"""How the reference of `kv_store` is certified."""

from omnitck.primitives.kv_store import KVStoreContract
from omnitck.reference import kv_store
from omnitck.selftest.reference import Reference


class ReferenceSuite(KVStoreContract, Reference):
    """The reference of `kv_store`, with every capability there is."""

    capabilities = kv_store.CAPABILITIES
    backend_type = kv_store.MemoryBackend
    provider = kv_store.MemoryKVStore
