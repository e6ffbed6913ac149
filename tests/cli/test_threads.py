"""How many threads a command computes with: one, or all for large work, or what the user says."""

import pytest
import torch
import typer

from dsf.cli import command as threads
from dsf.cli.entry import app
from dsf.jobs import prompts

COMMANDS = typer.main.get_command(app).commands
EVERY = 3
PAGE = ("demo", "--playground", "delta_net")


@pytest.fixture(autouse=True)
def every(monkeypatch):
    """As many threads as no machine of ours takes by itself, and no wish of the user."""
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(EVERY)
    yield
    assert torch.get_num_threads() == EVERY
    torch.set_num_threads(before)


@pytest.fixture
def used(run, checkpoint, monkeypatch, only_object):
    """The threads that an inspection of two tokens computes on, by where they are counted."""
    from dsf.cli import run_model

    inside = []
    inspect = run_model.inspect

    def counted(*given, **settings):
        inside.append(torch.get_num_threads())
        return inspect(*given, **settings)

    monkeypatch.setattr(run_model, "inspect", counted)

    def call(*options):
        done = run("inspect", checkpoint, "--ids", "1 2", "--json", *options)
        assert done.exit_code == 0, done.output
        assert [only_object(done.stdout)["threads"]] == inside[-1:]
        return inside[-1]

    return call


def test_small_work_is_done_on_one_thread(used):
    assert used() == 1


def test_large_work_is_done_on_all(used, checkpoint, monkeypatch):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
    work = 2 * sum(part.numel() for part in model.parameters())
    monkeypatch.setattr(threads, "SMALL_WORK", work)
    assert used() == 1
    monkeypatch.setattr(threads, "SMALL_WORK", work - 1)
    assert used() == EVERY


@pytest.mark.parametrize("large", [False, True])
def test_what_the_user_says_wins_and_the_option_over_the_environment(used, monkeypatch, large):
    if large:
        monkeypatch.setattr(threads, "SMALL_WORK", 0)
    monkeypatch.setenv(threads.VARIABLE, "4,2")
    assert used() == 4
    assert used("--threads", 2) == 2
    monkeypatch.setenv(threads.VARIABLE, "")
    assert used("--threads", 2) == 2
    assert used() == (EVERY if large else 1)


@pytest.mark.parametrize("typed", ["0", "-1", "two", "1.5", "", "20000"])
def test_a_number_that_is_none_is_refused_before_any_work(run, monkeypatch, typed):
    """Of 20,000 threads the system starts none, and torch crashes without a word."""
    monkeypatch.setattr(threads, "held_back", pytest.fail)
    for name in COMMANDS:
        done = run(name, "--threads", typed, *["x"] * 2)
        assert done.exit_code == 2
        assert "--threads" in done.stderr


@pytest.mark.parametrize("said", ["0", "-1", "two", ",2", "20000"])
def test_an_environment_that_says_nothing_is_refused(run, monkeypatch, said):
    monkeypatch.setenv(threads.VARIABLE, said)
    done = run(*PAGE)
    assert done.exit_code == 2
    assert threads.VARIABLE in done.stderr
    assert run(*PAGE, "--threads", 1).exit_code == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_option_and_its_help_says_so(run, name):
    shown = " ".join(run(name, "--help").output.split())
    assert "--threads N" in shown
    assert threads.VARIABLE in shown


@pytest.mark.parametrize(
    "arguments", [PAGE, ("doctor",), ("inspect", "--dry-run", "{checkpoint}")], ids=str
)
def test_every_command_says_what_it_used(run, checkpoint, only_object, arguments):
    given = [part.format(checkpoint=checkpoint) for part in arguments]
    for options, expected in (((), 1), (("--threads", 2), 2)):
        done = run(*given, "--json", *options)
        assert only_object(done.stdout)["threads"] == expected


def test_an_error_leaves_the_number_as_it_was(run):
    assert run("inspect", "/no/such/folder", "--ids", "1").exit_code == 2
    assert torch.get_num_threads() == EVERY


@pytest.mark.parametrize(("options", "expected"), [((), 1), (("--threads", 2), 2)])
def test_every_unit_of_a_job_is_measured_on_that_many(
    run, checkpoint, tmp_path, monkeypatch, options, expected
):
    inside, measure = [], prompts._measure

    def counted(*given):
        inside.append(torch.get_num_threads())
        measure(*given)

    monkeypatch.setattr(prompts, "_measure", counted)
    (tmp_path / "prompts.txt").write_text("1 2\n1 2 3\n")
    done = run("measure", checkpoint, "prompts.txt", "--ids", *options)
    assert done.exit_code == 0, done.output
    assert inside == [expected] * 2


def test_the_doctor_says_what_commands_take(run, monkeypatch, only_object):
    def told():
        found = only_object(run("doctor", "--json").stdout)["findings"]
        (row,) = [each["found"] for each in found if each["what"] == "threads"]
        return row

    assert told().startswith(f"1, for a large model {EVERY}, on ")
    monkeypatch.setenv(threads.VARIABLE, "2")
    assert told().startswith("2, as asked for, on ")
