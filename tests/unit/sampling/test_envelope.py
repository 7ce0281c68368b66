import numpy as np
import pytest

from rsf_dist.errors import InputError, StatisticalRefusal
from rsf_dist.sampling.envelope import (
    AdaptiveEnvelope,
    BudgetEnvelope,
    CertifiedEnvelope,
    FixedEnvelope,
    Pilot,
    PilotEnvelope,
)


def pilot(log_ratio, exponentials=1.0, log_bound=None):
    log_ratio = np.asarray(log_ratio, dtype=float)
    return Pilot(log_ratio, log_ratio + exponentials, log_bound)


def test_fixed_envelope_is_what_was_given():
    choice = FixedEnvelope(log_m=-0.5).choose(pilot([3.0], log_bound=7.0))
    assert (choice.log_m, choice.source) == (-0.5, "fixed")


@pytest.mark.parametrize("log_m", [np.nan, np.inf, -np.inf])
def test_fixed_envelope_must_be_finite(log_m):
    with pytest.raises(InputError, match=r"^log_m=.*must be finite"):
        FixedEnvelope(log_m)


def test_pilot_envelope_takes_the_largest_ratio_and_a_margin():
    seen = pilot([-1.0, 2.0, -np.inf], exponentials=9.0)
    assert PilotEnvelope(num_pilot=3).choose(seen).log_m == 2.0
    choice = PilotEnvelope(num_pilot=3, margin=0.25).choose(seen)
    assert choice.log_m == 2.25
    assert choice.source == "estimate: largest of 3 pilot ratios + 0.25"


def test_pilot_envelope_prefers_a_certified_bound():
    choice = PilotEnvelope(margin=1.0).choose(pilot([-1.0, 2.0], log_bound=4.0))
    assert (choice.log_m, choice.source) == (4.0, "bound of the ratio")


def test_a_bound_of_zero_is_a_bound():
    assert PilotEnvelope().choose(pilot([-1.0], log_bound=0.0)).log_m == 0.0


@pytest.mark.parametrize(
    "envelope",
    [PilotEnvelope(), BudgetEnvelope(acceptance=0.1), AdaptiveEnvelope()],
)
def test_a_pilot_without_any_ratio_is_refused(envelope):
    with pytest.raises(StatisticalRefusal, match="all 50 pilot proposals have ratio 0") as caught:
        envelope.choose(pilot(np.full(50, -np.inf)))
    assert "broaden the proposal" in caught.value.remedy


def test_budget_envelope_keeps_its_fraction_of_the_pilot():
    # keys 1 to 1000; a tenth kept means 100 above log M = 900
    choice = BudgetEnvelope(acceptance=0.1, num_pilot=1000).choose(pilot(np.arange(1000.0)))
    assert choice.log_m == 900.0
    assert choice.source == "quantile of 1,000 pilot keys at acceptance 0.1"


def test_budget_envelope_ignores_a_bound():
    assert BudgetEnvelope(0.5, 40).choose(pilot(np.arange(40.0), log_bound=99.0)).log_m == 20.0


def test_budget_out_of_reach_is_refused_with_what_can_be_reached():
    # three of ten proposals can be accepted at all; half of them was asked for
    with pytest.raises(StatisticalRefusal, match=r"acceptance=0\.5 cannot be reached: only a fraction 0\.3 "):
        BudgetEnvelope(0.5, 40).choose(pilot([-np.inf] * 7 + [0.0] * 3))


@pytest.mark.parametrize("acceptance", [0.0, 1.0, -0.1, np.nan])
def test_budget_must_be_a_fraction(acceptance):
    with pytest.raises(InputError, match=r"^acceptance=.*must be in \(0, 1\)"):
        BudgetEnvelope(acceptance)


def test_budget_needs_a_pilot_of_twenty_accepted_rows():
    # .003 needs 20/.003 = 6,666.7 proposals
    BudgetEnvelope(0.003, num_pilot=6667)
    with pytest.raises(InputError, match="fewer than 20") as caught:
        BudgetEnvelope(0.003, num_pilot=6666)
    assert caught.value.remedy == "raise it to 6667 or more"


def test_m_stays_where_an_envelope_has_no_margin():
    seen = pilot(np.arange(40.0), log_bound=50.0)
    for envelope in (FixedEnvelope(1.0), CertifiedEnvelope(), PilotEnvelope(), BudgetEnvelope(0.5, 40)):
        assert envelope.choose(seen).margin is None


def test_certified_envelope_is_the_bound_of_the_ratio():
    choice = CertifiedEnvelope().choose(pilot([9.0], log_bound=-0.25))
    assert (choice.log_m, choice.source) == (-0.25, "bound of the ratio")
    assert CertifiedEnvelope().choose(pilot([-np.inf], log_bound=0.0)).log_m == 0.0


def test_certified_envelope_needs_one():
    with pytest.raises(InputError, match=r"^kind=certified: the ratio has no known bound; use kind pilot"):
        CertifiedEnvelope().choose(pilot([1.0]))


def test_adaptive_envelope_begins_with_the_pilot():
    choice = AdaptiveEnvelope(margin=0.5).choose(pilot([-1.0, 2.0, -np.inf], exponentials=9.0))
    assert (choice.log_m, choice.margin) == (2.5, 0.5)
    assert choice.source == "estimate: largest ratio of everything drawn + 0.5"
    # a bound would make it certified; it is to adapt all the same
    assert AdaptiveEnvelope().choose(pilot([2.0], log_bound=9.0)).log_m == 2.0


@pytest.mark.parametrize("kind", [CertifiedEnvelope, PilotEnvelope, AdaptiveEnvelope])
def test_a_pilot_must_have_rows(kind):
    with pytest.raises(InputError, match=r"^num_pilot=0: must be positive"):
        kind(num_pilot=0)
