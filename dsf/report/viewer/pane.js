// One large map: heading, description, pixels, and the cell chosen by pointer or keys.

class Pane {
  /** `ask` has functions for what concerns more than this map: other maps, views, search, tables. */
  constructor(settings, ask) {
    Object.assign(this, { settings, ask, fixed: false, cell: [0, 0], view: "map" });
    this.heading = make("h2", {});
    this.about = make("p", { className: "about" });
    this.under = make("canvas", {});
    this.over = make("canvas", { tabIndex: 0, role: "application" });
    this.over.setAttribute("aria-roledescription", "attention map");
    this.canvases = make("div", { className: "canvases" }, this.under, this.over);
    this.readout = make("p", { className: "readout", role: "status" });
    this.legend = make("div", { className: "legend" });
    this.strip = make("div", { className: "strip" });
    this.pictureParts = [this.readout, this.canvases, this.legend, this.strip, this.about];
    this.statePart = make("div", { className: "state", hidden: true, tabIndex: -1 });
    this.root = make("article", { className: "pane" }, this.heading,
      ...this.pictureParts, this.statePart);
    this.root.addEventListener("focusin", () => ask.activate());
    followKeys(this);
    followPointer(this);
    new ResizeObserver(() => this.draw()).observe(this.canvases);
  }

  /** Show a map: first pooled, then without pooling where that is stored. */
  open(entry) {
    this.opening = this.load(entry);
    return this.opening;
  }

  async load(entry) {
    this.entry = entry;
    const { map, layer } = entry;
    entry.picture ??= await Picture.open(map.view, map, layer);
    if (this.entry !== entry) return;
    this.show(entry.full || entry.picture);
    if (!map.whole || entry.full) return;
    entry.full = await Picture.open(map.whole, map, layer);
    if (this.entry === entry) this.show(entry.full);
  }

  show(picture) {
    const { map, layer } = this.entry;
    const kept = this.picture && this.written.count === layer.written && this.read.count === layer.read;
    const [written, read] = kept ? this.chosenTokens : tokensAt(picture, firstCell(picture));
    const pooled = kept && this.picture?.pooled && this.entry === this.shownEntry ? this.picture : null;
    const at = pooled && strongestWithin(picture, pooled, this.cell);
    this.picture = picture;
    this.shownEntry = this.entry;
    [this.written, this.read] = tokensOfMap(this.entry);
    this.cell = at || [picture.rowOf(written), picture.columnOf(read)];
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
    const before = this.raster, held = [this.over, this.statePart].includes(this.root.getRootNode().activeElement);
    this.raster = this.rasterFor(view);
    if (this.raster instanceof GridRaster) this.cell[1] = Math.max(this.cell[1], this.raster.before);
    const same = before && before.rows === this.raster.rows && before.columns === this.raster.columns;
    if (!same) this.window = { row: 0, column: 0, rows: this.raster.rows, columns: this.raster.columns };
    for (const part of this.pictureParts) part.hidden = !this.isPicture;
    this.statePart.hidden = this.isPicture;
    this.heading.hidden = view === "shares" || view === "edits";
    if (view === "state") drawState(this.statePart, this.entry);
    else if (view === "shares") this.drawShares();
    else if (view === "edits") drawEdits(this.statePart, this.settings.intervention, this.entry.map.sample, this.written);
    else this.draw();
    if (held) (this.isPicture ? this.over : this.statePart).focus({ preventScroll: true });
  }

  /** Whether the view shows cells; the others are text, tables and charts. */
  get isPicture() {
    return !["state", "shares", "edits"].includes(this.view);
  }

  drawShares() {
    drawShares(this.statePart, this.settings.attribution, this.entry.map.sample, this.written,
      (...edge) => this.ask.goTo(...edge));
  }

  rasterFor(view) {
    const { grid } = this.settings;
    const parts = [this.picture, this.settings.codesOf(this.picture), this.written, this.read];
    this.instead = whyNotAs(view, this.picture, grid);
    if (this.instead) return new MapRaster(...parts);
    if (view === "lag") return new LagRaster(...parts, Boolean(this.entry.map.state.lags));
    return view === "grid" ? new GridRaster(...parts, grid, this.cell[0]) : new MapRaster(...parts);
  }

  /** The mean weight at every lag, shown above a map by lag, where it was measured. */
  get curve() {
    return this.raster instanceof LagRaster ? lagCurve(this.entry, this.picture, this.settings.hidesDiagonal) : null;
  }

  /** Draw again after the colours, or what of the map is shown, have changed. */
  restyle() {
    this.turn(this.view);
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
    if (!this.raster || !this.isPicture || !this.canvases.clientWidth) return;
    const context = this.under.getContext("2d"), { raster, window } = this;
    this.shades = this.settings.shadesOf(this.entry, this.settings.codesOf(this.picture));
    const available = this.canvases.clientWidth;
    this.layout = fitted(available, this.above, marginOf(context, raster, window, available), raster);
    const { left, top, width, height, right, bottom, density } = this.layout;
    for (const canvas of [this.under, this.over]) {
      canvas.width = (left + width + right) * density;
      canvas.height = (top + height + bottom) * density;
      canvas.style.width = `${left + width + right}px`;
      canvas.style.height = `${top + height + bottom}px`;
    }
    const place = [left, top, width, height].map((length) => Math.round(length * density));
    hatch(context, ...place, 6 * density);
    paint(context, sampled(raster, window, place[2], place[3]), this.shades.pixels, ...place);
    context.scale(density, density);
    drawCells(context, this.layout, window, raster, this.shades);
    drawLabels(context, this.layout, window, raster);
    drawLegend(this.legend, this.shades, this.entry.map, this.settings.hidesDiagonal && this.picture.square);
    this.over.style.touchAction = this.isWhole ? "pan-y" : "none";
    this.mark();
  }

  get isWhole() {
    return this.window.rows >= this.raster.rows;
  }

  /** Draw the cross lines, bars, sentence and token text of the chosen cell. */
  mark() {
    if (!this.layout || !this.isPicture) return;
    const { picture, raster, window, written, read, cell } = this;
    const context = this.over.getContext("2d"), at = raster.place(cell);
    const [queries, keys] = [written, read].map((tokens) => (this.settings.sought ? tokens.holding(this.settings.sought) : []));
    const sought = { rows: raster.bands ? queries.map((token) => picture.rowOf(token)) : [],
      columns: raster.constructor === MapRaster ? keys.map((token) => picture.columnOf(token)) : [] };
    drawCross(context, this.layout, window, raster, at, { fixed: this.fixed, sought });
    drawProfiles(context, this.layout, window, raster, at, this.curve);
    this.readout.replaceChildren(...sentence(picture, ...cell, written, read, this.entry.map),
      this.fixed ? " The cell is fixed: press Enter or click to release it." : "",
      this.instead ? ` ${this.instead}` : "");
    this.strips = soon(this.strips, () => drawStrip(this.strip, this, new Set(keys),
      (token) => this.choose(picture.sameTokens ? [picture.rowOf(token), cell[1]] : [cell[0], picture.columnOf(token)])));
  }

  /** Choose a cell of the map and bring it into view. */
  choose([row, column]) {
    const clip = (cell, cells) => Math.min(Math.max(cell, 0), cells - 1);
    this.cell = [clip(row, this.picture.rows), clip(column, this.picture.columns)];
    if (this.raster instanceof GridRaster && this.raster.row !== this.cell[0]) {
      this.raster = this.rasterFor("grid");
      this.draw();
    } else if (bringIntoView(this.window, this.raster.place(this.cell))) {
      this.draw();
    } else {
      this.mark();
    }
    this.ask.moved(this);
  }

  /** Choose a cell of the drawing; where it shows no weight nothing happens. */
  point(at) {
    const cell = this.raster.origin(at);
    if (cell && (cell[0] !== this.cell[0] || cell[1] !== this.cell[1])) this.choose(cell);
  }

  move(down, right) {
    const [row, column] = this.raster.place(this.cell), { rows, columns } = this.raster;
    const clip = (cell, cells) => Math.min(Math.max(cell, 0), cells - 1);
    this.point([clip(row + down, rows), clip(column + right, columns)]);
  }

  /** Fix the cell, so that the pointer does not move it; on a grid, make the patch the query. */
  fix(at) {
    if (this.raster instanceof GridRaster) {
      const column = at ? this.raster.origin(at)[1] : this.cell[1];
      this.choose([column, column]);
      return;
    }
    this.fixed = !this.fixed;
    if (at) this.point(at);
    this.mark();
  }

  zoom(factor, around = this.raster.place(this.cell)) {
    zoomed(this.window, this.raster, factor, around);
    this.draw();
    this.ask.zoomed(this);
  }
}
