"""Public names are found on first use, modules of other packages among them."""

import pytest

from dsf.runtime.first_use import public_names


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


def test_a_package_offers_what_it_imports_as_itself_and_a_module_what_it_lists():
    from dsf import certificates, interventions, testing

    assert {"causal", "Verdict"} <= set(public_names(certificates))
    assert "finding" not in public_names(interventions)
    assert public_names(testing) == testing.__all__
