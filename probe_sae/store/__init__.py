"""Rows on disk: write, read, shuffle, merge, verify."""

from probe_sae.store.held_out import held_out_contexts, is_held_out
from probe_sae.store.layout import SiteInfo
from probe_sae.store.merge import link_shards, merge_stores
from probe_sae.store.opening import as_store, join_stores, open_store
from probe_sae.store.reader import Store
from probe_sae.store.rows import ContextInput, RecordedRows, RowBlock, SplitStream, Stream
from probe_sae.store.shuffle import shuffle_store
from probe_sae.store.site_rows import SiteRows
from probe_sae.store.site_streams import SitesStream, stream_of
from probe_sae.store.stream import StoreStream
from probe_sae.store.tensor_stream import TensorStream
from probe_sae.store.writer import StoreWriter

__all__ = [
    "ContextInput",
    "RecordedRows",
    "RowBlock",
    "SiteInfo",
    "SiteRows",
    "SitesStream",
    "SplitStream",
    "Store",
    "StoreStream",
    "StoreWriter",
    "Stream",
    "TensorStream",
    "as_store",
    "held_out_contexts",
    "is_held_out",
    "join_stores",
    "link_shards",
    "merge_stores",
    "open_store",
    "shuffle_store",
    "stream_of",
]
