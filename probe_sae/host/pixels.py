"""The host `pixels`: no network at all; an image's pixels are the activations."""

from torch import Tensor, nn

from probe_sae.host.host import Host
from probe_sae.host.sites import Site


class Pixels(nn.Module):
    """Gives back its images, every one as a row."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Flatten(1)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Return images, [batch, channels, height, width], as [batch, pixels]."""
        return {"input": self.flat(pixel_values)}


def pixels() -> Host:
    """Return the host; its only site is `input`, with pixels between 0 and 1.

    A row goes channel by channel, each line by line.
    """
    host = Host(Pixels(), "pixels")
    host.sites = {"input": Site("input", "flat", "out", layout="BD", kind="image")}
    return host
