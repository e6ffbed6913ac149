// One large map: heading, description, pixels, and the cell chosen by pointer or keys.

class Pane {
  /** The `stage` does what concerns more than this map: other maps, views, search, tables. */
  constructor(settings, stage) {
    Object.assign(this, { settings, stage, fixed: false, cell: [0, 0], view: "map" });
    this.heading = make("h2", {});
    this.about = make("p", { className: "about" });
    this.under = make("canvas", {});
    this.over = make("canvas", { tabIndex: 0, role: "application", "aria-roledescription": "attention map" });
    this.canvases = make("div", { className: "canvases" }, this.under, this.over);
    this.readout = make("p", { className: "readout", role: "status" });
    this.legend = make("div", { className: "legend" });
    this.strip = make("div", { className: "strip" });
    this.erasers = make("div", { className: "erasers" });
    this.pictureParts = [this.readout, this.canvases, this.legend, this.strip, this.erasers, this.about];
    this.statePart = make("div", { className: "state", hidden: true, tabIndex: -1 });
    this.root = make("article", { className: "pane" }, this.heading,
      ...this.pictureParts, this.statePart);
    this.root.addEventListener("focusin", () => stage.activate(this));
    followKeys(this);
    followPointer(this);
    new ResizeObserver(() => this.draw()).observe(this.canvases);
  }

  /** Show a map. */
  open(entry) {
    this.opening = this.load(entry);
    return this.opening;
  }

  async load(entry) {
    this.entry = entry;
    entry.picture ??= await Picture.open(entry.map.view, entry.map, entry.layer);
    if (this.entry === entry) this.show(entry.picture);
  }

  show(picture) {
    const { map, layer } = this.entry;
    const kept = this.picture && this.written.count === layer.written && this.read.count === layer.read;
    const [written, read] = kept ? this.chosenTokens : tokensAt(picture, firstCell(picture));
    const { rows, columns } = picture;
    if (this.picture?.rows !== rows || this.picture.columns !== columns) this.window = { row: 0, column: 0, rows, columns };
    this.picture = picture;
    [this.written, this.read] = tokensOfMap(this.entry);
    this.cell = [picture.rowOf(written), picture.columnOf(read)];
    this.heading.textContent = map.difference ? `${map.label}: ${layer.name}` : `${layer.name} · ${map.label}`;
    this.about.textContent = aboutMap(map, layer, picture, this.settings.full, this.written);
    this.over.setAttribute("aria-label", `${this.heading.textContent}. ${this.about.textContent} `
      + "Arrow keys move the cell.");
    this.turn(this.view);
  }

  /** The tokens of the chosen cell. */
  get chosenTokens() {
    return tokensAt(this.picture, this.cell);
  }

  /** Show the map in the view of this name, where it is possible. */
  turn(view) {
    this.view = view;
    if (!this.picture) return;
    const held = [this.over, this.statePart].includes(this.root.getRootNode().activeElement);
    for (const part of this.pictureParts) part.hidden = !this.isPicture;
    this.statePart.hidden = this.isPicture;
    this.heading.hidden = view === "shares" || view === "edits";
    if (view === "state") drawState(this.statePart, this.entry);
    else if (view === "shares") drawShares(this.statePart, this.settings.attribution, this.entry.map.sample, this.written, (...edge) => this.stage.app.goTo(...edge));
    else if (view === "edits") drawEdits(this.statePart, this.settings.intervention, this.entry.map.sample, this.written);
    else this.draw();
    if (held) (this.isPicture ? this.over : this.statePart).focus({ preventScroll: true });
  }

  /** Whether the view shows cells; the others are text, tables and charts. */
  get isPicture() {
    return !["state", "shares", "edits"].includes(this.view);
  }

  /** How much of the window lies above the map while its frame begins at the upper edge.
      The sentence has a room of its own, so that the map does not move while it changes. */
  get above() {
    const [line, edge] = [this.heading, this.settings.frame].map((each) => each.getBoundingClientRect());
    return line.bottom - edge.top + parseFloat(getComputedStyle(this.readout).minHeight) + 2;
  }

  /** The room to the right of the map. */
  get spare() {
    const { left, width, right } = this.layout || {};
    return this.layout ? this.canvases.clientWidth - left - width - right : 0;
  }

  draw() {
    if (!this.picture || !this.isPicture || !this.canvases.clientWidth) return;
    const context = this.under.getContext("2d"), { picture, window, written, read } = this;
    this.shades = this.settings.shadesOf(this.entry);
    const available = this.canvases.clientWidth;
    this.layout = fitted(available, this.above, marginOf(context, picture, window, written, read, available), picture);
    const { left, top, width, height, right, bottom, density } = this.layout;
    for (const canvas of [this.under, this.over]) {
      canvas.width = (left + width + right) * density;
      canvas.height = (top + height + bottom) * density;
      canvas.style.width = `${left + width + right}px`;
      canvas.style.height = `${top + height + bottom}px`;
    }
    const place = [left, top, width, height].map((length) => Math.round(length * density));
    hatch(context, ...place, 6 * density);
    paint(context, sampled(picture, window, place[2], place[3]), this.shades.pixels, ...place);
    context.scale(density, density);
    drawCells(context, this.layout, window, picture, this.shades);
    drawLabels(context, this.layout, window, picture, written, read);
    drawLegend(this.legend, this.shades, this.entry.map);
    this.over.style.touchAction = this.isWhole ? "pan-y" : "none";
    this.mark();
  }

  get isWhole() {
    return this.window.rows >= this.picture.rows;
  }

  /** Draw the cross lines, bars, sentence and token text of the chosen cell. */
  mark() {
    if (!this.layout || !this.isPicture) return;
    const { picture, window, written, read, cell } = this;
    const context = this.over.getContext("2d");
    const [queries, keys] = [written, read].map((tokens) => (this.settings.sought ? tokens.holding(this.settings.sought) : []));
    const sought = { rows: queries.map((token) => picture.rowOf(token)), columns: keys.map((token) => picture.columnOf(token)) };
    drawCross(context, this.layout, window, cell, { fixed: this.fixed, sought });
    drawProfiles(context, this.layout, window, picture, cell);
    this.readout.replaceChildren(...sentence(picture, ...cell, written, read, this.entry.map),
      this.fixed ? " The cell is fixed: press Enter or click to release it." : "");
    const { state, together } = this.entry.map, [query, key] = this.chosenTokens;
    const erasers = state && !together && picture.sameTokens ? eraserChart(state, query, key, written) : null;
    this.erasers.replaceChildren(...(erasers ? [erasers] : []));
    this.strips = soon(this.strips, () => drawStrip(this.strip, this, new Set(keys),
      (token) => this.choose(picture.sameTokens ? [picture.rowOf(token), cell[1]] : [cell[0], picture.columnOf(token)])));
  }

  /** Choose a cell of the map and bring it into view. */
  choose([row, column]) {
    const clip = (cell, cells) => Math.min(Math.max(cell, 0), cells - 1);
    this.cell = [clip(row, this.picture.rows), clip(column, this.picture.columns)];
    if (bringIntoView(this.window, this.cell)) {
      this.draw();
    } else {
      this.mark();
    }
    this.stage.follow(this);
  }

  point(cell) {
    if (cell[0] !== this.cell[0] || cell[1] !== this.cell[1]) this.choose(cell);
  }

  move(down, right) {
    this.choose([this.cell[0] + down, this.cell[1] + right]);
  }

  /** Fix the cell, so that the pointer does not move it. */
  fix(at) {
    this.fixed = !this.fixed;
    if (at) this.point(at);
    this.mark();
  }

  zoom(factor, around = this.cell) {
    zoomed(this.window, this.picture, factor, around);
    this.draw();
    this.stage.share(this);
  }
}

// Keys and pointers of a large map: choosing a cell, zooming and panning.

const LARGEST_CELL = 130, SMALLEST_MAP = 480, EVEN_CELL = 20;

/** Sizes in whole CSS pixels, so that the map fits the pane, and with its labels and the `above` pixels over it the window. */
function fitted(available, above, margin, picture) {
  const widest = Math.max(available - margin.left - margin.right, 40);
  const highest = Math.max(innerHeight - above - margin.top - margin.bottom, SMALLEST_MAP);
  const ratio = Math.min(Math.max(picture.rows / picture.columns, 0.3), 1.3);
  const room = Math.floor(Math.min(widest, highest / ratio, LARGEST_CELL * picture.columns));
  const width = room < EVEN_CELL * picture.columns ? room : room - room % picture.columns;
  return { ...margin, width, height: Math.round(width * ratio), density: devicePixelRatio || 1 };
}

function zoomed(window, picture, factor, [row, column]) {
  const least = Math.min(4, picture.rows, picture.columns);
  const share = factor === 0 ? 1 : Math.min(1, window.rows / factor / picture.rows);
  const rows = Math.max(share * picture.rows, least);
  const columns = Math.max(share * picture.columns, least);
  const y = (row + 0.5 - window.row) / window.rows, x = (column + 0.5 - window.column) / window.columns;
  window.row = within(row + 0.5 - y * rows, rows, picture.rows);
  window.column = within(column + 0.5 - x * columns, columns, picture.columns);
  Object.assign(window, { rows, columns });
}

function within(start, length, cells) {
  return Math.min(Math.max(start, 0), Math.max(cells - length, 0));
}

/** Move the window so that it contains a cell; returns whether it moved. */
function bringIntoView(window, [row, column]) {
  const before = [window.row, window.column];
  window.row = Math.min(Math.max(window.row, row + 1 - window.rows), row);
  window.column = Math.min(Math.max(window.column, column + 1 - window.columns), column);
  return before[0] !== window.row || before[1] !== window.column;
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** Keys that act wherever the focus is in the viewer, or nowhere; a map has further ones. */
const EVERYWHERE = ["n", "p", "v", "c", "d", "t", "o", "/", "+", "=", "-", "0"];

/** Act on a key that has a use here; a notebook, which has its own keys, does not hear of it. */
function actOn(event, acts) {
  const act = acts[event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  act(event);
  event.preventDefault();
  event.stopPropagation();
}

/** Keys of a map. */
function followKeys(pane) {
  const { stage } = pane, { app } = stage, move = (down, right) => ({ shiftKey }) => pane.move(down * (shiftKey ? 10 : 1), right * (shiftKey ? 10 : 1));
  const shared = { n: () => app.step(1), p: () => app.step(-1), Escape: () => app.leave(), v: () => stage.nextView(), c: () => stage.compare(),
    t: () => stage.table(), o: () => app.find(), "/": () => stage.find() };
  pane.acts = { ...shared, d: () => stage.subtract(), "+": () => pane.zoom(1.6), "=": () => pane.zoom(1.6), "-": () => pane.zoom(1 / 1.6),
    0: () => pane.zoom(0), Home: () => pane.move(0, -Infinity), End: () => pane.move(0, Infinity), Enter: () => pane.fix(),
    ...Object.fromEntries(Object.entries(ARROWS).map(([key, way]) => [key, move(...way)])) };
  pane.statePart.addEventListener("keydown", (event) => { if (event.target === pane.statePart) actOn(event, shared); });
  pane.over.addEventListener("keydown", (event) => actOn(event, pane.acts));
}

function followPointer(pane) {
  let drag = null;
  const under = (event) => {
    const box = pane.over.getBoundingClientRect(), { left, top, width, height } = pane.layout;
    const x = (event.clientX - box.left - left) / width, y = (event.clientY - box.top - top) / height;
    if (x < 0 || y < 0 || x >= 1 || y >= 1) return null;
    const { row, column, rows, columns } = pane.window;
    return [Math.floor(row + y * rows), Math.floor(column + x * columns)];
  };
  pane.over.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, ...pane.window, moved: false };
    pane.over.setPointerCapture(event.pointerId);
  });
  pane.over.addEventListener("pointermove", (event) => {
    if (drag && Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 4) drag.moved = true;
    if (drag?.moved) return pan(pane, drag, event);
    const cell = under(event);
    if (cell && !pane.fixed) pane.point(cell);
    return undefined;
  });
  pane.over.addEventListener("pointerup", (event) => {
    const cell = drag && !drag.moved && under(event);
    drag = null;
    if (cell) pane.fix(cell);
  });
  pane.over.addEventListener("pointercancel", () => { drag = null; });
  pane.over.addEventListener("wheel", (event) => {
    if (!(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    pane.zoom(event.deltaY < 0 ? 1.25 : 0.8, under(event) || undefined);
  }, { passive: false });
}

function pan(pane, drag, event) {
  const { width, height } = pane.layout, { window, picture } = pane;
  const down = (event.clientY - drag.y) * drag.rows / height;
  const right = (event.clientX - drag.x) * drag.columns / width;
  window.row = within(drag.row - down, window.rows, picture.rows);
  window.column = within(drag.column - right, window.columns, picture.columns);
  pane.draw();
}

// The input as text, each token coloured by the weight that the chosen query has on it as a key.

const NEIGHBOURS = 100;

/** Show one row of a map as colours of the tokens; `choose(token)` is called on a click. */
function drawStrip(place, { picture, cell, read, written, shades }, sought, choose) {
  place.replaceChildren();
  if (!read.texts) return;
  const own = picture.sameTokens ? picture.writtenBy(cell[0]) : picture.readBy(cell[1]);
  const caption = make("p", {}, "Weights of query ", written.many(picture.writtenBy(cell[0])), " on the tokens as keys:");
  const line = make("div", { tabIndex: 0, role: "region", "aria-label": "Tokens, coloured by the weight of the chosen query on them as keys" });
  const from = Math.max(0, own[0] - NEIGHBOURS), to = Math.min(read.count, own[1] + NEIGHBOURS + 1);
  if (from > 0) line.append("… ");
  for (let token = from; token < to; token += 1) {
    const code = picture.code(cell[0], picture.columnOf(token)), title = `key ${read.position(token)}`;
    const element = code === MASKED ? make("span", { className: "ahead", title }, read.text(token))
      : coloured(read.text(token), shades.of(code), title);
    element.classList.toggle("here", token >= own[0] && token <= own[1]);
    element.classList.toggle("found", sought.has(token));
    element.addEventListener("click", () => choose(token));
    line.append(element);
  }
  if (to < read.count) line.append(" …");
  place.append(caption, line);
}
