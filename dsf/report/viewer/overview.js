// All maps as thumbnails, with one line for every layer.

class Overview {
  /** `open(entry)` is called on a click. */
  constructor(content, entries, settings, open) {
    Object.assign(this, { content, entries, settings });
    this.root = make("nav", { className: "overview" });
    this.root.setAttribute("aria-label", "All maps");
    content.models.forEach((model, at) => {
      const layers = content.layers.filter((layer) => layer.model === at);
      if (content.models.length > 1) this.root.append(make("h2", {}, model.name));
      for (const layer of layers) this.root.append(this.line(layer, open));
    });
  }

  line(layer, open) {
    const count = layer.maps.length, first = layer.maps.filter(({ together }) => together).length;
    const single = count - first, left = layer.total - single;
    const all = first ? "all channels, " : "";
    const about = left > 0
      ? `${layer.mixer} · ${all}${single} of ${layer.total} drawn, ${left} not drawn`
      : `${layer.mixer} · ${all}${single} ${single === 1 ? "map" : "maps"}`;
    const thumbs = make("div", { className: "thumbs" });
    for (const entry of this.entries.filter((each) => each.layer === layer)) {
      thumbs.append(this.thumb(entry, open, count > 4));
    }
    const across = [4, 6, 8, 12].find((many) => many >= count) || 8;
    thumbs.style.setProperty("--across", across);
    return make("section", { className: `layer ${across > 6 ? "many" : "few"}` }, make("h3", {}, layer.name), make("p", { title: layer.chosen }, about), thumbs);
  }

  thumb(entry, open, brief) {
    const { layer, map } = entry, { rows, columns } = layer.thumbnails;
    const canvas = make("canvas", { className: "pattern", width: columns, height: rows });
    const short = map.together ? "all" : brief ? map.label.replace(/^(head|channel) /, "") : map.label;
    const thumb = make("button", { type: "button", className: "thumb", title: map.label, tabIndex: -1 },
      canvas, make("span", {}, short));
    thumb.setAttribute("aria-label", `${layer.name}, ${map.label}`);
    thumb.addEventListener("click", () => open(entry));
    thumb.addEventListener("keydown", (event) => this.moveFocus(event, entry));
    entry.thumb = thumb;
    entry.context = canvas.getContext("2d");
    return thumb;
  }

  /** Arrow keys move through the thumbnails; up and down go to the neighbouring layer. */
  moveFocus(event, entry) {
    const move = ARROWS[event.key];
    if (!move) return;
    event.preventDefault();
    const layers = this.content.layers, next = layers[layers.indexOf(entry.layer) + move[0]];
    const at = this.entries.indexOf(entry);
    const target = move[0] === 0 ? this.entries[at + move[1]]
      : next && this.entries.find((each) => each.layer === next
        && each.index === Math.min(entry.index, next.maps.length - 1));
    if (target) this.reach(target).focus();
  }

  /** Make a thumbnail the one that the Tab key reaches. */
  reach(entry) {
    for (const each of this.entries) each.thumb.tabIndex = each === entry ? 0 : -1;
    return entry.thumb;
  }

  /** Mark the thumbnails of the maps that are shown large, the active one first. */
  press(shown) {
    for (const { thumb } of this.entries) thumb.setAttribute("aria-pressed", "false");
    for (const entry of shown) entry.thumb.setAttribute("aria-pressed", "true");
    const thumb = this.reach(shown[0]);
    this.scroll = soon(this.scroll, () => bringIntoSight(thumb, this.root));
  }

  async draw() {
    for (const layer of this.content.layers) {
      layer.codes ??= await inflate(layer.thumbnails.codes);
      const { rows, columns } = layer.thumbnails;
      for (const entry of this.entries.filter((each) => each.layer === layer)) {
        const scale = this.settings.scaleOf(entry), cells = rows * columns;
        const codes = layer.codes.subarray(entry.index * cells, (entry.index + 1) * cells);
        entry.context.clearRect(0, 0, columns, rows);
        paint(entry.context, codes, pixelsOf(this.settings.curve, scale > 0 ? entry.map.scale / scale : 0),
          0, 0, columns, rows);
      }
    }
  }
}

/** Scroll a box, and nothing around it, until an element in it is visible. */
function bringIntoSight(element, box) {
  const inner = element.getBoundingClientRect(), outer = box.getBoundingClientRect();
  if (inner.top < outer.top) box.scrollTop -= outer.top - inner.top + 8;
  if (inner.bottom > outer.bottom) box.scrollTop += inner.bottom - outer.bottom + 8;
}
