// The description of a map, and which cell and which map are shown first.

/** What the numbers of a map are: weights of one head or channel, or one of the other kinds. */
function kindOf({ together, share }) {
  return together ? "together" : share ? "share" : "";
}

const known = new Map();

/** The tokens of given texts, count and order; cached, since measuring long texts takes time. */
function tokensOf(texts, count, kind = "token", numbers = null) {
  const alike = known.get(texts) || known.set(texts, []).get(texts);
  let made = alike.find((each) => each.count === count && each.kind === kind && each.numbers === numbers);
  if (!made) alike.push(made = new Tokens(texts, count, kind, numbers));
  return made;
}

/** The queries of a map, and its keys. */
function tokensOfMap({ map, layer, tokens, decoder }) {
  const texts = (known) => (known === "decoder" ? decoder : known && tokens);
  const [rows, keys] = [map.row_order, map.key_order].map((at) => (at === undefined ? null : layer.orders[at]));
  return [tokensOf(texts(layer.row_texts), layer.written, "token", rows), tokensOf(texts(layer.key_texts), layer.read, layer.columns === "slot" ? "slot" : "token", keys)];
}

/** The cell to show first: strong and far from the diagonal, not on the first key, where there is one. */
function firstCell(picture) {
  let best = [0, 0], most = 0;
  for (let row = 0; row < picture.rows; row += 1) {
    for (let column = 0; column < picture.columns; column += 1) {
      const code = picture.code(row, column);
      if (code <= MINUS_INFINITY) continue;
      const far = picture.square ? Math.abs(row - column) : 1;
      const size = Math.abs(shareOf(code)) * far * (column === 0 ? 1e-3 : 1);
      if (size > most) [best, most] = [[row, column], size];
    }
  }
  return most > 0 ? best : [0, 0];
}

/** The map to show first: the one that reads most elsewhere. A layer of channels shows all of them together
    before single ones. */
function firstMap(entries) {
  const grouped = new Set(entries.filter(({ map }) => map.together).map(({ layer }) => layer));
  const shown = entries.filter(({ map, layer }) => !map.share && (map.together || !grouped.has(layer)));
  return shown.reduce((best, entry) => (weightElsewhere(entry.small) > weightElsewhere(best.small) ? entry : best));
}

function aboutMap(map, layer, picture, full, written) {
  if (map.together) return aboutTogether(map, layer, picture);
  if (map.share) return aboutShare(map, picture);
  if (map.difference) return aboutDifference(map, picture);
  const parts = [`${layer.family} as ${layer.mixer}, ${layer.written} `
    + `${layer.written === 1 ? "token" : "tokens"}.`];
  if (layer.inputs) parts.push(layer.inputs.map((name, k) => `${k ? "Keys" : "Queries"} are tokens ${name ? `of ${name}` : "of no single input"}.`).join(" "));
  if (layer.chosen) parts.push(`Only some of its ${layer.total} maps are drawn: ${layer.chosen}.`);
  if (picture.pooled) parts.push("Pooled: each cell shows the largest of its weights.");
  if (picture.pooled && full) parts.push(full);
  if (!picture.pooled && !picture.values) parts.push("Kept token by token: zoom to see them. Every weight is stored in eight bits (≈).");
  if (layer.ports > 1) parts.push(`Each cell shows the largest of ${layer.ports} input-output pairs.`);
  if (map.magnitudes) parts.push("The weights are complex; their magnitudes are shown.");
  if (map.nans + map.infinities) {
    parts.push(`Not finite: ${map.nans} NaN, ${map.infinities} infinite.`);
  }
  if (map.empty_total) {
    const more = map.empty_total > map.empty.length ? " …" : "";
    parts.push(`Queries whose weights are all zero: ${map.empty.map((query) => written.position(query)).join(", ")}${more}.`);
  }
  const [low, high] = map.row_sums;
  parts.push(`Row sums ${number(low, 3)} to ${number(high, 3)}.`);
  return parts.join(" ");
}

function aboutShare({ share, links }, picture) {
  const cells = picture.pooled ? " Pooled: each cell shows the largest of its edges." : "";
  return `Every cell is an edge: what the value of its key (column), mixed into its query (row), contributes to ${share.target}, `
    + `over all heads or channels and along all later paths.${cells}${links.length ? "" : " No edge contributes."}`;
}

function aboutDifference({ difference: [a, b], nans }, picture) {
  const cells = picture.pooled ? "Pooled: each cell is the difference of the largest weights in it. " : "";
  return `Every cell is the weight of A, ${a}, minus that of B, ${b}. ${cells}`
    + `${picture.values ? "" : "The weights were stored in eight bits, so that small differences are rounding. "}`
    + `${nans ? "Cells in which a weight is not finite are marked. " : ""}`;
}

/** What is shown of all channels together, in sentences. */
function aboutTogether({ together, nans, infinities }, layer, picture) {
  const { channels, total, onto } = together;
  const some = channels < total ? ` of ${total} (those that were chosen)` : "";
  const one = picture.pooled ? "neighbouring tokens together" : "a token";
  const parts = [`${layer.family} as ${layer.mixer}, ${layer.written} ${layer.written === 1 ? "token" : "tokens"}.`,
    `Each cell shows how strongly its key acts on its query through all ${channels} channels${some}: the length of what `
      + `${one} (column) ${picture.pooled ? "contribute" : "contributes"} to ${onto} at `
      + `${picture.pooled ? "the last token of the row" : "another (row)"}, in the unit of that output, `
      + "with output gate and norm as in this run."];
  if (picture.pooled) parts.push(`The ${layer.written} tokens form ${picture.rows} groups.`);
  if (nans + infinities) parts.push(`Not finite: ${nans} NaN, ${infinities} infinite.`);
  const drawn = layer.maps.filter((each) => !each.together).length;
  parts.push(`The maps of ${drawn === total ? "its" : drawn} single channels follow${layer.chosen ? `: ${layer.chosen}` : ""}.`);
  return parts.join(" ");
}

// The map A − B as one more entry, made in the page from the two maps that are shown.

/** Why two maps cannot be subtracted from each other; empty where they can. */
function whyNoDifference([a, b], [one, other]) {
  if (one.rows !== other.rows || one.columns !== other.columns) return "A and B have different numbers of tokens or cells.";
  if (kindOf(a.map) !== kindOf(b.map)) return "A and B show numbers of different kinds.";
  return "";
}

/** The entry of A − B, whose cells hold the differences of the cells of two pictures. */
function differenceOf([a, b], [one, other]) {
  const weights = weightsOf(one), subtracted = weightsOf(other);
  for (let at = 0; at < weights.length; at += 1) weights[at] -= subtracted[at];
  const scale = weights.reduce((most, each) => (Number.isFinite(each) ? Math.max(most, Math.abs(each)) : most), 0);
  const codes = Uint8Array.from(weights, (weight, at) => {
    if (one.codes[at] === MASKED && other.codes[at] === MASKED) return MASKED;
    return codeOf(weight, scale);
  });
  const exact = one.values && other.values;
  const picture = new Picture(one, codes, exact ? weights : null, scale, { ...a.layer, written: one.written, read: one.read });
  const strongest = strongestCells(picture, weights);
  const map = { label: "A − B", sample: a.map.sample, scale, nans: 0, infinities: 0, signed: true,
    bright: scale, magnitudes: false, empty: [], empty_total: 0, links: strongest, columns: [],
    row_sums: null, measures: [], state: {}, verdicts: [], difference: [nameOf(a), nameOf(b)] };
  return { layer: { ...a.layer, name: `${nameOf(a)} minus ${nameOf(b)}` }, map, index: 0, tokens: a.tokens, decoder: a.decoder, picture };
}

function nameOf({ layer, map }) {
  return `${layer.name} · ${map.label}`;
}

/** All weights of a picture: 0 where masked, NaN where not finite, exact where they are kept so. */
function weightsOf(picture) {
  const weights = Float32Array.from(picture.codes, (code) => shareOf(code) * picture.scale);
  if (picture.values) weights.set(picture.values);
  picture.codes.forEach((code, at) => {
    if (code <= MINUS_INFINITY) weights[at] = code === MASKED ? 0 : NaN;
  });
  return weights;
}

/** The code of a weight; see views.py. */
function codeOf(weight, scale) {
  if (!Number.isFinite(weight)) return NAN;
  return ZERO + Math.round(LEVELS * Math.sign(weight) * Math.sqrt(Math.abs(weight) / (scale || 1)));
}

/** The twelve cells of largest magnitude, as [query, key, weight]. */
function strongestCells(picture, weights) {
  const most = Array.from(weights.keys()).filter((at) => Number.isFinite(weights[at]) && weights[at] !== 0)
    .sort((one, other) => Math.abs(weights[other]) - Math.abs(weights[one])).slice(0, 12);
  return most.map((at) => [...tokensAt(picture, [Math.floor(at / picture.columns), at % picture.columns]), weights[at]]);
}
