"""Socket 2: log p/q of a batch. A new ratio is one file here and one line below."""

from rsf_dist.ratios.base import Ratio, Screened, ScreeningRatio
from rsf_dist.ratios.class_conditional import ClassConditionalRatio
from rsf_dist.ratios.classifier import ClassifierRatio
from rsf_dist.ratios.constant import ConstantRatio
from rsf_dist.ratios.density import DensityRatio
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
    "LabelShiftRatio",
    "ProductRatio",
    "Ratio",
    "RelativeRatio",
    "RewardRatio",
    "ReweightedRatio",
    "Screened",
    "ScreeningRatio",
    "VerifierRatio",
]
