// The large maps, one or two side by side, with the controls above and the tables to their right.

// CSS pixels: how wide the stage with its padding must be for numbers next to the map, and for a sentence in one line.
const SIDE_BY_SIDE = 1086, ONE_LINE = 786;

class Stage {
  /** `entries` are all maps of the `app`. */
  constructor(entries, settings, app) {
    Object.assign(this, { entries, settings, app, panes: [], view: "map" });
    this.place = make("div", { className: "panes" });
    this.apart = make("p", { className: "apart", role: "status", hidden: true });
    this.numbers = make("div", { className: "numbers" });
    this.details = make("details", { className: "more", open: true }, make("summary", {}, "Numbers"),
      this.numbers);
    this.details.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.active.over.focus();
    });
    this.root = make("div", { className: "stage" }, this.bar().root,
      make("div", { className: "body" }, make("div", {}, this.place, this.apart), this.details),
      make("p", { className: "keys" }, ...HELP.flatMap(([key, does]) => [make("span", {}, make("kbd", {}, key), ` ${does}`), " "])));
    this.add();
  }

  bar() {
    this.search = new Search({ tokens: () => this.active.read, found: (text) => this.mark(text),
      go: (token) => this.goTo(token), leave: () => this.active.over.focus() });
    const views = { ...VIEWS };
    if (!this.settings.attribution) delete views.shares;
    if (!this.settings.intervention) delete views.edits;
    this.views = choices("View", views, (name) => this.turn(name));
    this.views.press("map");
    this.both = button("Compare", "Compare with another map", () => this.compare());
    this.minus = button("A − B", "Show A minus B in the second pane", () => this.subtract(), { hidden: true, "aria-pressed": "false" });
    this.out = button("−", "Zoom out", () => this.active.zoom(1 / 1.6));
    this.zooms = make("span", { className: "group" }, this.out,
      button("+", "Zoom in", () => this.active.zoom(1.6)), button("Fit", "Whole map", () => this.active.zoom(0)));
    this.overview = button("☰", "Show or hide the overview of all maps", () => this.app.find(), { "aria-expanded": "true" });
    this.overview.append(make("span", { className: "word" }, " Overview"));
    this.toolbar = new Toolbar([this.overview,
      button("◀", "Previous map", () => this.app.step(-1)), button("▶", "Next map", () => this.app.step(1)), this.views],
    [make("span", { className: "group" }, this.both, this.minus), this.zooms, this.search.root,
      make("span", { className: "group" }, ...scaleChoice(this.settings, () => this.app.restyle()))]);
    return this.toolbar;
  }

  /** How much narrower the stage could be with the map as large as it is, and the numbers where they are. */
  get free() {
    if (this.panes.length > 1 || !this.active.isPicture) return 0;
    this.active.draw();
    const isBeside = this.details.getBoundingClientRect().left > this.place.getBoundingClientRect().right;
    return Math.floor(Math.min(this.active.spare, this.root.clientWidth - (isBeside ? SIDE_BY_SIDE : ONE_LINE)));
  }

  add() {
    const pane = new Pane(this.settings, this);
    pane.view = this.view;
    this.panes.push(pane);
    this.active ??= pane;
    this.place.append(pane.root);
    return pane;
  }

  nextView() {
    const names = [...this.views.children].map((each) => each.value);
    this.turn(names[(names.indexOf(this.view) + 1) % names.length]);
  }

  async open(entry) {
    const pane = this.active;
    if (pane === this.panes[1]) this.minus.setAttribute("aria-pressed", "false");
    await pane.open(entry);
    if (this.subtracts && pane === this.panes[0]) await this.subtract(true);
    this.opened();
  }

  opened() {
    this.apart.hidden = true;
    if (this.settings.together) this.restyle();
    this.refresh();
  }

  activate(pane) {
    if (this.active === pane || !pane.picture) return;
    this.active = pane;
    this.refresh();
  }

  refresh() {
    this.app.overview.press(this.app.shown);
    if (this.panes.some((pane) => !pane.picture)) return;
    for (const [k, pane] of this.panes.entries()) {
      pane.root.classList.toggle("active", this.panes.length > 1 && pane === this.active);
      pane.heading.dataset.letter = this.panes.length > 1 && !pane.entry.map.difference ? "AB"[k] : "";
    }
    drawNumbers(this.numbers, this.panes, this.active);
    this.search.showCount();
    this.share(this.active);
  }

  turn(view) {
    this.view = view;
    this.views.press(view);
    for (const pane of this.panes) pane.turn(view);
    this.zooms.classList.toggle("away", !this.active.isPicture); // in its place, so that no button moves
    this.share(this.active);
  }

  /** Show a second map next to the first, or one alone again. */
  async compare(focus = true) {
    const { active, panes } = this;
    this.both.setAttribute("aria-pressed", String(panes.length < 2));
    this.root.classList.toggle("two", panes.length < 2);
    this.minus.hidden = panes.length > 1;
    this.toolbar.fit();
    this.minus.setAttribute("aria-pressed", "false");
    if (panes.length > 1) {
      const kept = active.entry.map.difference ? panes[0] : active;
      for (const pane of panes.filter((each) => each !== kept)) pane.root.remove();
      [this.panes, this.active] = [[kept], kept];
      this.apart.hidden = true;
      kept.draw();
      this.refresh();
      if (focus) kept.over.focus({ preventScroll: true });
      return;
    }
    const pane = this.add();
    await pane.open(counterpart(this.entries, active.entry));
    if (!this.panes.includes(pane)) return; // closed again while it opened
    this.active = pane;
    this.opened();
    this.follow(active);
    if (focus) pane.over.focus({ preventScroll: true });
  }

  get subtracts() {
    return this.minus.getAttribute("aria-pressed") === "true";
  }

  /** Show A − B in place of B, or B again. */
  async subtract(wanted) {
    await Promise.all(this.panes.map((pane) => pane.opening));
    const [first, second] = this.panes, on = wanted ?? !this.subtracts;
    if (!second) return;
    if (!second.entry.map.difference) this.before = second.entry;
    const both = [first.entry, this.before], pictures = both.map((entry) => entry.picture);
    const trouble = on ? whyNoDifference(both, pictures) : "";
    this.minus.setAttribute("aria-pressed", String(on && !trouble));
    await second.open(on && !trouble ? differenceOf(both, pictures) : this.before);
    this.refresh();
    this.apart.hidden = !trouble;
    this.apart.textContent = `A − B cannot be shown: ${trouble}`;
  }

  /** Choose the same query and key in the other pane, as far as it has them. */
  follow(pane) {
    const other = this.panes.find((each) => each !== pane);
    if (!other?.picture || this.following) return;
    this.following = true;
    const [written, read] = pane.chosenTokens;
    const last = (tokens, token) => Math.min(token, tokens.count - 1);
    other.fixed = pane.fixed;
    other.choose([other.picture.rowOf(last(other.written, written)),
      other.picture.columnOf(last(other.read, read))]);
    this.following = false;
  }

  /** Show the same part of both maps, if they have the same number of cells. */
  share(pane) {
    this.out.disabled = !pane.window || pane.isWhole;
    const other = this.panes.find((each) => each !== pane);
    if (!other?.picture || other.picture.rows !== pane.picture.rows || other.picture.columns !== pane.picture.columns) return;
    other.window = { ...pane.window };
    other.draw();
  }

  mark(text) {
    this.settings.sought = text;
    for (const pane of this.panes) pane.mark();
  }

  /** Choose the cell of the query with the largest weight on a key. */
  goTo(token) {
    const { picture } = this.active, column = picture.columnOf(token);
    let best = Math.min(picture.rowOf(Math.min(token, picture.written - 1)), picture.rows - 1);
    for (let row = 0; row < picture.rows; row += 1) {
      if (RANK[picture.code(row, column)] > RANK[picture.code(best, column)]) best = row;
    }
    this.active.choose([best, column]);
  }

  find() {
    this.toolbar.reveal(this.search.field);
    this.search.field.focus();
  }

  table() {
    this.details.open = !this.details.open;
    if (this.details.open) this.details.querySelector("summary").focus();
  }

  /** Draw again after the colours, or what of the map is shown, have changed. */
  restyle() {
    for (const pane of this.panes) pane.turn(pane.view);
  }
}

/** The map to compare with: at the same position in the next model or layer, or the next map. */
function counterpart(entries, entry) {
  const models = new Set(entries.map(({ layer }) => layer.model));
  const layers = [...new Set(entries.map(({ layer }) => layer))];
  const own = (model) => layers.filter((layer) => layer.model === model);
  const at = own(entry.layer.model).indexOf(entry.layer);
  const there = models.size > 1
    ? own((entry.layer.model + 1) % models.size) : own(entry.layer.model);
  const layer = models.size > 1 ? there[Math.min(at, there.length - 1)] : there[(at + 1) % there.length];
  const found = entries.filter((each) => each.layer === layer);
  const place = entries.filter((each) => each.layer === entry.layer).indexOf(entry);
  const next = found[Math.min(place, found.length - 1)];
  if (next !== entry) return next;
  const among = found.length > 1 ? found : entries;
  return among[(among.indexOf(entry) + 1) % among.length];
}
