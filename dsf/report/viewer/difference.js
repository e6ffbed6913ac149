// The map A − B as one more entry, made in the page from the two maps that are shown.

/** Why two maps cannot be subtracted from each other; empty where they can. */
function whyNoDifference([a, b], [one, other]) {
  if (one.rows !== other.rows || one.columns !== other.columns) return "A and B have different numbers of tokens.";
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
    ...brightness(picture), magnitudes: false, empty: [], empty_total: 0, links: strongest, columns: [],
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
  for (const { row, column, columns, values } of picture.windows?.all || []) {
    for (let from = 0, at = row; from < values.length; from += columns, at += 1) {
      weights.set(values.subarray(from, from + columns), at * picture.columns + column);
    }
  }
  picture.codes.forEach((code, at) => {
    if (code <= MINUS_INFINITY) weights[at] = code === MASKED ? 0 : NaN;
  });
  return weights;
}

/** The code of a weight; see map_bytes.py. */
function codeOf(weight, scale) {
  if (!Number.isFinite(weight)) return NAN;
  return ZERO + Math.round(LEVELS * Math.sign(weight) * Math.sqrt(Math.abs(weight) / (scale || 1)));
}

/** The weights at which colours are full, as views.py has them for maps of the file. */
function brightness(picture) {
  const counts = new Float64Array(LEVELS + 1), { codes, columns } = picture;
  let all = 0, top = 0, beside = 0;
  codes.forEach((code, at) => {
    const onDiagonal = picture.square && at % (columns + 1) === 0;
    if (code <= MINUS_INFINITY || onDiagonal) return;
    const level = Math.abs(code - ZERO);
    beside = Math.max(beside, level);
    if (at % columns === 0) return;
    counts[level] += 1;
    all += 1;
    top = Math.max(top, level);
  });
  const weight = (level) => (level / LEVELS) ** 2 * picture.scale;
  const levelAt = (share) => {
    let level = 0;
    for (let sum = counts[0]; level < top && sum < share * all; sum += counts[level]) level += 1;
    return level;
  };
  const [low, high] = [0.02, 0.98].map((share) => weight(levelAt(share)));
  const full = top ? Math.max(high, weight(top) / 16) : picture.scale;
  const uniform = all >= 10 && low > full / 2 ? [low, full] : null;
  return { bright: uniform ? full * (2 * low / full) ** 2 : full, largest_apart: weight(beside) || picture.scale, uniform };
}

/** The twelve cells of largest magnitude, as [query, key, weight]. */
function strongestCells(picture, weights) {
  const most = Array.from(weights.keys()).filter((at) => Number.isFinite(weights[at]) && weights[at] !== 0)
    .sort((one, other) => Math.abs(weights[other]) - Math.abs(weights[one])).slice(0, 12);
  return most.map((at) => [...tokensAt(picture, [Math.floor(at / picture.columns), at % picture.columns]), weights[at]]);
}
