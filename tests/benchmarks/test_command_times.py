"""Times of the whole command: one small shape, what is missing alone, limits and failures."""

import json
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')

from typer.testing import CliRunner

from benchmarks import command_times, real_shapes
from benchmarks.command_times import Case, Failed, command, main, waiting
from dsf.cli.entry import app

SMALL = {"vocab_size": 30000, "n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 30}


class Commands:
    """Takes the place of processes: runs the command in this one and remembers what it was given.

    Attributes:
        calls: the options that tell the commands apart.
        answer: changes what comes back, by the number of the call.
    """

    def __init__(self):
        self.calls, self.answer = [], lambda _, done: done

    def __call__(self, asked, *, timeout, **given):
        assert asked[1:3] == ["-m", "dsf"]
        assert given == {"capture_output": True, "text": True, "check": False}
        self.calls.append((len(asked[asked.index("--ids") + 1].split()), "--out" in asked))
        if not timeout:
            raise subprocess.TimeoutExpired(asked, timeout)
        done = CliRunner().invoke(app, asked[3:])
        ended = subprocess.CompletedProcess(asked, done.exit_code, done.stdout, done.stderr)
        return self.answer(len(self.calls), ended)


@pytest.fixture
def commands(monkeypatch, tmp_path):
    monkeypatch.setattr(real_shapes, "SHAPES", {"small": ("GPT2LMHeadModel", SMALL)})
    monkeypatch.setattr(command_times, "TOKENS", (6, 12))
    monkeypatch.setattr(command_times, "RECORD", tmp_path / "times.json")
    monkeypatch.setattr(command_times, "PAGE", tmp_path / "times.md")
    made = Commands()
    monkeypatch.setattr(command_times.subprocess, "run", made)
    return made


def told():
    return command_times.PAGE.read_text(encoding="utf-8")


def recorded():
    return json.loads(command_times.RECORD.read_text(encoding="utf-8"))


def test_every_case_is_timed_once_and_never_again(commands):
    known = []

    def look(count, done):
        if count > 3:
            known.append(len(recorded()["shapes"]["small"]["6"]))
        return done

    commands.answer = look
    main(["--threads", "1"])
    assert known == [2, 3, 3]  # each case was written before the next one
    assert commands.calls == [(8, False)] * 2 + [(6, False), (6, True), (12, False), (12, True)]
    times = recorded()["shapes"]["small"]
    assert set(times) == {"start", "6", "12"}
    assert all(times[tokens][kind] > 0 for tokens in ("6", "12") for kind in times["6"])
    assert "not timed |" not in told()
    first = times["6"]
    after = first["with_report"] - times["start"]
    assert f"{after:.1f} s, ×{after / first['forward']:.1f} |" in told()
    main(["--threads", "1"])
    assert len(commands.calls) == 6


def test_without_minutes_the_page_alone_is_written(commands):
    main(["--minutes", "0"])
    assert commands.calls == []
    assert not command_times.RECORD.exists()
    assert "| small | 12 |" + " not timed |" * 6 in told()


def test_what_the_limit_cuts_off_is_not_timed_and_comes_next(commands, monkeypatch):
    real = command_times.Clock.left
    monkeypatch.setattr(
        command_times.Clock, "left", lambda clock: real(clock) * (len(commands.calls) < 3)
    )
    main(["--threads", "1"])
    assert commands.calls == [(8, False)] * 2 + [(6, False)]
    assert told().count("not timed |") == 2 + 5
    monkeypatch.setattr(command_times.Clock, "left", real)
    main(["--threads", "1"])
    assert commands.calls[3:] == [(6, True), (12, False), (12, True)]
    assert "not timed |" not in told()


@pytest.mark.usefixtures("commands")
def test_a_command_that_is_stopped_leaves_no_time(tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        command(tmp_path, [1], report=False, threads=1, most=0.0)


def test_a_command_that_compiles_runs_again(commands, tmp_path):
    place = command_times.Folders(tmp_path).smallest("small")
    warned = command_times.COMPILES + " for this processor"

    def first_compiles(count, done):
        done.stderr = warned if count == 1 else ""
        return done

    commands.answer = first_compiles
    command(place, [1, 2], report=False, threads=1, most=60)
    assert len(commands.calls) == 2


def test_the_warning_is_the_one_that_is_looked_for():
    words = Path(command_times.ROOT / "dsf/systems/kernels/compiling.py").read_text("utf-8")
    assert command_times.COMPILES in words


def test_a_failure_is_told_and_the_rest_goes_on(commands, capsys):
    def third_fails(count, done):
        done.returncode = 3 if count == 3 else done.returncode
        return done

    commands.answer = third_fails
    with pytest.raises(SystemExit, match="1 of the commands"):
        main(["--threads", "1"])
    assert "small, 6 tokens, no report: exit code 3" in capsys.readouterr().err
    assert told().count("not timed |") == 2
    assert set(recorded()["shapes"]["small"]["6"]) == {"forward", "with_report"}


@pytest.mark.parametrize(
    ("facts", "reason"),
    [({"threads": 7}, "7 threads"), ({"unsupported": ["head"]}, "did not read")],
)
def test_another_command_than_asked_for_is_not_timed(commands, tmp_path, facts, reason):
    def other(_, done):
        done.stdout = json.dumps({**json.loads(done.stdout), **facts})
        return done

    commands.answer = other
    place = command_times.Folders(tmp_path).smallest("small")
    with pytest.raises(Failed, match=reason):
        command(place, [1, 2], report=False, threads=1, most=60)


@pytest.mark.usefixtures("commands")
def test_figures_of_two_machines_are_not_mixed():
    command_times.RECORD.write_text(json.dumps({"facts": {"torch": "1.0"}, "shapes": {}}))
    with pytest.raises(ValueError, match=r"times\.json"):
        main(["--threads", "1"])


@pytest.mark.usefixtures("commands")
def test_an_unknown_shape_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["large"])
    assert "['large'] are no shapes. There are ['small']" in capsys.readouterr().err


def test_short_ones_come_first_and_the_fast_before_the_slow():
    known = {"slow": {"start": 1.0, "128": {"forward": 1.0, "without_report": 9.0}}}
    order = waiting(["slow", "fast"], known)
    assert order[:3] == [
        Case("fast", 128, report=False),
        Case("fast", 128, report=True),
        Case("slow", 128, report=True),
    ]
    assert [case.tokens for case in order] == [128] * 3 + [512] * 4 + [2048] * 4


def test_every_shape_has_a_smallest_model():
    for name, settings in real_shapes.SHAPES.values():
        model = real_shapes.built(name, {**settings, **command_times.SMALLEST[name]})
        assert sum(part.numel() for part in model.parameters()) < 2_000_000
        assert model.config.vocab_size >= command_times.VOCABULARY


def test_the_page_is_the_page_of_its_record():
    page = command_times.PAGE.read_text(encoding="utf-8")
    assert page == command_times.page(command_times.read())
