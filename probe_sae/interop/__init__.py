"""Other libraries' checkpoints, in and out; `load_sae` detects any of them."""

from probe_sae.interop.exchange import WRITABLE, as_sae, export_sae, import_sae, load_sae
from probe_sae.interop.formats import FORMATS

__all__ = ["FORMATS", "WRITABLE", "as_sae", "export_sae", "import_sae", "load_sae"]
