import pickle

import pytest

from rsf_dist.errors import ClusterFailure, InputError, RsfError, StatisticalRefusal, located


def input_error():
    return InputError("sampling.num_accepted", -3, "must be positive", "ask for at least one row")


def of_file():
    return InputError("a/b.png", "(no file)", "is not a readable image", "fix or remove it", absolute=True)


def field_after(error, *sections):
    """The field of an error that leaves a block for each of these sections, the innermost first."""
    for section in sections:
        with pytest.raises(InputError) as caught, located(section):
            raise error
        assert caught.value is error
    return error.field


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


@pytest.mark.parametrize(
    "error", [input_error(), of_file(), StatisticalRefusal("finding", "remedy"), ClusterFailure("gone")]
)
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


def test_blocks_put_the_place_of_a_thing_in_front_of_its_key():
    assert field_after(InputError("name", "resnet19", "no such network", "use another"), "network", "ratio") == (
        "ratio.network.name"
    )


def test_an_error_of_the_thing_itself_names_the_place_alone():
    error = InputError("", "Mine", "fails", "fix it")
    assert str(error) == "Mine: fails; fix it"
    assert field_after(error, "factors.1", "ratio") == "ratio.factors.1"
    assert str(error) == "ratio.factors.1=Mine: fails; fix it"


def test_a_block_without_a_section_adds_nothing():
    assert field_after(input_error(), "") == "sampling.num_accepted"


def test_a_file_or_a_column_needs_no_place():
    assert field_after(of_file(), "source") == "a/b.png"
    assert field_after(pickle.loads(pickle.dumps(of_file())), "source") == "a/b.png"


def test_a_place_survives_pickling():
    error = InputError("name", 1, "rule", "remedy")
    field_after(error, "model")
    assert field_after(pickle.loads(pickle.dumps(error)), "arms") == "arms.model.name"


def test_blocks_leave_other_errors_alone():
    with pytest.raises(StatisticalRefusal, match=r"^finding; remedy$"), located("ratio"):
        raise StatisticalRefusal("finding", "remedy")


def test_blocks_extend_the_key_of_a_refusal():
    with pytest.raises(StatisticalRefusal) as caught, located("ratio"), located("optimizer"):
        raise StatisticalRefusal("the loss is not finite", "lower {key}", key="learning_rate")
    assert str(caught.value) == "the loss is not finite; lower ratio.optimizer.learning_rate"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_whole_place_is_not_extended():
    with pytest.raises(StatisticalRefusal) as caught, located("envelope"), located("rounds", absolute=True):
        raise StatisticalRefusal("out of reach", "lower {key}", key="acceptance")
    assert str(caught.value) == "out of reach; lower rounds.acceptance"
    with pytest.raises(InputError) as wrong, located("envelope"), located("rounds", absolute=True):
        raise InputError("acceptance", 2, "must be in (0, 1)", "give a fraction")
    assert wrong.value.field == "rounds.acceptance"
