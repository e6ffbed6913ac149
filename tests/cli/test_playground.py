"""``playground`` writes one page and says where."""

import dsf


def test_it_writes_the_page(run, tmp_path):
    done = run("demo", "--playground", "delta_net", "--out", "here.html")
    assert (done.exit_code, done.stdout) == (0, "here.html\n")
    assert (tmp_path / "here.html").read_text("utf-8") == dsf.playground("delta_net").html


def test_it_speaks_json(run, only_object):
    told = only_object(run("demo", "--playground", "delta_net", "--json").stdout)
    assert told["files"] == {"playground": "playground.html"}


def test_an_unknown_architecture_is_refused(run, tmp_path):
    done = run("demo", "--playground", "mamba")
    assert done.exit_code == 2
    assert "--playground" in done.stderr
    assert list(tmp_path.iterdir()) == []
