// One map, large: what it is, its pixels, the cell under the pointer or the keys.

class Pane {
  /** `ask` takes what concerns more than this map: other maps, views, the search, the table. */
  constructor(settings, ask) {
    Object.assign(this, { settings, ask, held: false, cell: [0, 0], view: "map" });
    this.heading = make("h2", {});
    this.about = make("p", { className: "about" });
    this.under = make("canvas", {});
    this.over = make("canvas", { tabIndex: 0, role: "application" });
    this.over.setAttribute("aria-roledescription", "attention map");
    this.surface = make("div", { className: "surface" }, this.under, this.over);
    this.readout = make("p", { className: "readout", role: "status" });
    this.legend = make("div", { className: "legend" });
    this.strip = make("div", { className: "strip" });
    this.pictureParts = [this.readout, this.surface, this.legend, this.strip];
    this.statePart = make("div", { className: "state", hidden: true });
    this.root = make("article", { className: "pane" }, this.heading, this.about,
      ...this.pictureParts, this.statePart);
    this.root.addEventListener("focusin", () => ask.activate());
    followKeys(this);
    followPointer(this);
    new ResizeObserver(() => this.draw()).observe(this.surface);
  }

  /** Show a map: first as small as it is at hand, then token by token where it is there. */
  async open(entry) {
    this.entry = entry;
    const { map, layer } = entry;
    entry.picture ??= await Picture.open(map.view, map.scale, layer);
    if (this.entry !== entry) return;
    this.show(entry.full || entry.picture);
    if (!map.whole || entry.full) return;
    entry.full = await Picture.open(map.whole, map.scale, layer);
    if (this.entry === entry) this.show(entry.full);
  }

  show(picture) {
    const { map, layer, tokens } = this.entry;
    const kept = this.picture && this.written.count === layer.written && this.read.count === layer.read;
    const [written, read] = kept ? this.chosenTokens : farthest(map) || [0, 0];
    this.picture = picture;
    this.written = tokensOf(tokens, layer.written);
    this.read = tokensOf(tokens, layer.read);
    this.cell = [picture.rowOf(written), picture.columnOf(read)];
    this.heading.textContent = `${layer.name} · ${map.label}`;
    this.about.textContent = aboutMap(map, layer, picture);
    this.over.setAttribute("aria-label", `${this.heading.textContent}. ${this.about.textContent} `
      + "Arrow keys move the cell.");
    this.turn(this.view);
  }

  /** The tokens of the chosen cell. */
  get chosenTokens() {
    return [this.picture.writtenBy(this.cell[0])[0], this.picture.readBy(this.cell[1])[0]];
  }

  /** Look at the map as `view` says, where it can be looked at so. */
  turn(view) {
    this.view = view;
    if (!this.picture) return;
    const before = this.face;
    this.face = this.faceFor(view);
    if (this.face instanceof GridFace) this.cell[1] = Math.max(this.cell[1], this.face.before);
    const same = before && before.rows === this.face.rows && before.columns === this.face.columns;
    if (!same) this.window = { row: 0, column: 0, rows: this.face.rows, columns: this.face.columns };
    for (const part of this.pictureParts) part.hidden = view === "state";
    this.statePart.hidden = view !== "state";
    if (view === "state") drawState(this.statePart, this.entry);
    else this.draw();
  }

  faceFor(view) {
    const parts = [this.picture, this.written, this.read], { grid } = this.settings;
    if (view === "lag") return new LagFace(...parts, Boolean(this.entry.map.state.lags));
    if (view === "grid" && GridFace.fits(this.picture, grid)) {
      return new GridFace(...parts, grid, this.cell[0]);
    }
    return new MapFace(...parts);
  }

  /** What stands above a map by lag: the mean weight at every lag, where it was measured. */
  get curve() {
    return this.view === "lag" ? lagCurve(this.entry, this.picture) : null;
  }

  get shownScale() {
    return this.settings.scaleOf(this.entry);
  }

  get stretch() {
    return this.shownScale > 0 ? this.entry.map.scale / this.shownScale : 0;
  }

  draw() {
    if (!this.face || this.view === "state" || !this.surface.clientWidth) return;
    const context = this.under.getContext("2d"), { face, window, stretch } = this;
    const { curve } = this.settings;
    this.layout = fitted(this.surface.clientWidth, marginOf(context, face), face);
    const { left, top, width, height, right, bottom, density } = this.layout;
    for (const canvas of [this.under, this.over]) {
      canvas.width = (left + width + right) * density;
      canvas.height = (top + height + bottom) * density;
      canvas.style.width = `${left + width + right}px`;
      canvas.style.height = `${top + height + bottom}px`;
    }
    const place = [left, top, width, height].map((length) => Math.round(length * density));
    hatch(context, ...place, 6 * density);
    paint(context, sampled(face, window, place[2], place[3]), pixelsOf(curve, stretch), ...place);
    context.scale(density, density);
    drawCells(context, this.layout, window, face, curve, stretch);
    drawLabels(context, this.layout, window, face);
    drawLegend(this.legend, this.shownScale, curve, this.entry.map);
    this.over.style.touchAction = this.isWhole ? "pan-y" : "none";
    this.mark();
  }

  get isWhole() {
    return this.window.rows >= this.face.rows;
  }

  /** Cross lines, profiles, the sentence and the strip of the chosen cell. */
  mark() {
    if (!this.layout || this.view === "state") return;
    const { picture, face, window, written, read, cell } = this;
    const context = this.over.getContext("2d"), at = face.place(cell);
    const found = this.settings.sought(this.entry);
    const sought = { rows: face.bands ? found.map((token) => picture.rowOf(token)) : [],
      columns: this.view === "map" ? found.map((token) => picture.columnOf(token)) : [] };
    drawCross(context, this.layout, window, face, at, { held: this.held, sought });
    drawProfiles(context, this.layout, window, face, at, this.curve);
    this.readout.replaceChildren(...sentence(picture, ...cell, written, read),
      this.held ? " Held: Enter or a click lets go." : "");
    this.strips = soon(this.strips, () => drawStrip(this.strip, this, this.settings.curve,
      this.stretch, new Set(found),
      (token) => this.choose([picture.rowOf(Math.min(token, written.count - 1)), cell[1]])));
  }

  /** Choose a cell of the map and bring it into view. */
  choose([row, column]) {
    const clip = (cell, cells) => Math.min(Math.max(cell, 0), cells - 1);
    this.cell = [clip(row, this.picture.rows), clip(column, this.picture.columns)];
    if (this.face instanceof GridFace && this.face.row !== this.cell[0]) {
      this.face = this.faceFor("grid");
      this.draw();
    } else if (bringIntoView(this.window, this.face.place(this.cell))) {
      this.draw();
    } else {
      this.mark();
    }
    this.ask.moved(this);
  }

  /** Choose a cell of what is drawn; where no link lies nothing happens. */
  point(at) {
    const cell = this.face.origin(at);
    if (cell && (cell[0] !== this.cell[0] || cell[1] !== this.cell[1])) this.choose(cell);
  }

  move(down, right) {
    const [row, column] = this.face.place(this.cell), { rows, columns } = this.face;
    const clip = (cell, cells) => Math.min(Math.max(cell, 0), cells - 1);
    this.point([clip(row + down, rows), clip(column + right, columns)]);
  }

  /** Let the cell stay when the pointer goes on; on a grid, let the place read instead. */
  hold(at) {
    if (this.face instanceof GridFace) {
      const column = at ? this.face.origin(at)[1] : this.cell[1];
      this.choose([column, column]);
      return;
    }
    this.held = !this.held;
    if (at) this.point(at);
    this.mark();
  }

  zoom(factor, around = this.face.place(this.cell)) {
    zoomed(this.window, this.face, factor, around);
    this.draw();
    this.ask.zoomed(this);
  }
}
