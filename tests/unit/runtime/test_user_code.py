import sys

import pytest

from rsf_dist.errors import InputError, StatisticalRefusal
from rsf_dist.runtime import user_code

MODULE = """
from rsf_dist.errors import InputError, StatisticalRefusal

NUMBER = 3

class Thing:
    def __init__(self, size=1):
        self.size = size

def divide(by):
    return 1 / by

def picky(width):
    raise InputError("width", width, "is even", "make it odd")

def hopeless():
    raise StatisticalRefusal("nothing can be learned", "give more rows")

def named(**options):
    return options
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with modules of one's own, which later tests know nothing of."""
    (tmp_path / "my_things.py").write_text(MODULE)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "inner.py").write_text("class Deep:\n    pass\n")
    (tmp_path / "my_broken.py").write_text("raise RuntimeError('two\\nlines')\n")
    (tmp_path / "my_typo.py").write_text("import no_such_package_at_all\n")
    (tmp_path / "my_syntax.py").write_text("def (:\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    user_code.allow_folder(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def refusal(path, **options):
    with pytest.raises(InputError) as caught:
        user_code.call(path, "ratio.factory", {}, options)
    assert "\n" not in str(caught.value)
    assert (caught.value.field, caught.value.value) == ("ratio.factory", path)
    assert caught.value.remedy
    return caught.value.rule


def test_what_is_installed_can_be_named():
    assert user_code.load("math:sqrt", "field")(9) == 3


def test_what_lies_in_the_folder_can_be_named(folder):
    assert user_code.call("my_things:Thing", "field", {"size": 4}, {}).size == 4
    assert user_code.load("my_package.inner:Deep", "field").__name__ == "Deep"


def test_the_folder_comes_after_everything_that_is_installed(folder):
    (folder / "json.py").write_text("def dumps():\n    return 'mine'\n")
    user_code.allow_folder(folder)
    assert sys.path[-1] == str(folder)
    assert sys.path.count(str(folder)) == 1
    assert user_code.load("json:dumps", "field")([]) == "[]"


def test_modules_of_the_folder_are_known(folder):
    assert user_code.imported_from(folder) == []
    user_code.load("my_package.inner:Deep", "field")
    found = {module.__name__ for module in user_code.imported_from(folder)}
    assert found == {"my_package", "my_package.inner"}
    assert user_code.imported_from(folder / "elsewhere") == []


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file.py").write_text("")
    for path in (tmp_path / "absent", tmp_path / "file.py"):
        with pytest.raises(InputError, match="is not a folder") as caught:
            user_code.allow_folder(path)
        assert caught.value.field == "code_folder"
        assert str(path) not in sys.path


@pytest.mark.parametrize("path", ["my_things", "my_things:", ":Thing", "", ":"])
def test_what_is_no_import_path(path):
    assert refusal(path) == "is no import path"


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("my_absent:Thing", "cannot be imported (ModuleNotFoundError: No module named 'my_absent')"),
        ("my_package.absent:Thing", "cannot be imported (ModuleNotFoundError"),
        ("my_broken:Thing", "cannot be imported (RuntimeError: two"),
        ("my_typo:Thing", "No module named 'no_such_package_at_all'"),
        ("my_syntax:Thing", "cannot be imported (SyntaxError"),
        ("my_things:Thin", "has no class or function Thin"),
        ("my_things:NUMBER", "has no class or function NUMBER"),
        ("sys:maxsize", "sys (built in) has no class or function maxsize"),
        (".my_things:Thing", "cannot be imported (TypeError"),
    ],
)
def test_paths_that_name_nothing(folder, path, rule):
    assert rule in refusal(path)


def test_a_missing_name_says_which_file_was_looked_at(folder):
    assert str(folder / "my_things.py") in refusal("my_things:Thin")


def test_arguments_that_are_refused(folder):
    assert "unexpected keyword argument 'colour'" in refusal("my_things:Thing", colour="red")
    assert "(ZeroDivisionError: division by zero)" in refusal("my_things:divide", by=0)
    assert user_code.call("my_things:divide", "field", {}, {"by": 4}) == 0.25


def test_an_error_message_of_the_users_own_is_passed_on(folder):
    with pytest.raises(InputError, match=r"width=4: is even; make it odd"):
        user_code.call("my_things:picky", "ratio.factory", {"width": 4}, {})


def test_a_statistical_refusal_of_ones_own_is_passed_on(folder):
    with pytest.raises(StatisticalRefusal, match="nothing can be learned"):
        user_code.call("my_things:hopeless", "ratio.factory", {}, {})


@pytest.mark.parametrize("name", ["path", "field", "given", "options"])
def test_options_may_have_any_name(folder, name):
    options = {name: "weights.pt"}
    assert user_code.call("my_things:named", "ratio.factory", {"seed": 1}, options) == {"seed": 1, **options}


def test_an_option_that_is_given_already_is_refused(folder):
    with pytest.raises(InputError, match=r"my_things:named: is given seed already; leave it out of the options"):
        user_code.call("my_things:named", "ratio.factory", {"seed": 1}, {"seed": 2})


def test_a_module_that_exits_at_import(folder):
    (folder / "my_script.py").write_text("import sys\nsys.exit(0)\n")
    assert "cannot be imported (SystemExit" in refusal("my_script:Thing")
