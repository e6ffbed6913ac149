// The viewer: an overview of all maps, next to one or two large ones. A page or a widget starts it.

/** Whether two models read the same tokens, so that their maps can be compared cell by cell. */
function sameTokens([one, other]) {
  return String(one.tokens) === String(other.tokens);
}

class App {
  constructor(root, content) {
    this.root = root;
    this.content = content;
    this.entries = content.layers.flatMap((layer) => bySample(layer.maps).flat().map((map) => {
      const { tokens, decoder_tokens: decoder } = content.models[layer.model];
      return { layer, map, index: layer.maps.indexOf(map), tokens: tokens && tokens[map.sample], decoder: decoder && decoder[map.sample] };
    }));
    this.settings = new Settings(content, (entry) => this.peers(entry));
    this.settings.frame = root;
    root.addEventListener("keydown", (event) => this.press(event));
  }

  /** Act on a key of the maps that no element with the focus has a use for. */
  press(event) {
    const { active } = this.stage || {};
    const isTaken = event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea");
    if (isTaken || !active?.picture || !EVERYWHERE.includes(event.key)) return;
    active.acts[event.key]();
    event.preventDefault();
  }

  async start() {
    if (!("DecompressionStream" in globalThis)) {
      throw new Error("this browser is too old to decompress them, since it lacks DecompressionStream");
    }
    this.overview = new Overview(this.content, this.entries, this.settings, {
      open: (entry) => this.open(entry, true),
    });
    this.stage = new Stage(this.entries, this.settings, this);
    this.root.replaceChildren(this.overview.root, this.stage.root);
    this.root.hidden = false;
    this.root.style.setProperty("--overview-width", `${this.overview.width}px`);
    await this.overview.load();
    const first = firstMap(this.entries.filter(({ layer }) => layer.model === 0));
    await this.open(first);
    if (this.content.models.length > 1 && sameTokens(this.content.models)) {
      await this.stage.compare(false);
      this.stage.activate(this.stage.panes[0]);
    }
    this.overview.draw();
    this.fit();
    if (this.content.attribution) this.stage.turn("shares");
    await new Promise(requestAnimationFrame);
  }

  /** Give the overview the width that a map as high as the window leaves free. */
  fit() {
    const { overview: { width, widest }, stage } = this;
    this.root.style.setProperty("--overview-width", `${width}px`);
    const free = Math.min(stage.free, widest - width);
    if (free > 0) this.root.style.setProperty("--overview-width", `${width + free}px`);
    stage.restyle();
  }

  /** The entries that are shown large, the active one first. */
  get shown() {
    const { active, panes } = this.stage;
    return [active, ...panes.filter((pane) => pane !== active)].map((pane) => pane.entry);
  }

  /** The maps that share a scale with one: those shown next to it, else those of its layer. */
  peers(entry) {
    const others = this.stage.panes.length > 1 ? this.shown.filter(Boolean).map(({ map }) => map) : [];
    const all = others.includes(entry.map) ? others : entry.layer.maps;
    return all.filter((map) => kindOf(map) === kindOf(entry.map));
  }

  /** Hide or show the overview next to the map; where it is below the map, scroll to it. */
  find() {
    const [maps, stage] = [this.overview, this.stage].map(({ root }) => root.getBoundingClientRect());
    if (this.overview.root.hidden || maps.top < stage.bottom - 1) {
      this.fold();
      return;
    }
    this.overview.reach(this.shown.find(({ thumb }) => thumb)).focus({ preventScroll: true });
    this.overview.root.scrollIntoView();
  }

  /** Hide the overview, so that the map has the whole width and fits the window below what stands above it, or show it again. */
  fold(away = !this.root.classList.contains("folded")) {
    if (away !== this.root.classList.contains("folded")) {
      [this.settings.frame, this.unfolded] = away ? [this.stage.place, this.settings.frame] : [this.unfolded, null];
    }
    this.root.classList.toggle("folded", away);
    this.overview.root.hidden = away;
    this.stage.overview.setAttribute("aria-expanded", String(!away));
    this.stage.restyle();
  }

  leave() {
    this.fold(false);
    const { active, panes } = this.stage;
    this.overview.reach((active.entry.thumb ? active : panes[0]).entry).focus();
  }

  async open(entry, focus = false) {
    await this.stage.open(entry);
    if (!focus) return;
    const { over, heading, isPicture, statePart } = this.stage.active;
    (isPicture ? over : statePart).focus({ preventScroll: true });
    this.sight = soon(this.sight, () => {
      const box = over.getBoundingClientRect();
      if (box.top < 0 || box.top > innerHeight * 0.6) heading.scrollIntoView();
    });
  }

  /** Open what the edges of a layer contribute, at one cell. */
  async goTo(layer, written, read) {
    const entry = this.entries.find((each) => each.layer.name === layer && each.map.share);
    if (!entry) return;
    this.stage.turn("map");
    await this.open(entry, true);
    const { picture } = this.stage.active;
    this.stage.active.choose([picture.rowOf(written), picture.columnOf(read)]);
  }

  step(by) {
    const { entries, stage: { active, before } } = this;
    const at = entries.indexOf(active.entry.map.difference ? before : active.entry);
    return this.open(entries[(at + by + entries.length) % entries.length], true);
  }

  restyle() {
    this.stage.restyle();
    this.overview.draw();
  }
}

// How maps are coloured, all of them alike: the curve, and one scale for several.

class Settings {
  /** `peers(entry)` are the maps that share a scale with one where a common scale is chosen. */
  constructor({ full, attribution, intervention }, peers) {
    Object.assign(this, { full, attribution, intervention, peers, curve: "root", together: false, sought: "" });
  }

  /** The weight from which on a colour is full: for the square root a robust one, else the largest. */
  endOf(entry) {
    const maps = this.together && !entry.map.difference ? this.peers(entry) : [entry.map];
    return Math.max(...maps.map((map) => (this.curve === "root" ? map.bright : map.scale)));
  }

  shadesOf(entry) {
    return new Shades(this.curve, entry.map.scale, this.endOf(entry));
  }
}
