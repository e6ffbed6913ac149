// All maps as thumbnails: layers downwards, heads across.

const THUMB = 44, ROOMY = 84, LARGE = 75, LABEL = 34, LONG_LABEL = 96; // CSS pixels
const MIN_RANKED = 12, FIRST = 5; // maps from which on some are named first, and how many are

class Overview {
  /** `open(entry)` is called on a click. */
  constructor(content, entries, settings, { open }) {
    Object.assign(this, { content, entries, settings, open, label: 0 });
    this.root = make("nav", { className: "overview", "aria-label": "All maps" });
    this.first = make("p", { className: "drawn first" });
    this.box = make("div", { className: "all" });
    this.root.append(make("h2", {}, "All maps"), this.first, this.box);
    content.models.forEach((model, at) => {
      const layers = content.layers.filter((layer) => layer.model === at);
      if (content.models.length > 1) this.box.append(make("h2", {}, model.name));
      if (layers.length) this.box.append(...this.lines(layers));
    });
  }

  get across() {
    return Math.max(...this.content.layers.map(acrossOf));
  }

  /** Preferred width of the overview next to a map. */
  get width() {
    const thumb = this.across > 6 ? THUMB : ROOMY - 4 * this.across;
    return Math.max(this.label + this.across * thumb + 26, 240);
  }

  /** How wide it may become where the map leaves room. */
  get widest() {
    return Math.max(this.width, this.label + this.across * LARGE + 26);
  }

  /** One line for every layer; what is the same for all of them is said once. */
  lines(layers) {
    const names = shortNames(layers.map(({ name }) => name)), onTheLeft = names.every(({ number, rest }) => number && rest.length <= 16);
    const facts = layers.map(aboutDrawn), once = new Set(facts).size === 1;
    const label = !onTheLeft ? 0 : names.some(({ rest }) => rest) ? LONG_LABEL : LABEL;
    this.label = Math.max(this.label, label);
    const columns = columnNames(layers);
    const head = columns && make("div", { className: "columns", ariaHidden: "true" }, ...columns.map((name) => make("span", {}, name)));
    const lines = layers.map((layer, k) => {
      const thumbs = this.thumbs(layer, columns);
      const { number, rest } = names[k];
      const name = onTheLeft ? [make("b", {}, number), ...(rest ? [make("span", {}, rest)] : [])] : [layer.name];
      const line = make("section", { className: "layer" }, make("h3", { title: layer.name }, ...name),
        ...(once ? [] : [make("p", { title: layer.chosen }, facts[k])]), ...thumbs);
      line.style.setProperty("--across", acrossOf(layer));
      return line;
    });
    const group = make("div", { className: `lines ${onTheLeft ? "name-left" : ""} ${columns ? "named" : ""}` }, ...(head ? [head] : []), ...lines);
    group.style.setProperty("--label", `${label}px`);
    group.style.setProperty("--across", acrossOf(layers[0]));
    return [...(once ? [make("p", { className: "drawn", title: layers[0].chosen }, facts[0])] : []), group];
  }

  /** The thumbnails of a layer; of several samples those of each under its name. */
  thumbs(layer, columns) {
    const samples = bySample(layer.maps);
    return samples.flatMap((maps) => {
      const thumbs = make("div", { className: "thumbs" });
      for (const entry of this.entries.filter((each) => maps.includes(each.map))) thumbs.append(this.thumb(entry, maps, columns));
      return samples.length > 1 ? [make("p", { className: "sample" }, `sample ${maps[0].sample}`), thumbs] : [thumbs];
    });
  }

  thumb(entry, siblings, columns) {
    const { layer, map } = entry, { rows, columns: across } = layer.thumbnails;
    const canvas = make("canvas", { className: "pattern", width: across, height: rows });
    const label = withoutSample(map);
    const brief = siblings.length > 4 ? numbersOf(label) : label;
    const caption = columns ? [] : [make("span", {}, map.together ? "all" : map.share ? "edges" : brief)];
    const thumb = make("button", { type: "button", className: "thumb", title: `${layer.name} · ${map.label}`, tabIndex: -1,
      "aria-label": `${layer.name}, ${map.label}` }, canvas, ...caption);
    thumb.addEventListener("click", () => this.open(entry));
    thumb.addEventListener("keydown", (event) => this.moveFocus(event, entry));
    entry.thumb = thumb;
    entry.context = canvas.getContext("2d");
    return thumb;
  }

  /** Arrow keys move through the thumbnails; up and down go to the nearest in the row that is seen there. */
  moveFocus(event, entry) {
    const move = ARROWS[event.key];
    if (!move) return;
    event.preventDefault();
    const target = move[0] ? this.nextRow(entry, move[0]) : this.entries[this.entries.indexOf(entry) + move[1]];
    if (target) this.reach(target).focus();
  }

  /** The thumbnail above (-1) or below (1) another, as they stand on the screen. */
  nextRow(entry, down) {
    const places = new Map(this.entries.map((each) => [each, each.thumb.getBoundingClientRect()]));
    const { top, left } = places.get(entry);
    const beyond = this.entries.filter((each) => (places.get(each).top - top) * down > 1);
    const nearest = Math.min(...beyond.map((each) => (places.get(each).top - top) * down));
    const apart = (each) => Math.abs(places.get(each).left - left);
    return beyond.filter((each) => (places.get(each).top - top) * down < nearest + 1)
      .reduce((best, each) => (best && apart(best) <= apart(each) ? best : each), null);
  }

  /** Make a thumbnail the one that the Tab key reaches. */
  reach(entry) {
    for (const each of this.entries) each.thumb.tabIndex = each === entry ? 0 : -1;
    return entry.thumb;
  }

  /** Mark the thumbnails of the maps that are shown large, the active one first. */
  press(shown) {
    for (const { thumb } of this.entries) thumb.setAttribute("aria-pressed", "false");
    const drawn = shown.filter(({ thumb }) => thumb);
    for (const { thumb } of drawn) thumb.setAttribute("aria-pressed", "true");
    if (!drawn.length) return;
    const thumb = this.reach(drawn[0]);
    this.scroll = soon(this.scroll, () => bringIntoSight(thumb, this.box));
  }

  /** Decompress the thumbnails. */
  async load() {
    for (const layer of new Set(this.entries.map((entry) => entry.layer))) {
      const codes = await inflate(layer.thumbnails.codes), { rows, columns } = layer.thumbnails;
      const cells = rows * columns;
      for (const entry of this.entries.filter((each) => each.layer === layer)) {
        entry.small = new Picture(layer.thumbnails, codes.subarray(entry.index * cells,
          (entry.index + 1) * cells), null, entry.map.scale, layer);
      }
    }
    this.nameFirst();
  }

  /** Name the maps that read most elsewhere than at the token itself, the one before it and the first key. */
  nameFirst() {
    const ranked = this.entries.filter(({ map }) => !(map.share || map.together));
    if (ranked.length < MIN_RANKED) return;
    const away = new Map(ranked.map((entry) => [entry, weightElsewhere(entry.small)]));
    ranked.sort((a, b) => away.get(b) - away.get(a));
    const counts = new Map(), turn = new Map(); // no layer twice before every layer once
    for (const entry of ranked) {
      turn.set(entry, counts.get(entry.layer) ?? 0);
      counts.set(entry.layer, turn.get(entry) + 1);
    }
    ranked.sort((a, b) => turn.get(a) - turn.get(b));
    const names = shortNames(this.content.layers.map(({ name }) => name));
    const named = ({ layer, map }) => {
      const { number, rest } = names[this.content.layers.indexOf(layer)];
      return `${number ? `layer ${number}` : rest} ${map.label}`;
    };
    this.first.replaceChildren("Look first at: ", ...ranked.slice(0, FIRST).flatMap((entry, k) => [k ? ", " : "",
      link(named(entry), `Open ${entry.layer.name}, ${entry.map.label}`, () => this.open(entry))]));
  }

  draw() {
    for (const entry of this.entries) {
      const { small, context } = entry;
      context.clearRect(0, 0, small.columns, small.rows);
      paint(context, small.codes, this.settings.shadesOf(entry).pixels, 0, 0, small.columns, small.rows);
    }
  }
}

/** The squares of the weights below the second diagonal and right of the first column, by the largest weight. */
function weightElsewhere({ rows, columns, codes }) {
  let sum = 0;
  for (let row = 3; row < rows; row += 1) {
    for (let column = 1; column < Math.min(row - 1, columns); column += 1) {
      const code = codes[row * columns + column];
      if (code > MINUS_INFINITY) sum += shareOf(code) ** 2;
    }
  }
  return sum;
}

/** The maps of a layer, those of each sample together. */
function bySample(maps) {
  const samples = [...new Set(maps.map(({ sample }) => sample))].sort((a, b) => a - b);
  return samples.map((sample) => maps.filter((map) => map.sample === sample));
}

/** The name of a map among those of its sample. */
function withoutSample({ label, sample }) {
  return label.replace(`sample ${sample}, `, "");
}

/** The numbers in the name of a map: "3" of "head 3", "1, 2" of "window 1, head 2"; another name as it is. */
function numbersOf(label) {
  const parts = label.split(", ").map((part) => /^[a-z]+ (\d+)$/.exec(part));
  return parts.every(Boolean) ? parts.map(([, count]) => count).join(", ") : label;
}

/** What several numbers under a thumbnail count, such as ": window, head"; nothing where names are given. */
function counted(maps) {
  const label = withoutSample(maps[0]);
  return maps.length > 4 && label.includes(", ") && numbersOf(label) !== label ? `: ${label.replace(/ \d+/g, "")}` : "";
}

/** How many thumbnails of a layer stand side by side: all of a sample up to 12, else a number that divides them. */
function acrossOf({ maps }) {
  const count = Math.max(...bySample(maps).map(({ length }) => length));
  return count <= 12 ? Math.max(count, 2) : [12, 10, 9, 8].find((many) => count % many === 0) || 12;
}

/** The numbers above the columns, if these mean the same head in every layer and no line is broken. */
function columnNames(layers) {
  const lines = layers.flatMap(({ maps }) => bySample(maps).map((of) => of.map(withoutSample)));
  const plain = lines.every((line) => line.length === lines[0].length && line.every((label, k) => label === `head ${k}`));
  const { length } = lines[0];
  return plain && length > 4 && length <= 12 ? lines[0].map((_, k) => String(k)) : null;
}

/** The class of a layer's mixer, and how many of its maps are drawn. */
function aboutDrawn(layer) {
  const maps = layer.maps.filter(({ share }) => !share);
  const count = maps.length, first = maps.filter(({ together }) => together).length;
  const single = count - first, left = layer.total - single;
  const all = first ? "all channels, " : "";
  const names = counted(maps.filter(({ together }) => !together));
  return left > 0
    ? `${layer.mixer} · ${all}${single} of ${layer.total} drawn, ${left} not drawn${names}`
    : `${layer.mixer} · ${all}${single} ${single === 1 ? "map" : "maps"}${names}`;
}

/** Scroll a box, and nothing around it, until an element in it is visible. */
function bringIntoSight(element, box) {
  const inner = element.getBoundingClientRect(), outer = box.getBoundingClientRect();
  const bottom = outer.top < innerHeight ? Math.min(outer.bottom, innerHeight) : outer.bottom;
  if (inner.top < outer.top + 30) box.scrollTop -= outer.top + 30 - inner.top + 8;
  if (inner.bottom > bottom) box.scrollTop += inner.bottom - bottom + 8;
}
