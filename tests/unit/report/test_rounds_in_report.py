"""The page and the lines of three rounds, and `--strict`."""

import json
import shutil
import sys

import jsonschema
import pytest
from seed_runs import CONFIG, report_round, seed_run_in, store_decision

from rsf_dist import cli
from rsf_dist.errors import StatisticalRefusal
from rsf_dist.report import report_json
from rsf_dist.report.html import write_html
from rsf_dist.report.schema import RatioEntry, report_schema
from rsf_dist.report.text import format_report
from rsf_dist.runs import pipeline
from rsf_dist.runs.pipeline import RunResult
from rsf_dist.storage.run_store import RunStore


def test_the_line_of_the_card_says_whose_it_is(three):
    _, report = three
    assert "on the cards of the others" not in format_report(report)
    told = format_report(report.model_copy(update={"seeds": [5, 6, 7], "red": [["bias"], [], ["bias", "tail"]]}))
    assert "the card above is that of seed 5; red on the cards of the others: seed 6: none; seed 7: bias, tail" in told


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with the record of three rounds."""
    seed_run = seed_run_in(tmp_path_factory.mktemp("three"), rounds=3)
    store_decision(seed_run, 2)
    for number in range(3):
        report_round(seed_run, number, last=number == 2, distance=0.9 - 0.4 * number)
    return seed_run.store.root


@pytest.fixture
def three(drawn, tmp_path):
    """A copy of that folder, and the merged record."""
    folder = tmp_path / "three"
    shutil.copytree(drawn, folder)
    return folder, report_json.merge([RunStore(folder)], [""])


@pytest.fixture(scope="module")
def shown(drawn, tmp_path_factory):
    """Another copy, with the page of the record as it is, and the page."""
    folder = shutil.copytree(drawn, tmp_path_factory.mktemp("shown") / "three")
    return folder, page_of(folder, report_json.merge([RunStore(folder)], [""]))


def page_of(folder, report):
    write_html(RunStore(folder), RunStore(folder), report)
    return (folder / "report.html").read_text()


def test_the_page_counts_the_rounds_before_the_last(three):
    folder, report = three
    assert "  2 rounds with " in page_of(folder, report)
    assert "  1 round with " in page_of(folder, report.model_copy(update={"rounds": report.rounds[1:]}))


def pictures(folder):
    for picture in folder.glob("figures/*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    return {picture.stem for picture in folder.glob("figures/*.png")}


def test_the_page_of_three_rounds(shown, three):
    (folder, page), (_, report) = shown, three
    assert {"movement", "rounds"} <= pictures(folder)
    assert "<h2>Rounds</h2>" in page
    for told in report.rounds:
        name = f"{told.round}, the last" if told.last else f"{told.round}"
        assert f"<tr><td>{name}</td><td>1,500</td>" in page
        assert f"<td>{told.ratio.quality.auc:.3f}</td>" in page
        assert f"<td>{100 * told.sampling.ess_fraction:.1f} %</td>" in page
    assert "How the proposal moved" in page
    assert "one row a round" in page
    assert "share of the target, by em" in page
    assert "<td>0.500</td><td>0.400 to 0.600</td>" in page


def test_the_page_tells_of_an_estimate_that_was_not_followed(shown, three):
    folder, report = three
    assert "stays as configured" not in shown[1]
    report.rounds[-1].class_prior.reason_kept = "the estimate collapsed"
    assert "The class prior stays as configured: the estimate collapsed." in page_of(folder, report)


def test_the_report_of_three_rounds_is_valid_by_its_schema(three):
    folder, report = three
    report_json.write(RunStore(folder), report)
    written = json.loads((folder / "report.json").read_text())
    jsonschema.validate(written, report_schema())
    assert written["rounds"][2]["ratio"]["quality"]["auc"] > 0.5
    assert written["rounds"][2]["class_prior"]["estimate"]["method"] == "em"


def test_the_lines_of_three_rounds(three):
    lines = format_report(three[1]).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["round 0", "round 1", "round 2", "trust"]


def test_the_page_of_one_round_has_no_table_of_rounds(tmp_path):
    seed_run = seed_run_in(tmp_path)
    report_round(seed_run, 0, last=True)
    page = page_of(tmp_path, report_json.merge([seed_run.store], [""]))
    assert "<h2>Rounds</h2>" not in page
    assert not {"movement", "rounds"} & pictures(tmp_path)


def test_rounds_of_rows_that_are_made_of_no_numbers(three):
    folder, report = three
    for told in report.rounds:
        told.parameters = {}
        told.ratio = RatioEntry(kind="VerifierRatio", log_bound=0.0)
        told.class_prior = None
    page = page_of(folder, report)
    assert "<h2>Rounds</h2>" in page
    assert "How the proposal moved" not in page
    assert "rounds" in pictures(folder)
    assert "movement" not in pictures(folder)


def test_images_of_a_round_that_were_lost_are_a_row_less(three):
    folder, report = three
    (folder / "figures" / "round-001.npz").write_bytes(b"cut")
    page_of(folder, report)
    fewer = (folder / "figures" / "rounds.png").read_bytes()
    (folder / "figures" / "round-000.npz").unlink()
    page_of(folder, report)
    assert len((folder / "figures" / "rounds.png").read_bytes()) < len(fewer)


@pytest.mark.parametrize("command", ["run", "sample", "compare"])
@pytest.mark.parametrize(
    ("found", "options", "red"),
    [
        ([["check 1", "check 2"]], ["--strict"], "the trust card is red: check 1, check 2; see "),
        ([[], ["check 2"], ["check 1", "check 2"]], ["--strict"], "the trust card is red: check 1, check 2; see "),
        ([["check 1", "check 2"]], [], None),
        ([[], []], ["--strict"], None),
    ],
)
def test_strict_refuses_a_red_check_of_any_seed(command, found, options, red, three, tmp_path, monkeypatch, capsys):
    folder, report = three
    changed = report.model_copy(update={"red": found, "seeds": list(range(len(found)))})
    result = RunResult(RunStore(folder), changed)
    for name in ("run", "sample"):
        monkeypatch.setattr(pipeline, name, lambda *_, **__: result)
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(CONFIG | {"evaluation": {"test": {"kind": "digits"}}}))
    monkeypatch.setattr(sys, "argv", ["rsf", command, str(path), *options])
    if red is None:
        cli.app(standalone_mode=False)
    else:
        with pytest.raises(StatisticalRefusal, match=red) as caught:
            cli.app(standalone_mode=False)
        assert caught.value.exit_code == 3
    assert "round 2: accepted" in capsys.readouterr().out  # what was made is shown all the same
