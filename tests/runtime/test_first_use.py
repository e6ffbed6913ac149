"""Public names are found on first use, modules of other packages among them."""

from importlib import import_module

import pytest


def test_a_module_of_another_package_is_imported_when_it_is_asked_for(tmp_path, monkeypatch):
    for name in ("first_use_inner", "first_use_outer"):
        (tmp_path / name).mkdir()
    (tmp_path / "first_use_inner" / "__init__.py").write_text("X = 1\n")
    (tmp_path / "first_use_inner" / "part.py").write_text("Y = 2\n")
    (tmp_path / "first_use_outer" / "__init__.py").write_text(
        "from dsf.runtime.first_use import finding\n"
        "__getattr__, TYPE_CHECKING = finding(__name__), False\n"
        "if TYPE_CHECKING:\n"
        "    from first_use_inner import X, part as other\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import first_use_outer

    assert (first_use_outer.other.Y, first_use_outer.X) == (2, 1)
    with pytest.raises(AttributeError, match="nothing"):
        _ = first_use_outer.nothing


@pytest.mark.parametrize("name", ["certificates", "interventions", "measures"])
def test_a_package_offers_what_it_imports_as_itself(name):
    package = import_module(f"dsf.{name}")
    listed = package.__all__
    assert listed == sorted(set(listed))
    assert not {"finding", "public_names", "TYPE_CHECKING"} & set(listed)
    offered = {}
    exec(f"from dsf.{name} import *", offered)
    offered.pop("__builtins__")
    assert set(offered) == set(listed)
