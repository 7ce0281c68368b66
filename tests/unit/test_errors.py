import pickle

import pytest

from rsf_dist.errors import ClusterFailure, InputError, RsfError, StatisticalRefusal


def input_error():
    return InputError("sampling.num_accepted", -3, "must be positive", "ask for at least one row")


def test_input_error_says_field_value_rule_and_remedy():
    assert str(input_error()) == "sampling.num_accepted=-3: must be positive; ask for at least one row"


def test_refusal_says_finding_and_remedy():
    assert str(StatisticalRefusal("nothing accepted", "lower log M")) == "nothing accepted; lower log M"


def test_a_long_value_is_cut_and_stays_on_one_line():
    text = str(InputError("field", "a\nb " + 500 * "x", "rule", "remedy"))
    assert "\n" not in text
    assert text.startswith("field=a b xxx")
    # 120 characters of the value, the last of them the ellipsis, then ": rule; remedy"
    assert len(text) == len("field=") + 120 + len(": rule; remedy")
    assert "…: rule; remedy" in text


def test_exit_codes():
    codes = RsfError.exit_code, InputError.exit_code, StatisticalRefusal.exit_code
    assert codes == (1, 2, 3)


@pytest.mark.parametrize("error", [input_error(), StatisticalRefusal("finding", "remedy"), ClusterFailure("gone")])
def test_pickling_keeps_type_text_and_parts(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("error", [input_error(), StatisticalRefusal("finding", "remedy")])
def test_what_ray_appends_on_the_way_does_not_arrive(error):
    text = str(error)
    error.args = (f"{error.args[0]}\nFailed to apply UDF transform after 1/1 attempts.", *error.args[1:])
    assert str(pickle.loads(pickle.dumps(error))) == text


def test_what_would_steer_a_terminal_is_not_printed():
    text = str(InputError("output\x07", "\x1b[2Jx\0", "is\u202e none", "correct it"))
    assert text == "output\ufffd=\ufffd[2Jx\ufffd: is\ufffd none; correct it"
