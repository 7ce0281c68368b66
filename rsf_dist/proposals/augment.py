"""Proposals from labelled images under random augmentation: the push-forward of a known q(base, parameters).

A row is drawn as class ~ prior, base image ~ uniform in the class, parameter_j ~ q_j, image = render(base, parameters).
The density of the image itself is unknown (hence ratios that are learned), but that of what it was
made from is known, and what it was made from travels with the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.distributions import Distribution

from rsf_dist.batch import Batch
from rsf_dist.errors import InputError
from rsf_dist.images import ImageSet
from rsf_dist.proposals.distribution import log_density
from rsf_dist.proposals.rendering import NEUTRAL, render
from rsf_dist.rng import Streams


class AugmentProposal:
    """Labelled images times augmentations.

    Args:
        images: the labelled base images.
        parameters: a scalar distribution for each continuous parameter, by its name in `rendering.NEUTRAL`.
        class_prior: probability of each class [num_classes]; None: every class as frequent as among the base images.
        transform: applied to each image [channels, height, width] after the parameters, e.g. a pipeline of
            torchvision.transforms.v2. Its randomness is seeded; it may change the image's size (alike for all), not its
            label, and its parameters do not travel. A raise in cost: it runs image by image.

    Rows: image uint8 [n, c, h, w], label int64 [n], base_index int64 [n], and each parameter float32 [n].

    Raises:
        InputError: no labels, an unknown parameter, a prior that is none, a class without images.
    """

    def __init__(
        self,
        images: ImageSet,
        parameters: Mapping[str, Distribution],
        class_prior: Tensor | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ):
        self.images = images
        self.transform = transform
        labels = images.require_labels("images")
        unknown = sorted(parameters.keys() - NEUTRAL.keys())
        if unknown:
            raise InputError("parameters", unknown[0], f"must be one of {', '.join(NEUTRAL)}", "correct the name")
        self.parameters = {name: parameters[name] for name in NEUTRAL if name in parameters}
        for name, law in self.parameters.items():
            if law.batch_shape + law.event_shape:
                raise InputError(f"parameters.{name}", law, "must draw one number", "use a scalar distribution")
        self.class_counts = torch.bincount(labels, minlength=len(images.classes))
        self.class_prior = _checked_prior(class_prior, self.class_counts)
        # Base images sorted by class: a class and a uniform number then name one of its images.
        self._by_class = torch.argsort(labels, stable=True)
        self._class_start = torch.cumsum(self.class_counts, 0) - self.class_counts

    def sample(self, n: int, rng: Streams) -> Batch:
        """Draw n augmented images with what they were made from."""
        generator = rng.torch()
        label = torch.multinomial(self.class_prior, n, replacement=True, generator=generator)
        within = (torch.rand(n, generator=generator, dtype=torch.float64) * self.class_counts[label]).long()
        base_index = self._by_class[self._class_start[label] + within]
        with rng.torch_global():  # torch's distributions take no generator
            drawn = {name: law.sample(torch.Size([n])).float() for name, law in self.parameters.items()}
            image = render(self.images.images[base_index], drawn, generator)
            if self.transform is not None:
                image = torch.stack([self.transform(one) for one in image])
        return {"image": image, "label": label, "base_index": base_index, **drawn}

    def log_prob(self, batch: Batch) -> Tensor:
        """log q of what each row was made from: its class, its base image within the class, its parameters; float [n].

        The density of the parameters is with respect to Lebesgue measure; a `transform` of one's own does not enter.
        """
        label = batch["label"]
        total = (self.class_prior[label].double() / self.class_counts[label].clamp(min=1)).log()
        for name, law in self.parameters.items():
            total = total + log_density(law, batch[name]).double()
        return total


def _checked_prior(prior: Tensor | None, counts: Tensor) -> Tensor:
    if prior is None:
        return counts.double() / counts.sum()
    prior = torch.as_tensor(prior, dtype=torch.float64)
    if prior.shape != counts.shape or not bool(torch.isfinite(prior).all()) or prior.min() < 0 or prior.sum() <= 0:
        rule = f"must be {len(counts)} probabilities, one a class"
        raise InputError("class_prior", prior.tolist(), rule, "list one number >= 0 for each class")
    empty = torch.nonzero((prior > 0) & (counts == 0)).flatten()
    if len(empty):
        raise InputError(
            "class_prior", int(empty[0]), "this class has no base image", "give it images, or probability 0"
        )
    return prior / prior.sum()
