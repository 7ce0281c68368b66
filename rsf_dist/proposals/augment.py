"""Proposals from labelled images under random augmentation: the push-forward of a known q(base, parameters).

A row is drawn as class ~ prior, base image ~ uniform in the class, parameter_j ~ q_j, image = render(base, parameters).
The density of the image itself is unknown (hence learned ratios). The density of the class, base image and parameters
is known, and these travel with the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.distributions import Distribution

from rsf_dist.data.batch import Batch, Index, LazyBatch, num_rows, select, take_rows, to_cpu
from rsf_dist.data.images import ImageSet
from rsf_dist.data.pixels import require_images
from rsf_dist.errors import InputError
from rsf_dist.proposals.distribution import log_density
from rsf_dist.proposals.pixel_noise import PixelNoise
from rsf_dist.proposals.prior import checked_prior
from rsf_dist.proposals.refit import fit_distribution, support_bounds
from rsf_dist.proposals.rendering import NEUTRAL, render
from rsf_dist.runtime.device import device, scaled_for_gpu, to_device
from rsf_dist.runtime.rng import Streams

_PIECE_NUMBERS, _PIECE_ROWS = 2**18, 32  # rendered at once: what fits into a processor's caches


class AugmentProposal:
    """Labelled images times augmentations.

    Args:
        images: the labelled base images.
        parameters: a scalar distribution for each continuous parameter, by its name in `rendering.NEUTRAL`.
        class_prior: probability of each class [num_classes]. None means the frequencies among the base images.
        transform: applied to each image [channels, height, width] after the parameters, e.g. a pipeline of
            torchvision.transforms.v2. Its randomness is seeded. It may change the size of all images alike, but no
            label. It is slow: it runs image by image, also for rows that are rejected.
        joint: one distribution of all `parameters` together, of event_shape [len(parameters)], in the order of
            `rendering.NEUTRAL`. It is drawn from in their place.

    Rows: image uint8 [n, c, h, w], label int64 [n], base_index int64 [n], and each parameter float32 [n].

    Raises:
        InputError: images that are not uint8, no labels, an unknown parameter, a prior that is none, a class without
            images.
    """

    def __init__(
        self,
        images: ImageSet,
        parameters: Mapping[str, Distribution],
        class_prior: Tensor | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        joint: Distribution | None = None,
    ):
        self.images = images
        self.transform = transform
        require_images(images.images, "images")
        labels = images.require_labels()
        unknown = sorted(parameters.keys() - NEUTRAL.keys())
        if unknown:
            raise InputError("parameters", unknown[0], f"must be one of {', '.join(NEUTRAL)}", "correct the name")
        self.parameters = {name: parameters[name] for name in NEUTRAL if name in parameters}
        for name, distribution in self.parameters.items():
            if distribution.batch_shape + distribution.event_shape:
                raise InputError(
                    f"parameters.{name}", distribution, "must draw one number", "use a scalar distribution"
                )
        if joint is not None and joint.event_shape != (len(self.parameters),):
            rule = f"must draw the {len(self.parameters)} parameters"
            raise InputError("joint", joint, rule, "give a distribution of vectors")
        self.joint = joint
        self.class_counts = torch.bincount(labels, minlength=len(images.classes))
        self.class_prior = _checked_prior(class_prior, self.class_counts)
        # Base images sorted by class: a class and a uniform number then name one of its images.
        self._by_class = torch.argsort(labels, stable=True)
        self._class_start = torch.cumsum(self.class_counts, 0) - self.class_counts

    def sample(self, n: int, rng: Streams) -> Batch | LazyBatch:
        """Draw n augmented images with the class, base image and parameters that each is rendered from.

        Without a `transform`, images are rendered on first access, on the device that this process computes on.
        """
        generator = rng.torch()
        label = torch.multinomial(self.class_prior, n, replacement=True, generator=generator)
        within = (torch.rand(n, generator=generator, dtype=torch.float64) * self.class_counts[label]).long()
        base_index = self._by_class[self._class_start[label] + within]
        with rng.torch_global():  # torch's distributions take no generator
            drawn = self._parameters(n)
            made_from = to_cpu({"label": label, "base_index": base_index, **drawn})
            if self.transform is None:
                return LazyBatch(made_from, {"image": self._images(made_from, generator)})
            image = render(take_rows(self.images.images, base_index), drawn, generator)
            return {"image": torch.stack([self.transform(picture) for picture in image]), **made_from}

    def log_prob(self, batch: Batch) -> Tensor:
        """Return log q of each row's class, base image within the class, and parameters, float [n].

        The density of the parameters is with respect to Lebesgue measure. A `transform` does not enter.
        """
        label = batch["label"]
        total = (self.class_prior[label].double() / self.class_counts[label].clamp(min=1)).log()
        if self.joint is not None:
            return total + log_density(self.joint, self._stacked(batch))
        for name, distribution in self.parameters.items():
            total = total + log_density(distribution, batch[name]).double()
        return total

    def refit(self, rows: Batch, seed: int, max_components: int = 3) -> AugmentProposal:
        """Return the proposal with a joint distribution of the parameters fitted to accepted rows.

        See `fit_distribution`. Raises InputError where there are too few rows, or a distribution is discrete.
        """
        if not self.parameters:
            raise InputError(
                "proposal.parameters",
                {},
                "has no parameter to refit",
                "give a distribution for at least one parameter",
                absolute=True,
            )
        low, high = (torch.stack(ends) for ends in zip(*map(support_bounds, self.parameters.values()), strict=True))
        joint = fit_distribution(self._stacked(rows), low, high, seed, max_components)
        return AugmentProposal(self.images, self.parameters, self.class_prior, self.transform, joint)

    def with_class_prior(self, prior: Tensor) -> AugmentProposal:
        """Return the same proposal with another class prior [num_classes]. Raises InputError."""
        return AugmentProposal(self.images, self.parameters, prior, self.transform, self.joint)

    def _images(self, made_from: Batch, generator: torch.Generator) -> Callable[[Index], Tensor]:
        """Return the function that renders the rows at given positions, each with its own noise."""
        shape = self.images.images.shape[1:]
        size = max(scaled_for_gpu(_PIECE_ROWS), scaled_for_gpu(_PIECE_NUMBERS) // shape.numel())
        noise = PixelNoise(num_rows(made_from), shape, generator, size if device().type == "cuda" else None)

        def piece(rows: Tensor) -> Tensor:
            drawn = select(made_from, rows)
            columns = [drawn[name] for name in self.parameters]
            parameters = dict(zip(self.parameters, to_device(torch.stack(columns)), strict=True)) if columns else {}
            base = to_device(take_rows(self.images.images, drawn["base_index"]))
            return render(base, parameters, noise.of(rows) if "noise" in parameters and len(rows) else None)

        def at(rows: Index) -> Tensor:
            return torch.cat([piece(rows) for rows in torch.arange(num_rows(made_from))[rows].split(size)])

        return at

    def _parameters(self, n: int) -> Batch:
        size = torch.Size([n])
        if self.joint is None:
            return {name: dist.sample(size).float() for name, dist in self.parameters.items()}
        return dict(zip(self.parameters, self.joint.sample(size).float().unbind(1), strict=True))

    def _stacked(self, rows: Batch) -> Tensor:
        return torch.stack([rows[name].double() for name in self.parameters], dim=1)


def _checked_prior(prior: Tensor | None, counts: Tensor) -> Tensor:
    if prior is None:
        return counts.double() / counts.sum()
    prior = checked_prior(prior, len(counts))
    empty = torch.nonzero((prior > 0) & (counts == 0)).flatten()
    if len(empty):
        raise InputError(
            "class_prior", int(empty[0]), "this class has no base image", "give it images, or probability 0"
        )
    return prior
