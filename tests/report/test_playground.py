"""The playground: its numbers are the library's, for every architecture and wherever sliders stand.

The page computes in its own script. The oracle is the library: the same mixer is made of the tokens
and settings that the page saves, and its map, states and response are compared with the page's.
"""

import json
import math
import random
from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest
import torch

import dsf
from dsf.report.playground_page import _content

PRESETS = {each["name"]: each for each in _content()["presets"]}
ROUNDS = 3
SET = """([name, value]) => {
    const input = document.querySelector(`.sliders input[name="${name}"]`);
    input.value = value;
    input.dispatchEvent(new Event("input")); }"""
PAINTED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return dsf.report.playground().write(tmp_path_factory.mktemp("playground") / "p.html")


@pytest.fixture
def page(visited, written):
    return visited(written)


def chosen(page, name):
    page.locator(f".kind button[value='{name}']").click()


def numbers(page):
    page.evaluate(PAINTED)
    link = page.locator(".table a").get_attribute("href")
    return json.loads(unquote(link.partition(",")[2]))


def number64(value):
    return torch.tensor(value, dtype=torch.float64)


def complex128(value):
    return torch.tensor(value, dtype=torch.complex128)


def exact(s):
    return dsf.mixers.SoftmaxAttention(**s.attending, scale=1.0)


def oscillation(s):
    return dsf.mixers.DiagonalStateSpace(
        value=s.value,
        pole=complex128([complex(-s.A, 2)]),
        write=complex128([s.B]),
        read=complex128([s.C]),
        step=number64(s.step),
        feedthrough=number64(s.D),
    )


def recurrent_unit(s):
    return dsf.mixers.LRU(
        value=s.value,
        log_radius=torch.log(-torch.log(number64([s.decay]))),
        log_phase=torch.log(number64([s.A])),
        write=complex128([[s.B]]),
        read=complex128([[s.C]]),
        feedthrough=number64([s.D]),
    )


def selective(s):
    return dsf.mixers.SelectiveStateSpace(
        value=s.value,
        step=s.step * s.gate[:, :1],
        pole=-s.A * number64([[1, 2]]),
        write=s.attending["key"],
        read=s.attending["query"],
        feedthrough=number64([s.D]),
    )


def zero_sum(s):
    return dsf.mixers.ZeroSumAttention(
        **s.attending,
        logit=s.attending["key"].sum(dim=-1),
        first_order=0.5 * s.C * s.full,
        higher_order=s.C * s.full,
    )


def gated_delta_rule(s):
    decay = math.log(s.decay) * s.gate[:, 0]
    return dsf.mixers.GatedDeltaNet(**s.attending, rate=s.rate * s.full, log_decay=decay)


MIXERS = {
    "softmax_attention": exact,
    "taylor": lambda s: exact(s).expansion(order=s.order),
    "linear_attention": lambda s: dsf.mixers.LinearAttention(**s.attending),
    "in_line_attention": lambda s: dsf.mixers.InLineAttention(**s.attending),
    "zero_sum_attention": zero_sum,
    "retention": lambda s: dsf.mixers.Retention(**s.attending, decay=number64(s.decay)),
    "gated_linear_attention": lambda s: dsf.mixers.GatedLinearAttention(
        **s.attending, log_decay=math.log(s.decay) * s.gate
    ),
    "diagonal_state_space": oscillation,
    "lru": recurrent_unit,
    "selective_state_space": selective,
    "delta_net": lambda s: dsf.mixers.DeltaNet(**s.attending, rate=s.rate * s.full),
    "gated_delta_net": gated_delta_rule,
}


def library(shown):
    value, settings = number64(shown["signal"])[:, None], {"B": 1, "C": 1, **shown["settings"]}
    if shown["preset"] == "system":
        one, diagonal = torch.ones_like(value), dsf.systems.transition.Diagonal
        write, read = settings["B"] * one, settings["C"] * one
        system = dsf.System.from_write_and_read(
            diagonal(settings["A"] * one), write, read, feedthrough=settings["D"] * one[:, 0]
        )
        signal = value.unsqueeze(-2)
    else:
        query, key, gate = (number64(shown["tokens"][name]) for name in ("query", "key", "gate"))
        attending = {"query": settings["C"] * query, "key": settings["B"] * key, "value": value}
        full = torch.ones_like(value[:, 0])
        given = SimpleNamespace(value=value, attending=attending, gate=gate, full=full, **settings)
        mixer = MIXERS[shown["preset"]](given)
        system, signal = mixer.system(), mixer.signal()
    states = system.states(signal).reshape(system.steps, system.state_size)
    if states.is_complex():
        states = torch.view_as_real(states).flatten(-2)
    return {
        "map": dsf.attention_map(system).reshape(system.steps, system.steps),
        "states": states,
        "response": dsf.respond(system, signal).flatten(),
    }


def close(ours, theirs):
    """Equal to rounding, relative to the largest number."""
    size = theirs.abs().max().item()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11 * max(size, 1), equal_nan=True)


def shown_and_computed(page):
    shown = numbers(page)
    for what, theirs in library(shown).items():
        close(torch.tensor(shown[what], dtype=torch.float64).reshape(theirs.shape), theirs)
    return shown


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_the_numbers_are_the_librarys_wherever_the_sliders_stand(page, name):
    draws = random.Random(name)
    chosen(page, name)
    before = shown_and_computed(page)
    for _ in range(ROUNDS):
        for slider, _, low, high, step, _ in PRESETS[name]["sliders"]:
            value = round(low + step * draws.randint(0, round((high - low) / step)), 6)
            page.evaluate(SET, [slider, value])
        page.locator(".bar select").select_option(draws.choice(["values", "impulse", "ones"]))
        after = shown_and_computed(page)
        assert after["settings"] != before["settings"]
        before = after


def nearest_to_zero(low, high):
    return min(max(0, low), high)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_the_numbers_are_the_librarys_at_both_ends_and_at_zero(page, name):
    chosen(page, name)
    for place in (min, nearest_to_zero, max):
        for slider, _, low, high, _, _ in PRESETS[name]["sliders"]:
            page.evaluate(SET, [slider, place(low, high)])
        shown_and_computed(page)


@pytest.mark.slow
def test_rows_that_sum_to_one_are_said_to(page):
    """Not '1.00 to 1', which rounding makes of them."""
    for name in ("softmax_attention", "linear_attention", "in_line_attention"):
        chosen(page, name)
        page.evaluate(PAINTED)
        told = page.locator(".facts div", has_text="row sums").locator("dd").text_content()
        assert told == "1", name


@pytest.mark.slow
def test_a_wrong_number_of_the_page_would_be_seen(visited, tmp_path):
    told = dsf.report.playground("delta_net", rate=0.5).html
    wrong = told.replace("decays[t] * (", "decays[t] * 0.999 * (")
    assert wrong != told
    path = tmp_path / "wrong.html"
    path.write_text(sealed(wrong), encoding="utf-8")
    with pytest.raises(AssertionError):
        shown_and_computed(visited(path))


def sealed(html):
    """The page without its policy, which names the hash of the script that was changed."""
    before, _, after = html.partition('<meta http-equiv="Content-Security-Policy"')
    return before + after.partition(">")[2]


@pytest.mark.slow
def test_it_plays_token_by_token_and_stops_at_the_end(page):
    assert page.locator(".readout").text_content().startswith("Token 12 of 12")
    play = page.get_by_role("button", name="Play")
    play.click()
    assert page.locator(".readout").text_content().startswith("Token 1 of 12")
    page.locator(".readout:has-text('Token 2 of 12')").wait_for()
    assert page.locator(".map rect.blank").count() == 78 - 3  # rows that are still to come
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Token", exact=True).focus()
    page.keyboard.press("End")
    assert page.locator(".map rect.blank").count() == 0
    page.keyboard.press("ArrowLeft")
    assert page.locator(".readout").text_content().startswith("Token 11 of 12")


@pytest.mark.slow
def test_both_ways_to_a_response_agree(page):
    for name in PRESETS:
        chosen(page, name)
        assert "less than 1e−12" in page.locator(".facts").text_content(), name


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(visited, written, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = visited(written, color_scheme=scheme, viewport={"width": 390, "height": 844})
    for summary in page.locator("summary").all():
        summary.click()
    for name in PRESETS:
        chosen(page, name)
        beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(beyond) <= 0, name
    found = axe.Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


@pytest.mark.slow
def test_keys_alone_reach_every_control(page):
    page.locator("#theme").focus()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "[document.activeElement.tagName, document.activeElement.name || "
            "document.activeElement.textContent.slice(0, 12)].join(' ')"
        )
        reached.add(focused)
    assert {"INPUT B", "INPUT C", "BUTTON Delta rule", "BUTTON Play", "SUMMARY Numbers"} <= reached


class Frame(HTMLParser):
    def handle_starttag(self, tag, attrs):
        assert tag == "iframe"
        self.given = dict(attrs)


def test_a_notebook_shows_the_page_in_a_frame_that_reaches_nothing_else():
    page = dsf.report.playground("retention", decay=0.5)
    frame = Frame()
    frame.feed(page._repr_html_())
    assert frame.given["srcdoc"] == page.html
    assert "allow-same-origin" not in frame.given["sandbox"]
    assert '"start":{"preset":"retention","settings":{"decay":0.5}}' in page.html
    assert "default-src 'none'" in page.html
    assert "http" not in page.html.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("preset", "settings", "said"),
    [
        ("mamba", {}, "there is no preset 'mamba'. Take system, softmax_attention"),
        ("delta_net", {"decay": 0.5}, "'delta_net' has no slider 'decay'. It has rate, B or C"),
        ("taylor", {"order": 7}, "slider 'order' of 'taylor' goes from 0 to 6, but order is 7"),
        ("retention", {"decay": float("nan")}, "goes from 0 to 1, but decay is nan"),
        ("retention", {"decay": "0.5"}, "takes a number, but decay is '0.5'"),
        ("retention", {"decay": None}, "takes a number, but decay is None"),
        ("retention", {"decay": [0.5]}, r"takes a number, but decay is \[0.5\]"),
        ("retention", {"decay": True}, "takes a number, but decay is True"),
        ("taylor", {"order": 2.5}, "moves in steps of 1, but order is 2.5"),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_a_wrong_start_is_refused_in_words(preset, settings, said):
    with pytest.raises(ValueError, match=said):
        dsf.report.playground(preset, **settings)


@pytest.mark.parametrize("half", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5)], ids=repr)
@pytest.mark.usefixtures("our_own_errors")
def test_a_number_of_any_library_is_a_start(half):
    page = dsf.report.playground("retention", decay=half)
    assert page == dsf.report.playground("retention", decay=0.5)
    assert '"settings":{"decay":0.5}' in page.html
    assert '"settings":{"order":3}' in dsf.report.playground("taylor", order=np.int64(3)).html


def test_the_docstring_names_every_preset():
    for name in PRESETS:
        assert f"``{name}``" in dsf.report.playground.__doc__
