"""The report for a terminal."""

from records import entry_of, evaluation_of

from rsf_dist.report.arm_texts import ARMS
from rsf_dist.report.schema import Check, Report
from rsf_dist.report.text import format_report

TRUST = [Check("bias of capping", "eps 0", "green", "no bias", "green up to 0.05")]


def report_of(evaluation) -> Report:
    return Report(
        versions={}, seeds=[0, 1], red=[[], []], rounds=[entry_of(last=True, trust=TRUST)], evaluation=evaluation
    )


def test_each_arm_has_a_line_of_its_own_that_needs_no_other():
    """Adaptive .7 closes half of the gap from random .5 to oracle .9; the sd of .6 and .8 is .141."""
    arms = {"pretrained": [0.3, 0.3], "random": [0.5, 0.5], "adaptive": [0.6, 0.8], "oracle": [0.9, 0.9]}
    lines = format_report(report_of(evaluation_of(arms, gap_closed={"adaptive": 0.5}))).splitlines()
    start = lines.index("target accuracy on 100 test images, by arm")
    table = lines[start + 1 : start + 5]
    assert [line.strip().partition(" 0.")[0].strip() for line in table] == [ARMS[arm].label for arm in arms]
    assert len({line.index(" 0.") for line in table}) == 1  # the numbers are in a column
    assert table[2].endswith(" 0.700    50% of the gap   sd 0.141 over seeds 0.600, 0.800")
    for text in ARMS.values():
        assert not {"that", "these", "its", "it"} & set(text.label.replace(",", "").split())


def test_without_an_evaluation_there_is_no_table():
    text = format_report(report_of(None))
    assert "test images" not in text
    assert text.splitlines()[-1] == "the card above is that of seed 0; red on the cards of the others: seed 1: none"
