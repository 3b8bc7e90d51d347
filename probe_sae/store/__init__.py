"""Rows on disk: write, read, verify."""

from probe_sae.store.layout import SiteInfo
from probe_sae.store.reader import Store, open_store
from probe_sae.store.rows import ContextInput, RecordedRows, Stream
from probe_sae.store.stream import StoreStream, TensorStream, held_out_contexts
from probe_sae.store.writer import StoreWriter

__all__ = [
    "ContextInput",
    "RecordedRows",
    "SiteInfo",
    "Store",
    "StoreStream",
    "StoreWriter",
    "Stream",
    "TensorStream",
    "held_out_contexts",
    "open_store",
]
