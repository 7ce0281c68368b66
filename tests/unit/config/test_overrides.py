"""Overrides on the command line, whose texts a shell has quoted once already."""

import pytest
import yaml

from rsf_dist.config.load import load_config, parse_text
from rsf_dist.errors import InputError

TEXT = yaml.safe_dump(
    {
        "output": "runs/one",
        "code_folder": "code",
        "source": {"kind": "digits"},
        "target": {"kind": "digits"},
        "sampling": {"num_accepted": 100},
        "ratio": {"kind": "reward", "score": "mine:bright"},
        "envelope": {"kind": "pilot"},
        "model": {"name": "mine:network"},
    }
)


def having(*overrides):
    return parse_text(TEXT, overrides)


@pytest.mark.parametrize(
    "text",
    [
        "runs/run #2",
        "#2",
        "runs: 3",
        "runs:",
        "@home",
        "*star",
        "&and",
        "%d",
        "!important",
        "`date`",
        "{a}",
        "{a",
        "[a]",
        "[a",
        "a, b",
        "- a",
        "? a",
        "| a",
        "> a",
        "a=b",
        "'a' and 'b'",
        '"a" b',
        "it's",
        "'",
        "yes",
        "null",
        "~",
        "3",
        "010",
        "1:30",
        "1e3",
        "2020-01-02",
        "2020-13-45",
        "ü 日本",
        "C:\\runs\\new",
        "s3://bucket/run?endpoint_override=x#y",
    ],
)
def test_a_text_is_taken_as_it_stands(text, tmp_path):
    assert having(f"output={text}").output == text
    file = tmp_path / "run.yaml"
    file.write_text(TEXT)
    assert load_config(file, [f"output={text}"]).output == text


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("source.root=/data/set #2", "source.root", "/data/set #2"),
        ("target.root=/data/{x}", "target.root", "/data/{x}"),
        ("model.weights=w #2.pt", "model.weights", "w #2.pt"),
        ("code_folder=my: code", "code_folder", "my: code"),
        ("source.split=test", "source.split", "test"),
        ("ratio.score=mine:dark", "ratio.score", "mine:dark"),
    ],
)
def test_every_key_that_only_takes_text_does_so(override, key, value):
    files = [f"{name}={{kind: idx, root: files}}" for name in ("source", "target")]
    config = having(*files, override)
    for part in key.split("."):
        config = getattr(config, part)
    assert config == value


def test_quotes_around_the_whole_text_are_taken_off():
    assert having("output='runs/a # b'").output == "runs/a # b"
    assert having('output="runs/\\u00fc"').output == "runs/ü"
    assert having("output='it''s'").output == "it's"
    assert having("output= runs/a ").output == "runs/a"


@pytest.mark.parametrize("text", ["null", "~", ""])
def test_null_is_no_text_where_a_key_may_be_left_out(text):
    assert having(f"code_folder={text}").code_folder is None
    assert having("code_folder='null'").code_folder == "null"


def test_below_options_a_text_is_whole_and_all_else_is_yaml():
    options = [f"model.options.{given}" for given in ("a=x #2", "b=3", "c=[1, 2]", "d='4'", "e={f: null}", "name=n #1")]
    assert having(*options).model.options == {
        "a": "x #2",
        "b": 3,
        "c": [1, 2],
        "d": "4",
        "e": {"f": None},
        "name": "n #1",
    }


def test_other_keys_are_read_as_yaml():
    config = having("seed=7 # as before", "training.use_gpu=yes", "source.classes=[a, 'b #1']", "source.size=[8, 9]")
    assert (config.seed, config.training.use_gpu) == (7, True)
    assert (config.source.classes, config.source.size) == (("a", "b #1"), (8, 9))


@pytest.mark.parametrize("override", ["output=", "output=''"])
def test_an_empty_text_is_refused(override):
    with pytest.raises(InputError, match=r"output=: must not be empty; give a text"):
        having(override)


def test_null_is_none_where_one_of_the_kinds_that_share_a_key_takes_it():
    table = {"kind": "table", "file": "rows.csv", "root": "images"}
    assert having(f"source={table}", "source.root=null").source.root is None
