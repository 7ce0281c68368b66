"""Rejection sampling fine-tuning on Ray: draw x ~ q, keep it with probability p(x) / (M q(x)), fine-tune on the kept.

Names are loaded when they are first used, so that the command's help does not wait for torch and Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsf_dist.accepted import AcceptedSet
    from rsf_dist.config import Budget, PoolConfig, TrainingConfig, load_config
    from rsf_dist.envelope import (
        AdaptiveEnvelope,
        BudgetEnvelope,
        CertifiedEnvelope,
        FixedEnvelope,
        PilotEnvelope,
    )
    from rsf_dist.errors import ClusterFailure, InputError, RsfError, StatisticalRefusal
    from rsf_dist.images import ImageSet
    from rsf_dist.pipeline import RunResult, run
    from rsf_dist.proposals import (
        AugmentProposal,
        DatasetProposal,
        DefensiveProposal,
        DistributionProposal,
        GeneratorProposal,
        MixtureProposal,
        Refittable,
    )
    from rsf_dist.ratios import (
        ClassifierRatio,
        ConstantRatio,
        DensityRatio,
        LabelShiftRatio,
        ProductRatio,
        RelativeRatio,
        RewardRatio,
        VerifierRatio,
    )
    from rsf_dist.resources import cluster
    from rsf_dist.sampler import RejectionSampler
    from rsf_dist.sampling_report import SamplingReport
    from rsf_dist.store import RunStore
    from rsf_dist.tasks import ClassificationTask
    from rsf_dist.trainer import FineTuner, FineTuneResult

__version__ = "0.1.0"

_HOMES = {
    "accepted": ("AcceptedSet",),
    "config": ("Budget", "PoolConfig", "TrainingConfig", "load_config"),
    "envelope": (
        "AdaptiveEnvelope",
        "BudgetEnvelope",
        "CertifiedEnvelope",
        "FixedEnvelope",
        "PilotEnvelope",
    ),
    "errors": ("ClusterFailure", "InputError", "RsfError", "StatisticalRefusal"),
    "images": ("ImageSet",),
    "pipeline": ("RunResult", "run"),
    "proposals": (
        "AugmentProposal",
        "DatasetProposal",
        "DefensiveProposal",
        "DistributionProposal",
        "GeneratorProposal",
        "MixtureProposal",
        "Refittable",
    ),
    "ratios": (
        "ClassifierRatio",
        "ConstantRatio",
        "DensityRatio",
        "LabelShiftRatio",
        "ProductRatio",
        "RelativeRatio",
        "RewardRatio",
        "VerifierRatio",
    ),
    "resources": ("cluster",),
    "sampler": ("RejectionSampler",),
    "sampling_report": ("SamplingReport",),
    "store": ("RunStore",),
    "tasks": ("ClassificationTask",),
    "trainer": ("FineTuneResult", "FineTuner"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AcceptedSet",
    "AdaptiveEnvelope",
    "AugmentProposal",
    "Budget",
    "BudgetEnvelope",
    "CertifiedEnvelope",
    "ClassificationTask",
    "ClassifierRatio",
    "ClusterFailure",
    "ConstantRatio",
    "DatasetProposal",
    "DefensiveProposal",
    "DensityRatio",
    "DistributionProposal",
    "FineTuneResult",
    "FineTuner",
    "FixedEnvelope",
    "GeneratorProposal",
    "ImageSet",
    "InputError",
    "LabelShiftRatio",
    "MixtureProposal",
    "PilotEnvelope",
    "PoolConfig",
    "ProductRatio",
    "Refittable",
    "RejectionSampler",
    "RelativeRatio",
    "RewardRatio",
    "RsfError",
    "RunResult",
    "RunStore",
    "SamplingReport",
    "StatisticalRefusal",
    "TrainingConfig",
    "VerifierRatio",
    "cluster",
    "load_config",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'rsf_dist' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rsf_dist.{_MODULE_OF[name]}"), name)
