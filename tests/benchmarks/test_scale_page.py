"""The page about large jobs says what was measured."""

from docs.make_scale import BEGIN, END, PAGE, table


def test_the_page_quotes_the_measurements():
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    assert rest.partition(END)[0] == table()
