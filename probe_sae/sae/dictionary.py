"""A dictionary of features: what every architecture promises."""

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from probe_sae.errors import ShapeError
from probe_sae.sae import sparse
from probe_sae.sae.pretrained import Pretrained
from probe_sae.sae.refine import Refinement, refined
from probe_sae.sae.settings import Settings
from probe_sae.sae.sparse import SparseCodes
from probe_sae.shown import Fact, Shown, field_docstrings, name_in


class Step(NamedTuple):
    """What one training batch gives."""

    loss: Tensor
    """To be minimised."""
    target: Tensor
    """[rows, d_out] what was to be reconstructed, in scaled units."""
    x_hat: Tensor
    """[rows, d_out] its reconstruction."""
    fired: Tensor
    """[features] int64, rows on which each feature fired."""
    notes: dict[str, float]
    """What else the log should hold, such as a coefficient that adapts."""

    @property
    def l0(self) -> float:
        """Mean number of features that fired on a row."""
        return float(self.fired.sum()) / len(self.target)


class SAE(Pretrained, nn.Module, Shown, ABC):
    """An encoder, a decoder, and the scale between raw activations and their units.

    `input_scale` s brings rows to E||s x||^2 = d_model, so that coefficients and learning rates
    mean the same at every site; codes are in the scaled units. The loss is the squared error over
    `variance`, the total variance of what is reconstructed: 1 is no better than the mean.
    """

    input_scale: Tensor
    """Scalar, or [d_model] where rows of several sites are scaled each by its own."""
    variance: Tensor
    """Scalar: sum over dimensions of the variance of scaled rows, from a sample."""
    provenance: dict[str, Any]
    """Where it was trained (`sites`, `host`, `store`, `split`, ...), as far as known."""
    log: list[dict[str, Any]]
    """Lines of the training log."""

    def __init__(self, settings: Settings, widths: tuple[int, ...]) -> None:
        """Make a dictionary whose weights are not drawn yet; `make_sae` draws them.

        Args:
            settings: architecture and size.
            widths: length of a row at each of its sites.
        """
        super().__init__()
        self.provenance, self.log = {}, []
        self.settings, self.widths, self.features = settings, widths, settings.features
        self.d_model = self.d_out = sum(widths)
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("variance", torch.ones(()))

    def __repr__(self) -> str:
        return f"SAE({self.settings}, d_model={self.d_model})"

    def _facts(self) -> list[Fact]:
        about = field_docstrings(type(self.settings))
        kept = {f.name: getattr(self.settings, f.name) for f in fields(self.settings)}
        return [
            Fact("architecture", type(self.settings).__name__),
            Fact("d_model", self.d_model, "Length of a row."),
            *(Fact(name, value, about.get(name, "")) for name, value in kept.items()),
            Fact("host", name_in(self.provenance.get("host"))),
            Fact("sites", self.provenance.get("sites")),
        ]

    def encode_sparse(self, x: Tensor) -> SparseCodes:
        """Return the codes of raw activations without their zeros.

        Those of a row that is not finite are NaN.

        Args:
            x: [rows, d_model].

        Raises:
            ShapeError: rows are not d_model long.
        """
        codes, lost = self._codes(self._scaled(x)), _lost(x)
        if lost is None:
            return codes
        return codes._replace(values=codes.values.masked_fill(lost[:, None], torch.nan))

    def encode(self, x: Tensor, refine: "Refinement | str | None" = None) -> Tensor:
        """Return the codes of raw activations, [rows, features]; NaN where a row is not finite.

        Args:
            x: [rows, d_model].
            refine: improve the codes: `Lista()`, `LeaveOneOut()`, `OMP(k)`, or their names
                `lista`, `leave_one_out`, `omp`.

        Raises:
            ShapeError: rows are not d_model long.
            SettingsError: the refinement does not suit this architecture.
        """
        self._check_rows(x)
        codes = self.encode_sparse(x) if refine is None else refined(self, x, refine)
        dense = sparse.to_dense(codes, self.features)
        lost = _lost(x)
        return dense if lost is None else dense.masked_fill(lost[:, None], torch.nan)

    def decode(self, codes: Tensor | SparseCodes) -> Tensor:
        """Return reconstructions in raw units, [rows, d_out].

        Args:
            codes: [rows, features], or what `encode_sparse` gave.

        Raises:
            ShapeError: codes are not `features` long.
        """
        self._check_codes(codes)
        return self._reconstruct(codes) / self._output_scale()

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of raw activations, [rows, d_out]."""
        return self.reconstruct(x, self.encode_sparse(x))

    def reconstruct(self, x: Tensor, codes: Tensor | SparseCodes) -> Tensor:
        """Return the reconstruction that belongs to raw activations and their codes.

        That is `decode(codes)`, but where something goes past the features (a transcoder's skip).
        """
        return self.decode(codes)

    def fires(self, activations: Tensor) -> Tensor:
        """Return where activations, of any shape, are firings."""
        return activations.abs() > self.settings.fires_above

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is encoded and what is to be reconstructed, from rows as a stream has them.

        Both are the rows themselves, but for a transcoder.
        """
        return rows, rows

    @property
    def named_sites(self) -> list[str]:
        """Sites that it says it is of; of another library's, the hooks that its files name."""
        trained_on: Any = self.provenance.get("trained_on") or {}
        return list(self.provenance.get("sites") or trained_on.get("hooks") or [])

    @property
    def is_autoencoder(self) -> bool:
        """Whether it reconstructs the rows that it encodes."""
        return True

    @property
    def is_same_for_all_rows(self) -> bool:
        """Whether an activation adds the same to every row; not where each has a scale of its own.

        Where it is not, `decode` is in units of normalised rows, and `reconstruct` in a row's own.
        """
        return True

    def linear_decoder(self) -> Tensor | None:
        """Return the directions in scaled units, [features, d_out]; None for a deep decoder."""
        return None

    @torch.no_grad()
    def directions(self) -> Tensor:
        """Return what each feature adds to a reconstruction, in raw units, [features, d_out].

        The decoder's rows. For a deep decoder, what a feature's activation of 1 changes where all
        others are silent.
        """
        decoder = self.linear_decoder()
        if decoder is not None:
            return decoder / self._output_scale()
        parts: list[Tensor] = []
        silent = self.decode(torch.zeros(1, self.features, device=self.input_scale.device))
        for some in torch.arange(self.features).split(1024):
            alone = torch.zeros(len(some), self.features, device=silent.device)
            alone[torch.arange(len(some)), some] = 1
            parts.append(self.decode(alone) - silent)
        return torch.cat(parts)

    @abstractmethod
    def reset(self, generator: torch.Generator) -> None:
        """Draw the weights of an untrained dictionary."""

    @torch.no_grad()
    def initialise(self, sample: Tensor, generator: torch.Generator) -> None:
        """Take scale and variance, and what else an architecture wants, from a sample.

        Args:
            sample: raw rows as a stream has them, [rows, sum of widths].
            generator: where randomness comes from.
        """
        x, _ = self.split(sample)
        if self.settings.is_scaled:
            self.input_scale.copy_((x.shape[1] / x.double().square().sum(1).mean()) ** 0.5)
        self.variance.copy_(self._scaled_pair(sample)[1].var(0, correction=0).sum())

    @abstractmethod
    def step(self, rows: Tensor, dead: Tensor | None = None, share: float = 1.0) -> Step:
        """Return loss, reconstruction and firings of one training batch.

        Args:
            rows: raw rows as a stream has them, [rows, sum of widths].
            dead: numbers of the features that have not fired for long, [dead].
            share: how much of the run is over, 0 to 1.
        """

    def before_update(self) -> None:
        """Change gradients before they are clipped and the optimiser uses them."""

    def constrain(self) -> None:
        """Bring weights back to where they must be, such as directions to length 1."""

    def adapt(self, step: Step) -> None:
        """Change what follows from a step, such as a coefficient that is steered."""

    def resample(
        self,
        rows: Tensor,
        dead: Tensor,
        generator: torch.Generator,
    ) -> tuple[str, ...]:
        """Give dead features new weights; return the names of what was changed.

        Nothing, where an architecture revives them otherwise.

        Args:
            rows: raw rows, [rows, sum of widths].
            dead: numbers of the dead features, [dead].
            generator: where randomness comes from.
        """
        return ()

    def finish(self, rows: Tensor) -> None:
        """Bring the dictionary into its final form, with raw rows that training has not seen."""

    def rate_factors(self) -> dict[str, float]:
        """Return what the learning rate of some parameters is multiplied with, by name."""
        return {}

    @abstractmethod
    def _codes(self, scaled: Tensor) -> SparseCodes:
        """Return the codes of scaled rows, [rows, d_model]."""

    @abstractmethod
    def _reconstruct(self, codes: Tensor | SparseCodes) -> Tensor:
        """Return reconstructions in scaled units, [rows, d_out]."""

    def _output_scale(self) -> Tensor:
        return self.input_scale

    def _scaled(self, x: Tensor) -> Tensor:
        self._check_rows(x)
        return x.to(self.input_scale.dtype) * self.input_scale

    def _check_rows(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShapeError(
                f"activations are a {type(x).__name__}; expected a tensor: torch.as_tensor(x)."
            )
        if x.ndim != 2 or x.shape[1] != self.d_model:
            raise ShapeError(
                f"activations have shape {tuple(x.shape)}; this dictionary takes "
                f"[rows, {self.d_model}]. Is this the site it was trained on?"
            )

    def _check_codes(self, codes: Tensor | SparseCodes) -> None:
        if isinstance(codes, SparseCodes):
            return
        if not isinstance(codes, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShapeError(f"codes are a {type(codes).__name__}; expected a tensor.")
        if codes.ndim != 2 or codes.shape[1] != self.features:
            raise ShapeError(
                f"codes have shape {tuple(codes.shape)}; this dictionary decodes "
                f"[rows, {self.features}]."
            )

    def _scaled_pair(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is encoded and what is to be reconstructed, in scaled units."""
        x, target = self.split(rows)
        scaled = self._scaled(x)
        if target is x:
            return scaled, scaled
        return scaled, target.to(scaled.dtype) * self._output_scale()


def _lost(x: Tensor) -> Tensor | None:
    """Return which rows, [rows, d_model], are not finite; None where all are."""
    lost = ~x.detach().sum(1, dtype=torch.float32).isfinite()
    if not bool(lost.any()):
        return None
    return lost & ~x.detach().isfinite().all(1)  # not only their sum
