"""`rsf predict` as it is typed."""

import json

import torch
from stored_runs import class_folders, stored_run

from rsf_dist.config.model import ModelConfig
from rsf_dist.models.networks import ExpectedImages
from rsf_dist.models.spec import NetworkSpec, save_network
from rsf_dist.storage.run_store import RunStore

SPEC = NetworkSpec(ModelConfig(width=4), 2, 3, ("cat", "dog"), ExpectedImages((10, 12)))


def run_with_models(folder, seeds):
    """A finished run, whose seeds' models always say one class: cat, dog, …"""
    config = stored_run(folder, seeds=seeds, seed=4)
    for number in range(seeds):
        network = SPEC.build(seed=number)
        with torch.no_grad():
            network.head.weight.zero_()
            network.head.bias[number] = 5.0
        store = RunStore(config.output)
        store.at(f"seeds/{number:03d}" if seeds > 1 else "").commit_folder(
            "", lambda scratch, network=network: save_network(network, SPEC, scratch)
        )
    return config.output


def test_the_result_goes_to_standard_output_and_the_rest_to_standard_error(tmp_path, rsf_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_with_models(tmp_path, seeds=2)
    done = rsf_here("predict", run, tmp_path / "source")
    assert done.returncode == 0
    assert done.stdout == "8 images: cat 8\naccuracy 0.500 on 8 labelled images\npredictions: " + str(
        tmp_path / "source-predictions\n"
    )
    assert "predicting 8 images on the CPU" in done.stderr
    done = rsf_here("predict", run, tmp_path / "source", "limit=2", "--seed", 5, "--output", "five", "--json")
    told = json.loads(done.stdout)
    assert (told["num_images"], told["counts"], told["accuracy"]) == (2, {"dog": 2}, 0.5)
    assert (tmp_path / "five" / "predictions.csv").exists()
    done = rsf_here("predict", run, tmp_path / "source", "--output", "six", "--seed", 6)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: seed=6: is no seed of this run, whose seeds are 4, 5; name one of these\n"


def test_options_that_do_not_fit_are_one_line_and_exit_code_2(tmp_path, rsf_here):
    run = run_with_models(tmp_path, seeds=1)
    class_folders(tmp_path / "photos")
    for words in (["--batch-size", 0], ["--format", "xml"], ["--output", tmp_path / "photos"], ["limit=-1"]):
        done = rsf_here("predict", run, tmp_path / "photos", *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
