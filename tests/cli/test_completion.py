"""Completion for the shell: commands and options, found without anything heavy."""

import pytest


@pytest.mark.parametrize(("typed", "offered"), [("dsf in", "inspect"), ("dsf demo --js", "--json")])
def test_the_shell_completes(run_alone, typed, offered, monkeypatch):
    monkeypatch.setenv("_DSF_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert offered in run_alone("-c", "from dsf.cli import main; main([])").stdout.split()
