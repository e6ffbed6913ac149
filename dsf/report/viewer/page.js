// The page: a grid of all maps beside one that is large.

const data = JSON.parse(document.getElementById("content").textContent);
const settings = { curve: "linear", together: false };
const maps = data.layers.flatMap((layer) => layer.maps.map((map, index) => ({ layer, map, index })));
let chosen = -1;
let viewer;

function shownScale({ layer, map }) {
  return settings.together ? Math.max(...layer.maps.map((other) => other.scale)) : map.scale;
}

function buildGrid() {
  const grid = document.getElementById("grid");
  let at = 0;
  for (const layer of data.layers) {
    const count = layer.maps.length;
    const left = layer.total - count;
    const about = left > 0
      ? `${layer.family} · ${count} of ${layer.total} drawn, ${left} left out: ${layer.chosen}`
      : `${layer.family} · ${count} ${count === 1 ? "map" : "maps"}`;
    const thumbs = make("div", { className: "thumbs" });
    for (const map of layer.maps) {
      const position = at;
      at += 1;
      const { rows, columns } = layer.thumbnails;
      const canvas = make("canvas", { className: "pattern", width: columns, height: rows });
      const thumb = make("button", { type: "button", className: "thumb", title: map.label,
        "aria-label": `${layer.name}, ${map.label}` }, canvas, make("span", {}, map.label));
      thumb.addEventListener("click", () => open(position, true));
      thumb.addEventListener("keydown", (event) => walk(event, position));
      maps[position].thumb = thumb;
      maps[position].context = canvas.getContext("2d");
      thumbs.append(thumb);
    }
    grid.append(make("section", { className: "layer" }, make("h3", {}, layer.name),
      make("p", {}, about), thumbs));
  }
}

/** Arrow keys step through the thumbnails. */
function walk(event, position) {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const next = by && maps[position + by];
  if (!next) return;
  event.preventDefault();
  next.thumb.focus();
}

async function drawThumbnails() {
  for (const layer of data.layers) {
    layer.codes ??= await inflate(layer.thumbnails.codes);
    const { rows, columns } = layer.thumbnails;
    for (const entry of maps.filter((each) => each.layer === layer)) {
      const scale = shownScale(entry);
      const codes = layer.codes.subarray(entry.index * rows * columns, (entry.index + 1) * rows * columns);
      entry.context.clearRect(0, 0, columns, rows);
      paint(entry.context, codes, pixelsOf(settings.curve, scale > 0 ? entry.map.scale / scale : 0),
        0, 0, columns, rows);
    }
  }
}

async function open(position, focus = false) {
  const entry = maps[position];
  maps[chosen]?.thumb.setAttribute("aria-pressed", "false");
  chosen = position;
  entry.thumb.setAttribute("aria-pressed", "true");
  const raw = entry.map.whole || entry.map.view;
  entry.picture ??= await Picture.open(raw, entry.map.scale, entry.layer);
  if (chosen !== position) return;
  viewer.show(entry.picture, entry.map, entry.layer, shownScale(entry),
    data.tokens && data.tokens[entry.map.sample]);
  if (!focus) return;
  viewer.over.focus({ preventScroll: true });
  const box = viewer.over.getBoundingClientRect();
  if (box.top < 0 || box.top > innerHeight * 0.6) viewer.heading.scrollIntoView();
}

/** The map to begin with: the one with the heaviest distant link, for its scale. */
function mostTelling() {
  const tells = ({ map }) => (map.scale > 0 ? reach(farthest(map)) / map.scale : 0);
  return maps.reduce((best, entry, at) => (tells(entry) > tells(maps[best]) ? at : best), 0);
}

function restyle() {
  drawThumbnails();
  open(chosen);
}

function followTheme() {
  const button = document.getElementById("theme");
  const dark = () => ramp() === RAMPS.dark;
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.hidden = false;
  name();
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    name();
    restyle();
  });
  for (const question of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(question).addEventListener("change", () => { name(); restyle(); });
  }
}

async function start() {
  if (!maps.length) return;
  if (!("DecompressionStream" in globalThis)) {
    throw new Error("this browser is too old to unpack them (it lacks DecompressionStream)");
  }
  buildGrid();
  document.getElementById("maps").hidden = false;
  viewer = new Viewer(document.getElementById("viewer"), settings, {
    step: (by) => open((chosen + by + maps.length) % maps.length, true),
    leave: () => maps[chosen].thumb.focus(),
    restyle,
  });
  await open(mostTelling());
  followTheme();
  await drawThumbnails();
  document.documentElement.dataset.ready = "true";
}

start().catch((error) => {
  const trouble = document.getElementById("trouble");
  trouble.textContent = `The maps cannot be drawn: ${error.message}.`;
  trouble.hidden = false;
});
