"""Proposals from a generator (a GAN's, a decoder): x = G(z), or x = G(z, y), with a known distribution of z and y.

The density of x is unknown (hence learned ratios; for GANs: Azadi et al., ICLR 2019). The density of z and y is known,
and both travel with the row. A refit changes the distribution of the latents, not the weights of the generator (as in
the latent reweighting of Issenhuth et al., WACV 2022).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from rsf_dist.data.batch import Batch, LazyBatch, take_rows
from rsf_dist.errors import InputError
from rsf_dist.proposals.distribution import log_density
from rsf_dist.proposals.prior import checked_prior
from rsf_dist.proposals.refit import fit_distribution, support_bounds
from rsf_dist.runtime.device import device, seeded, to_cpu_copy, to_device
from rsf_dist.runtime.rng import Streams

_PIECE_ROWS = 128  # generated at once: bounded memory, few calls


class GeneratorProposal:
    """A generator applied to random latents, and to classes where it takes them.

    Args:
        generator: a torch module, float32 [n, d] -> n rows; with a class prior (float32 [n, d], int64 [n]) -> n rows.
            The proposal takes it over: it is put into evaluation mode, and moved to the device in use.
        latent: the distribution of z, of event_shape [d].
        class_prior: probability of each class [k], for a generator that takes classes.
        column: the name under which x travels. An `image` that is made as floats [n, c, h, w] is taken as on the scale
            0 to 1, clamped to it and rounded to uint8; other columns are what the generator gives.

    Rows: x [n, …], latent float32 [n, d] and, where there is a class prior, label int64 [n].

    Raises:
        InputError: no module, a latent that is no vector, an invalid prior, a column's name that is taken; at
            sampling, what is no tensor of n rows, is not finite, or is no image.
    """

    def __init__(
        self,
        generator: nn.Module,
        latent: Distribution,
        class_prior: Tensor | None = None,
        column: str = "image",
    ):
        if not isinstance(generator, nn.Module):
            raise InputError("generator", type(generator).__name__, "is no torch module", "give a torch.nn.Module")
        if latent.batch_shape or len(latent.event_shape) != 1:
            found = f"batch_shape {list(latent.batch_shape)}, event_shape {list(latent.event_shape)}"
            remedy = "use e.g. Independent(Normal(torch.zeros(d), torch.ones(d)), 1)"
            raise InputError(
                "latent", found, "must be one distribution of vectors: batch_shape [], event_shape [d]", remedy
            )
        if column in ("latent", "label"):
            raise InputError("column", column, "this column's name is taken", "choose another")
        self.generator, self.latent, self.column = generator.cpu(), latent, column
        self.class_prior = None if class_prior is None else checked_prior(class_prior)

    def sample(self, n: int, rng: Streams) -> LazyBatch:
        """Draw n rows; on a GPU, the generated column stays there until it is read.

        Noise that the generator itself draws from torch's global generators is seeded as well.
        """
        made_from = {}
        with seeded(rng), torch.no_grad():
            made_from["latent"] = self.latent.sample(torch.Size([n])).float()
            if self.class_prior is not None:
                made_from["label"] = torch.multinomial(self.class_prior, n, replacement=True)
            rows = self._generated(*made_from.values())
        return LazyBatch(made_from, {self.column: partial(take_rows, rows)})

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"generator": to_cpu_copy(self.generator)}

    def log_prob(self, batch: Batch) -> Tensor:
        """Return log q of each row's latent and class, float64 [n]."""
        latent = log_density(self.latent, batch["latent"]).double()
        return latent if self.class_prior is None else latent + self.class_prior[batch["label"]].log()

    def refit(self, rows: Batch, seed: int, max_components: int = 3) -> GeneratorProposal:
        """Return the proposal with the latents' distribution fitted to accepted rows; see `fit_distribution`.

        Raises InputError where there are too few rows, or the distribution is discrete.
        """
        low, high = support_bounds(self.latent)
        latent = fit_distribution(rows["latent"], low, high, seed, max_components)
        return GeneratorProposal(self.generator, latent, self.class_prior, self.column)

    def with_class_prior(self, prior: Tensor) -> GeneratorProposal:
        """Return the proposal with another class prior [k]. Raises InputError where the generator takes none."""
        if self.class_prior is None:
            raise InputError("class_prior", prior.tolist(), "the generator takes no classes", "give it a prior first")
        return GeneratorProposal(self.generator, self.latent, checked_prior(prior, len(self.class_prior)), self.column)

    def _generated(self, *made_from: Tensor) -> Tensor:
        self.generator.eval().to(device())
        with torch.inference_mode():
            columns = (to_device(column).split(_PIECE_ROWS) for column in made_from)
            pieces, finite = zip(*(self._piece(*parts) for parts in zip(*columns, strict=True)), strict=True)
            if not bool(torch.stack(finite).all()):
                raise self._fault("gives numbers that are NaN or infinite", "give it sound weights")
        return torch.cat(pieces)  # a copy made outside of inference mode, which a network can learn from

    def _piece(self, *made_from: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows, and whether all of their numbers are finite, as a tensor: reading it here would stall a GPU."""
        n, rows = len(made_from[0]), self.generator(*made_from)
        if not isinstance(rows, Tensor) or rows.shape[:1] != (n,):
            found = list(rows.shape) if isinstance(rows, Tensor) else f"a {type(rows).__name__}"
            raise self._fault(f"gives {found} for {n} latents", "give a tensor of one row a latent")
        finite = rows.isfinite().all()
        if self.column == "image" and rows.dtype != torch.uint8:
            if rows.ndim != 4 or not rows.is_floating_point():
                rule = f"gives {rows.dtype} {list(rows.shape)} as images"
                raise self._fault(rule, "give [n, channels, height, width], uint8 or floats on the scale 0 to 1")
            rows = (rows.float().clamp(0, 1) * 255).round().to(torch.uint8)
        return rows, finite

    def _fault(self, rule: str, remedy: str) -> InputError:
        return InputError("proposal", type(self.generator).__name__, f"the generator {rule}", remedy, absolute=True)
