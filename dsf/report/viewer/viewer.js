// One map, large: what it is, its pixels, the cell under the pointer or the keys, its numbers.

const HELP = [["← ↑ → ↓", "move the cell"], ["n p", "next, previous map"], ["+ − 0", "zoom"],
  ["t", "table"], ["Enter", "hold the cell"], ["Esc", "back to the grid"]];

class Viewer {
  /** `step(by)` asks for another map, `leave()` for the grid, `restyle()` follows the settings. */
  constructor(root, settings, { step, leave, restyle }) {
    this.settings = settings;
    this.ask = { step, leave, restyle };
    this.cell = [0, 0];
    this.held = false;
    this.build(root);
    new ResizeObserver(() => this.draw()).observe(this.surface);
  }

  build(root) {
    this.heading = make("h2", {});
    this.about = make("p", { className: "about" });
    this.under = make("canvas", {});
    this.over = make("canvas", { tabIndex: 0, role: "application" });
    this.over.setAttribute("aria-roledescription", "attention map");
    this.surface = make("div", { className: "surface" }, this.under, this.over);
    this.readout = make("p", { className: "readout", role: "status" });
    this.legend = make("div", { className: "legend" });
    this.strip = make("div", { className: "strip" });
    this.tables = make("div", {});
    this.details = make("details", { open: true }, make("summary", {}, "Numbers"), this.tables);
    const keys = HELP.flatMap(([key, does]) => [make("kbd", {}, key), ` ${does}  `]);
    root.replaceChildren(this.heading, this.about, this.controls(), this.readout, this.surface,
      this.legend, this.strip, this.details, make("p", { className: "keys" }, ...keys));
    followKeys(this);
    followPointer(this);
  }

  controls() {
    const button = (text, name, act) => {
      const made = make("button", { type: "button", "aria-label": name, title: name }, text);
      made.addEventListener("click", act);
      return made;
    };
    const curve = make("select", { "aria-label": "Colour scale" },
      ...Object.keys(CURVES).map((name) => make("option", { value: name },
        name === "root" ? "square root" : name)));
    curve.value = this.settings.curve;
    curve.addEventListener("change", () => {
      this.settings.curve = curve.value;
      this.ask.restyle();
    });
    const together = make("input", { type: "checkbox" });
    together.addEventListener("change", () => {
      this.settings.together = together.checked;
      this.ask.restyle();
    });
    this.out = button("−", "Zoom out", () => this.zoom(1 / 1.6));
    return make("div", { className: "bar" },
      button("◀", "Previous map", () => this.ask.step(-1)),
      button("▶", "Next map", () => this.ask.step(1)),
      curve, make("label", {}, together, "one scale per layer"),
      make("span", { className: "push" }), this.out,
      button("+", "Zoom in", () => this.zoom(1.6)), button("Fit", "Whole map", () => this.fit()));
  }

  show(picture, map, layer, shownScale, tokens) {
    const sameSize = this.picture && this.picture.rows === picture.rows
      && this.picture.columns === picture.columns;
    Object.assign(this, { picture, map, layer, shownScale });
    this.tokensOf = (count) => new Tokens(tokens, count);
    this.written = this.tokensOf(layer.written);
    this.read = this.tokensOf(layer.read);
    if (!sameSize) {
      const link = farthest(map) || [0, 0];
      this.cell = [picture.rowOf(link[0]), picture.columnOf(link[1])];
      this.window = { row: 0, column: 0, rows: picture.rows, columns: picture.columns };
    }
    this.heading.textContent = `${layer.name} · ${map.label}`;
    this.about.textContent = aboutMap(map, layer, picture);
    this.over.setAttribute("aria-label", `${this.heading.textContent}. ${this.about.textContent} `
      + "Arrow keys move the cell.");
    drawTables(this.tables, map, layer, this.tokensOf, (row, column) => {
      this.held = true;
      this.choose(this.picture.rowOf(row), this.picture.columnOf(column));
    });
    this.draw();
  }

  get stretch() {
    return this.shownScale > 0 ? this.map.scale / this.shownScale : 0;
  }

  draw() {
    if (!this.picture) return;
    const context = this.under.getContext("2d");
    const margin = marginOf(context, this.written, this.read);
    this.layout = fitted(this.surface.clientWidth, margin, this.picture);
    const { left, width, height, bottom, density } = this.layout;
    for (const canvas of [this.under, this.over]) {
      canvas.width = (left + width) * density;
      canvas.height = (height + bottom) * density;
      canvas.style.width = `${left + width}px`;
      canvas.style.height = `${height + bottom}px`;
    }
    const [w, h] = [Math.round(width * density), Math.round(height * density)];
    hatch(context, left * density, 0, w, h, 6 * density);
    const { curve } = this.settings;
    paint(context, sampled(this.picture, this.window, w, h), pixelsOf(curve, this.stretch),
      Math.round(left * density), 0, w, h);
    context.scale(density, density);
    drawCells(context, this.layout, this.window, this.picture, curve, this.stretch);
    drawLabels(context, this.layout, this.window, this.picture, this.written, this.read);
    drawLegend(this.legend, this.shownScale, curve, this.map);
    this.out.disabled = this.window.rows >= this.picture.rows;
    this.over.style.touchAction = this.out.disabled ? "pan-y" : "none";
    this.point();
  }

  /** Cross lines, the sentence and the strip of the chosen cell. */
  point() {
    const [row, column] = this.cell;
    drawCross(this.over.getContext("2d"), this.layout, this.window, this.cell, this.held);
    this.readout.replaceChildren(...sentence(this.picture, row, column, this.written, this.read),
      this.held ? " Held: Enter or a click lets go." : "");
    drawStrip(this.strip, this.picture, row, this.read, this.settings.curve, this.stretch,
      (token) => this.choose(token, this.cell[1]));
  }

  choose(row, column) {
    const clip = (cell, cells) => Math.min(Math.max(cell, 0), cells - 1);
    this.cell = [clip(row, this.picture.rows), clip(column, this.picture.columns)];
    if (bringIntoView(this.window, this.cell)) this.draw();
    else this.point();
  }

  zoom(factor, around = this.cell) {
    zoomed(this.window, this.picture, factor, around);
    this.draw();
  }

  fit() {
    this.zoom(0);
  }
}

/** Of the strongest links the one that says most: heavy and far from the diagonal. */
function farthest(map) {
  return map.links.reduce((best, link) => (best && reach(best) >= reach(link) ? best : link), null);
}

function reach([written, read, weight]) {
  return Math.abs(weight) * (1 + Math.abs(written - read));
}

function aboutMap(map, layer, picture) {
  const parts = [`${layer.family}, ${layer.written} ${layer.written === 1 ? "token" : "tokens"}.`];
  if (picture.pooled) parts.push("Pooled: each cell shows its strongest link.");
  if (layer.ports > 1) parts.push(`Strongest of ${layer.ports} pairs of ports.`);
  if (map.magnitudes) parts.push("Complex weights: magnitudes.");
  if (map.nans + map.infinities) {
    parts.push(`Not finite: ${map.nans} NaN, ${map.infinities} infinite.`);
  }
  if (map.empty_total) {
    const more = map.empty_total > map.empty.length ? " …" : "";
    parts.push(`Rows that read nothing: ${map.empty.join(", ")}${more}.`);
  }
  const [low, high] = map.row_sums;
  parts.push(`Row sums ${number(low, 3)} to ${number(high, 3)}.`);
  return parts.join(" ");
}
