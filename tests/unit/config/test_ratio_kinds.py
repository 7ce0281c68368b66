"""The properties of a ratio kind that the rest of the package asks for."""

import pytest

from rsf_dist.config.class_prior import ClassPriorConfig
from rsf_dist.config.ratio import RATIO_KINDS, RatioKind
from rsf_dist.config.resources import Reservation, Share

CLASSIFIER = {"kind": "classifier", "optimizer": {"steps": 400}}
ESTIMATED = {"kind": "label_shift"}
KNOWN = {"kind": "label_shift", "target_prior": [0.5, 0.5]}
DENSITY = {"kind": "density", "parameters": {"scale": {"normal": [1.0, 0.1]}}}
REWARD = {"kind": "reward", "score": "a:b"}
VERIFIER = {"kind": "verifier", "passes": "a:b"}
CUSTOM = {"kind": "custom", "factory": "a:b"}


def product(*factors):
    return {"kind": "product", "factors": list(factors)}


def kind(raw) -> RatioKind:
    model = RATIO_KINDS.find(raw["kind"])
    assert model is not None
    return model.model_validate(raw)


def test_every_kind_of_the_package_is_registered():
    names = ["classifier", "label_shift", "density", "reward", "verifier", "custom", "product"]
    assert [RATIO_KINDS.find(name) for name in names] == list(RATIO_KINDS.models)[: len(names)]
    assert RATIO_KINDS.find("no such kind") is None
    assert RATIO_KINDS.find(["classifier"]) is None


@pytest.mark.parametrize(
    ("raw", "learned", "cluster", "density", "open_prior", "warm"),
    [
        (CLASSIFIER, True, True, False, True, True),
        (ESTIMATED, False, True, False, False, False),
        (KNOWN, False, False, False, False, False),
        (DENSITY, False, False, True, False, False),
        (REWARD, False, False, False, False, False),
        (VERIFIER, False, False, False, False, False),
        (CUSTOM, True, True, False, False, False),
        (product(VERIFIER, DENSITY), False, False, True, False, False),
        (product(VERIFIER, CLASSIFIER), True, True, False, False, True),
        (product(KNOWN, product(VERIFIER, CUSTOM)), True, True, False, False, False),
    ],
)
def test_facts_of_a_kind(raw, learned, cluster, density, open_prior, warm):
    config = kind(raw)
    assert (config.is_learned, config.needs_cluster) == (learned, cluster)
    assert (config.has_density_factors, config.leaves_class_prior_open, config.can_warm_start) == (
        density,
        open_prior,
        warm,
    )


def test_a_warm_start_costs_its_share_of_the_steps():
    # 100 of 400 steps; a custom ratio is learned in full; what is not learned costs nothing again
    assert kind(CLASSIFIER).refit_share(100) == 0.25
    assert kind(CLASSIFIER).refit_share(None) == 1.0
    assert kind(CUSTOM).refit_share(100) == 1.0
    assert kind(ESTIMATED).refit_share(100) == 0.0
    assert kind(product(VERIFIER, CLASSIFIER)).refit_share(100) == 0.25
    assert kind(product(CUSTOM, CLASSIFIER)).refit_share(100) == 1.0


def test_reservations_name_their_keys():
    task = CLASSIFIER | {"cpus": 2, "wait_seconds": 5}
    assert kind(task).reservations() == (Reservation("cpus", 2, (Share(2),), 5),)
    assert kind(ESTIMATED | {"gpus": 0.5}).reservations() == (Reservation("gpus", 0.5, (Share(1, 0.5),)),)
    workers, after = kind(task | {"num_workers": 2}).reservations()
    # two workers, and a CPU for Ray Data beside them; then the task that calibrates
    assert (workers.field, workers.value, workers.shares) == ("num_workers", 2, (Share(2), Share(2), Share(1)))
    assert "Ray Data" in workers.reason
    assert after.field == "cpus"
    nested = kind(product(VERIFIER, product(VERIFIER, CLASSIFIER))).reservations()
    assert [one.field for one in nested] == ["factors.1.factors.1.cpus"]
    assert [one.field for one in ClassPriorConfig().reservations()] == ["cpus"]
    for raw in (KNOWN, DENSITY, REWARD, VERIFIER, CUSTOM):
        assert kind(raw).reservations() == ()


def test_the_networks_that_look_at_images():
    named = CLASSIFIER | {"network": {"width": 8}}
    assert kind(product(VERIFIER, named)).networks == kind(named).networks == (kind(named).network,)
    assert kind(CLASSIFIER).networks == ()  # left to the images
    assert kind(ESTIMATED).networks == ()
