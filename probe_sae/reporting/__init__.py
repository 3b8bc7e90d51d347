"""An analysis becomes a folder of pages and data files that opens from disk, offline."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probe_sae.reporting.neuronpedia import write_neuronpedia
    from probe_sae.reporting.write import Report, write_report

__all__ = ["Report", "write_neuronpedia", "write_report"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from probe_sae.reporting import neuronpedia, write

        return getattr(neuronpedia if name == "write_neuronpedia" else write, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
