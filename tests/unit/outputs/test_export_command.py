"""`rsf export` as it is typed."""

import json

from stored_runs import stored_run

from rsf_dist.commands.export import Format
from rsf_dist.data.export import WRITERS


def test_the_result_goes_to_standard_output(tmp_path, rsf_here):
    config = stored_run(tmp_path, seeds=2)
    done = rsf_here("export", config.output, "--seed", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"20 rows of seed 1, round 0: {config.output}-folder\n"
    done = rsf_here("export", config.output, "--format", "parquet", "--output", tmp_path / "out", "--json")
    told = json.loads(done.stdout)
    assert (told["num_rows"], told["seed"], told["fingerprint"]) == (20, 0, "f")
    assert (tmp_path / "out" / "rows.parquet").exists()


def test_what_does_not_fit_is_one_line_and_exit_code_2(tmp_path, rsf_here):
    config = stored_run(tmp_path)
    for words, told in [
        (["--format", "coco"], "error: --format=coco: cannot hold this run's rows, which have one label each;"),
        (["--format", "zip"], "'zip' is not one of"),
        (["--round", -1], "greater than or equal to 0"),
        (["--seed", 9], "error: --seed=9: "),
    ]:
        done = rsf_here("export", config.output, *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert told in done.stderr


def test_every_writer_is_a_format_of_the_command():
    assert [member.value for member in Format] == list(WRITERS)
