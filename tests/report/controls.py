"""What tests do with the viewer: open its menu, measure its map."""

MAP = """(canvas) => {
    const { width, height } = canvas, box = canvas.getBoundingClientRect();
    const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    const longest = (lines, length, at) => {
        let most = 0;
        for (let line = 0; line < lines; line += 1) {
            for (let k = 0, run = 0; k < length; k += 1) {
                run = data[4 * at(line, k) + 3] === 255 ? run + 1 : 0;
                most = Math.max(most, run);
            }
        }
        return most;
    };
    const wide = longest(height, width, (y, x) => y * width + x);
    const high = longest(width, height, (x, y) => y * width + x);
    return { wide, high, bottom: box.bottom, right: box.right }; }"""
"""The last query reads every key, and the first key is read by all: the longest painted lines."""


def open_menu(page):
    """Show the controls for which the row above the map had no room, if there are any."""
    menu = page.locator(".menu > summary")
    if menu.is_visible() and not page.locator(".menu[open]").count():
        menu.click()
