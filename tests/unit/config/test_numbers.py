"""Numbers as people write them in YAML: as meant, or refused with what to write."""

import pytest

from rsf_dist.config import safe_yaml
from rsf_dist.config.load import parse_text
from rsf_dist.errors import InputError

BASE = "output: x\nsource: {kind: digits}\ntarget: {kind: digits}\nsampling: {num_accepted: 1}\n"


def trained(text):
    return parse_text(f"{BASE}training: {{{text}}}\n").training


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("10", 10),
        ("1_000", 1000),
        ("+5", 5),
        ("0x10", 16),
        ("0b11", 3),
        ("05", 5),
        ("08", 8),
        ("007", 7),
        ("'10'", 10),
        ("3.0", 3),
    ],
)
def test_an_integer_is_what_is_meant(text, steps):
    assert trained(f"steps: {text}").steps == steps


@pytest.mark.parametrize(
    ("text", "rate"), [("1e-3", 0.001), (".5", 0.5), ("+.5", 0.5), ("5.e-1", 0.5), ("1E-3", 0.001), ("'0.5'", 0.5)]
)
def test_a_number_is_what_is_meant(text, rate):
    assert trained(f"learning_rate: {text}").learning_rate == rate


@pytest.mark.parametrize(
    ("text", "rule", "remedy"),
    [
        ("010", "YAML reads 010 as 8 (octal)", "write 10 or 8, or put a text in quotes"),
        ("-010", "YAML reads -010 as -8 (octal)", "write -10 or -8, or put a text in quotes"),
        ("0_10", "YAML reads 0_10 as 8 (octal)", "write 10 or 8, or put a text in quotes"),
        ("1:30", "YAML reads 1:30 as 90 (base 60)", "write 90, or put a text in quotes"),
        ("1:30.5", "YAML reads 1:30.5 as 90.5 (base 60)", "write 90.5, or put a text in quotes"),
        ("1:00:00", "YAML reads 1:00:00 as 3600 (base 60)", "write 3600, or put a text in quotes"),
    ],
)
@pytest.mark.parametrize(
    "place", ["training: {{steps: {}}}", "model: {{options: {{a: {}}}}}", "data: {{classes: [{}]}}"]
)
def test_a_number_that_yaml_reads_in_its_own_way_is_refused_anywhere(text, rule, remedy, place):
    with pytest.raises(InputError) as caught:
        parse_text(BASE + place.format(text))
    assert (caught.value.field, caught.value.rule, caught.value.remedy) == ("config", f"line 5: {rule}", remedy)
    with pytest.raises(InputError) as caught:
        parse_text(BASE, [f"seed={text}"])
    assert (caught.value.field, caught.value.rule, caught.value.remedy) == ("override", rule, remedy)
    assert parse_text(f"{BASE}code_folder: '{text}'\n").code_folder == text


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("steps: 1e3", "write 1000"),
        ("steps: 2.5", "write 2 or 3"),
        ("steps: [3]", "write 3"),
        ("steps: 1 000", "write 1000"),
        ("steps: 1k", "write digits alone, e.g. 100"),
        ("steps: .inf", "give a finite number"),
        ("steps: 2020-01-02", "write digits alone, e.g. 100"),
        ("steps:", "give a value, or leave the key out"),
        ("steps: yes", 'write the value itself, a word in quotes, e.g. "yes"'),
        ("learning_rate: 5 %", "write 0.05"),
        ("learning_rate: '0,5'", "write e.g. 0.5"),
        ("learning_rate: .inf", "give a finite number"),
        ("learning_rate: -inf", "give a finite number"),
        ("learning_rate: .nan", "give a finite number"),
        ("learning_rate: 1e400", "give a finite number"),
        ("learning_rate: fast", "write e.g. 0.5"),
    ],
)
def test_what_is_no_such_number_is_refused_with_what_to_write(text, remedy):
    with pytest.raises(InputError) as caught:
        trained(text)
    assert caught.value.remedy == remedy


@pytest.mark.parametrize("key", ["source", "model"])
def test_one_number_is_the_side_of_a_square(key):
    name = {"source": "size", "model": "input_size"}[key]
    config = parse_text(BASE, [f"{key}.{name}=224"])
    assert getattr(getattr(config, key), name) == (224, 224)
    assert config == parse_text(BASE, [f"{key}.{name}=[224, 224]"])
    assert parse_text(BASE, ["data.size=8"]).target.size == (8, 8)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("[224]", "write [height, width]"),
        ("[1, 2, 3]", "write [height, width]"),
        ("224x224", "write [height, width]"),
        ("2.5", "write 2 or 3"),
        ("0", "give a larger number"),
    ],
)
def test_a_size_that_is_none_is_refused_with_its_form(text, remedy):
    with pytest.raises(InputError) as caught:
        parse_text(BASE, [f"source.size={text}"])
    assert caught.value.field.startswith("source.size")
    assert caught.value.remedy == remedy


@pytest.mark.parametrize(
    ("key", "text", "quoted"),
    [
        ("data.classes.0", "data: {classes: [0, 1]}", '"0"'),
        ("data.classes.1", "data: {classes: [a, 1.5]}", '"1.5"'),
        ("code_folder", "code_folder: 2020-01-02", '"2020-01-02"'),
        ("code_folder", "code_folder: 3", '"3"'),
    ],
)
def test_a_number_or_date_in_place_of_a_text_is_to_be_quoted(key, text, quoted):
    with pytest.raises(InputError) as caught:
        parse_text(BASE + text)
    assert (caught.value.field, caught.value.rule) == (key, "must be text")
    assert caught.value.remedy == f"put it in quotes, {quoted}"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("training: {{learning_rate: {}}}", "training.learning_rate"),
        ("training: {{steps: {}}}", "training.steps"),
        ("training: {{steps: [{}]}}", "training.steps"),
        ("training: {{steps: '{}.5'}}", "training.steps"),
        ("data: {{size: {}}}", "data.size"),
        ("proposal: {{parameters: {{rotation: [0, {}]}}}}", "proposal.parameters.rotation"),
        ("proposal: {{parameters: {{rotation: {}}}}}", "proposal.parameters.rotation"),
        ("proposal: {{parameters: {{rotation: {{uniform: [0, {}]}}}}}}", "proposal.parameters.rotation.uniform.1"),
    ],
)
def test_a_number_that_no_float_can_be_is_refused(text, field):
    with pytest.raises(InputError) as caught:
        parse_text(BASE + text.format(10**400))
    assert caught.value.field == field


def test_a_set_is_refused_because_its_order_changes_from_process_to_process():
    with pytest.raises(InputError, match=r"must not be a set, whose items have no order; write a list, \[a, b\]"):
        parse_text(BASE + "data: {classes: !!set {a, b}}")


def test_a_fault_of_syntax_is_told_with_its_line():
    with pytest.raises(InputError, match=r"'@' that cannot start any token at line 5, column 14.*put a text in quotes"):
        parse_text(BASE + "code_folder: @x")


def test_what_windows_editors_add_is_passed_over():
    text = "\ufeff" + BASE.replace("\n", "\r\n")
    assert parse_text(text) == parse_text(BASE)


def test_a_number_that_is_not_a_number_is_read():
    assert safe_yaml.read("[.inf, -.inf, 0, 00, 0.5]") == [float("inf"), float("-inf"), 0, 0, 0.5]
    assert safe_yaml.read(".nan") != safe_yaml.read(".nan")
