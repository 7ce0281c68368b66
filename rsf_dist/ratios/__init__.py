"""Socket 2: log p/q of a batch.

A ratio of the package is a file here, a model in `rsf_dist.config.ratio` and a maker in `rsf_dist.builders.ratio`. A
kind of your own needs no change of the package. Import the module that has these lines before the configuration is
read:

    class ToyRatio:                                    # the ratio: log_ratio and log_bound, perhaps an info
        log_bound = 0.0
        info = RatioInfo(columns=("brightness",))

        def log_ratio(self, batch): ...                # float64 [n]

    @RATIO_KINDS.register                              # rsf_dist.config.ratio: what the YAML may say
    class ToyRatioConfig(RatioKind):
        kind: Literal["toy"]

    @make_ratio.register                               # rsf_dist.builders.ratio: how it is made
    def _(config: ToyRatioConfig, context: RatioContext) -> Ratio:
        return ToyRatio()

A kind that is fitted on the cluster sets `is_learned` or `needs_cluster` in its model. It has a loader too
(`load_ratio.register`), where its ratio has a `save`, and can have a trial of its parts
(`rsf_dist.builders.preflight.try_ratio.register`).
"""

from rsf_dist.ratios.base import Ratio, SavableRatio, Screened, ScreeningRatio
from rsf_dist.ratios.class_conditional import ClassConditionalRatio
from rsf_dist.ratios.classifier import ClassifierRatio
from rsf_dist.ratios.constant import ConstantRatio
from rsf_dist.ratios.density import DensityRatio
from rsf_dist.ratios.info import HeldOut, RatioInfo, RatioQuality, info_of
from rsf_dist.ratios.label_shift import LabelShiftRatio
from rsf_dist.ratios.product import ProductRatio
from rsf_dist.ratios.relative import RelativeRatio
from rsf_dist.ratios.reward import RewardRatio
from rsf_dist.ratios.reweighted import ReweightedRatio
from rsf_dist.ratios.verifier import VerifierRatio

__all__ = [
    "ClassConditionalRatio",
    "ClassifierRatio",
    "ConstantRatio",
    "DensityRatio",
    "HeldOut",
    "LabelShiftRatio",
    "ProductRatio",
    "Ratio",
    "RatioInfo",
    "RatioQuality",
    "RelativeRatio",
    "RewardRatio",
    "ReweightedRatio",
    "SavableRatio",
    "Screened",
    "ScreeningRatio",
    "VerifierRatio",
    "info_of",
]
