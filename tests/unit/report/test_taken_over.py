"""The line of the report on what came from an earlier run."""

from records import entry_of, progress_of

from rsf_dist.report import report_json
from rsf_dist.report.html import write_html
from rsf_dist.report.text import format_report
from rsf_dist.storage.manifest import TakenOver
from rsf_dist.storage.run_store import RunStore

RATIO = TakenOver(run="runs/old", folder="", files=2, sha256="a")
ROWS = TakenOver(run="runs/old", folder="", files=3, sha256="b", round=0, chunks=4)


def merged(store):
    return report_json.merge([store], [""])


def test_the_report_says_in_a_line_what_came_from_where(tmp_path):
    store = RunStore(tmp_path)
    report_json.begin(store, seed=0)
    report_json.add_round(store, entry_of(last=True))
    assert merged(store).taken_over is None
    store.commit_round(0, progress_of(chunks=9))
    store.commit(lambda manifest: manifest.taken_over.update({"rounds/000/ratio": RATIO, "rounds/000/accepted": ROWS}))
    report = merged(store)
    line = "taken over from runs/old: rounds/000/ratio, rounds/000/accepted (4 of 9 chunks)"
    assert report.taken_over == line
    assert format_report(report).splitlines()[0] == line
    write_html(store, store, report)
    assert f"Stages {line}." in store.read("report.html").decode()


def test_the_seeds_and_one_shot_rejection_beside_the_rounds_are_told_too(tmp_path):
    """The first seed has nothing; of two others the rows differ."""
    stores = [RunStore(tmp_path / name) for name in ("000", "001", "002")]
    for seed, store in enumerate(stores):
        report_json.begin(store, seed)
        report_json.add_round(store, entry_of(last=True))
    folders = ["seeds/000", "seeds/001", "seeds/002"]
    for store, chunks in zip(stores[1:], (9, 5), strict=True):
        store.commit_round(0, progress_of(chunks=chunks))
        both = {"rounds/000/ratio": RATIO, "rounds/000/accepted": ROWS}
        store.commit(lambda manifest, both=both: manifest.taken_over.update(both))
    for store in stores:
        store.at("one_shot").commit(lambda manifest: manifest.taken_over.update({"rounds/000/ratio": RATIO}))
    assert report_json.merge(stores, folders).taken_over == (
        "taken over from runs/old: one_shot/rounds/000/ratio, rounds/000/ratio of seeds 1 and 2, "
        "rounds/000/accepted (4 of 9 chunks) of seed 1, rounds/000/accepted (4 of 5 chunks) of seed 2"
    )
