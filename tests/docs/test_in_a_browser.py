"""Every built page in a real browser, wide and narrow: no error, no request, nothing sticks out."""

import shutil

import pytest

pytestmark = pytest.mark.slow
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
BROKEN = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"


@pytest.fixture(scope="module")
def chromium():
    """Chromium as the system has it; nothing is downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the playwright package")
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("needs Chromium on the PATH")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visit(chromium):
    """Opens pages one after the other and returns what is wrong with them."""
    tab = chromium.new_page(viewport=WIDE)
    wrong = []
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: _foreign(request.url) and wrong.append(request.url))

    def see(path):
        wrong.clear()
        tab.set_viewport_size(WIDE)
        tab.goto(path.as_uri())
        wrong.extend(tab.evaluate(BROKEN))
        tab.set_viewport_size(NARROW)
        beyond = tab.evaluate(OVERFLOW)
        return [*wrong, *([f"sticks out by {beyond} pixels"] if beyond > 0 else [])]

    yield see
    tab.close()


def _foreign(url):
    return not url.startswith(("file:", "data:"))


def test_every_page_is_well(site, visit):
    pages = sorted(site.rglob("*.html"))
    found = {str(page.relative_to(site)): visit(page) for page in pages}
    assert len(found) > 100
    assert {page: wrong for page, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('<div style="width: 500px">wide</div>', "sticks out by"),
        ("<script>throw new Error('planted')</script>", "planted"),
        ("<script>console.error('told')</script>", "told"),
        ('<img alt="none" src="none.png">', "none.png"),
        ('<script src="https://example.invalid/x.js"></script>', "example.invalid"),
    ],
)
def test_what_is_wrong_is_seen(visit, tmp_path, body, said):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta name=viewport content='width=device-width'>{body}")
    assert any(said in wrong for wrong in visit(page))
