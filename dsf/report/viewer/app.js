// The viewer: an overview of all maps beside one or two large ones. A page or a widget starts it.

class App {
  constructor(root, content) {
    this.root = root;
    this.content = content;
    this.entries = content.layers.flatMap((layer) => layer.maps.map((map, index) => {
      const { tokens } = content.models[layer.model];
      return { layer, map, index, tokens: tokens && tokens[map.sample] };
    }));
    this.settings = { curve: "linear", together: false, grid: content.grid,
      scaleOf: (entry) => this.scaleOf(entry) };
  }

  async start() {
    if (!("DecompressionStream" in globalThis)) {
      throw new Error("this browser is too old to decompress them, since it lacks DecompressionStream");
    }
    this.overview = new Overview(this.content, this.entries, this.settings,
      (entry) => this.open(entry, true));
    this.stage = new Stage(this.entries, this.settings, {
      step: (by) => this.step(by), leave: () => this.overview.reach(this.stage.active.entry).focus(),
      restyle: () => this.restyle(), shown: () => this.overview.press(this.shown),
    });
    this.root.replaceChildren(this.overview.root, this.stage.root);
    this.root.hidden = false;
    const first = firstMap(this.entries.filter(({ layer }) => layer.model === 0));
    await this.open(first);
    if (this.content.models.length > 1) {
      await this.stage.compare(false);
      this.stage.activate(this.stage.panes[0]);
    }
    await this.overview.draw();
    await new Promise(requestAnimationFrame);
  }

  /** The entries that are shown large, the active one first. */
  get shown() {
    const { active, panes } = this.stage;
    return [active, ...panes.filter((pane) => pane !== active)].map((pane) => pane.entry);
  }

  /** The weight at the end of the colour scale. */
  scaleOf(entry) {
    if (!this.settings.together) return entry.map.scale;
    const beside = this.stage.panes.length > 1 ? this.shown.filter(Boolean).map(({ map }) => map) : [];
    const all = beside.includes(entry.map) ? beside : entry.layer.maps;
    const alike = all.filter(({ together }) => Boolean(together) === Boolean(entry.map.together));
    return Math.max(...alike.map((map) => map.scale));
  }

  async open(entry, focus = false) {
    await this.stage.open(entry);
    if (!focus) return;
    const { over, heading } = this.stage.active;
    over.focus({ preventScroll: true });
    this.sight = soon(this.sight, () => {
      const box = over.getBoundingClientRect();
      if (box.top < 0 || box.top > innerHeight * 0.6) heading.scrollIntoView();
    });
  }

  step(by) {
    const { entries } = this, at = entries.indexOf(this.stage.active.entry);
    return this.open(entries[(at + by + entries.length) % entries.length], true);
  }

  restyle() {
    this.stage.restyle();
    return this.overview.draw();
  }
}
