"""``dsf measure``: prompts from a file, the summary, what is refused."""

import csv


def test_a_file_of_prompts_is_measured_and_goes_on(run, checkpoint, tmp_path, only_object):
    (tmp_path / "prompts.txt").write_text("1 2 3\n\n4, 5, 6\n")
    asked = ("measure", checkpoint, "prompts.txt", "--ids", "--quantity", "negative_share")
    result = run(*asked, "--batch", 2, "--json")
    assert result.exit_code == 0, result.output
    facts = only_object(result.stdout)
    written = (tmp_path / "dsf-job" / "summary.csv").read_text()
    rows = list(csv.DictReader(written.splitlines()))
    assert len(facts["summary"]) == len(rows) > 0
    assert {row["count"] for row in rows} == {"2"}
    assert {row["quantity"] for row in rows} == {"negative_share"}
    again = run(*asked, "--batch", 2)
    assert again.exit_code == 0
    assert "summary.csv has all" in again.stdout


def test_what_makes_no_sense_is_refused(run, checkpoint, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "words.txt").write_text("some words\n")
    for arguments, words in (
        (("empty.txt", "--ids"), "PROMPTS"),
        (("words.txt",), "has no tokenizer"),
        (("words.txt", "--ids"), "line 1"),
        (("words.txt", "--ids", "--workers", 2, "--slurm", "logs"), "exclude each other"),
    ):
        result = run("measure", checkpoint, *arguments)
        assert result.exit_code == 2, result.output
        assert words in result.stderr
