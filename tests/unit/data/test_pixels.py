"""Images of another type than uint8 are refused wherever they would be scaled."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Uniform

from rsf_dist.config.model import ModelConfig
from rsf_dist.config.ratio import ClassifierRatioConfig, RatioNetworkConfig, RatioOptimizerConfig
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError
from rsf_dist.models.spec import NetworkSpec
from rsf_dist.proposals import AugmentProposal
from rsf_dist.ratios import ClassifierRatio
from rsf_dist.tasks import ClassificationTask

IMAGES = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 2
QUICK = ClassifierRatioConfig(network=RatioNetworkConfig(width=4), optimizer=RatioOptimizerConfig(steps=1))
FROZEN = QUICK.model_copy(update={"freeze_backbone": True})
TASK = ClassificationTask(("a", "b"), ModelConfig(width=4), channels=1)

USES: dict[str, Callable[[Tensor], object]] = {
    "a network": lambda images: NetworkSpec(ModelConfig(width=4), 2, 1).build()(images),
    "augmentation": lambda images: AugmentProposal(ImageSet(images, LABELS, ("a", "b")), {"scale": Uniform(0.9, 1.0)}),
    "a ratio's target": lambda images: ClassifierRatio.fit(images, IMAGES, QUICK),
    "a ratio's proposals": lambda images: ClassifierRatio.fit(IMAGES, images, QUICK),
    "a frozen ratio's target": lambda images: ClassifierRatio.fit(images, IMAGES, FROZEN),
    "a frozen ratio's proposals": lambda images: ClassifierRatio.fit(IMAGES, images, FROZEN),
    "a task": lambda images: TASK.loss(TASK.build_model(0), {"image": images, "label": LABELS}),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.float64, torch.bool, torch.int64])
def test_other_types_are_refused(use: Callable[[Tensor], object], kind: torch.dtype) -> None:
    images = IMAGES / 255 if kind.is_floating_point else IMAGES
    with pytest.raises(InputError, match=rf"images?={kind}: must be uint8 .*from 0 to 1: \(images \* 255\)"):
        use(images.to(kind))


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_images_of_8_bits_are_taken(use: Callable[[Tensor], object]) -> None:
    use(IMAGES)


def test_what_the_remedy_says_to_type_restores_every_level() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    for images in (levels / 255, levels.double() / 255):
        assert torch.equal((images * 255).round().to(torch.uint8), levels)
