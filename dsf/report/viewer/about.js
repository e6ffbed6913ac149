// A map in words, and what is picked to be seen first.

const known = new Map();

/** Tokens by their texts and number; made once, since long texts take time to measure. */
function tokensOf(texts, count) {
  const made = known.get(texts) || known.set(texts, {}).get(texts);
  made[count] ??= new Tokens(texts, count);
  return made[count];
}

/** Of the strongest links the one that says most: heavy and far from the diagonal. */
function farthest(map) {
  return map.links.reduce((best, link) => (best && reach(best) >= reach(link) ? best : link), null);
}

function reach([written, read, weight]) {
  return Math.abs(weight) * (1 + Math.abs(written - read));
}

/** The map to begin with: the one with the heaviest distant link, for its scale. */
function mostTelling(entries) {
  const tells = ({ map }) => (map.scale > 0 ? reach(farthest(map)) / map.scale : 0);
  return entries.reduce((best, entry) => (tells(entry) > tells(best) ? entry : best));
}

function aboutMap(map, layer, picture) {
  const parts = [`${layer.family} as ${layer.mixer}, ${layer.written} `
    + `${layer.written === 1 ? "token" : "tokens"}.`];
  if (layer.chosen) parts.push(`Of ${layer.total} maps are drawn ${layer.chosen}.`);
  if (picture.pooled) parts.push("Pooled: each cell shows its strongest link.");
  if (layer.ports > 1) parts.push(`Strongest of ${layer.ports} pairs of ports.`);
  if (map.magnitudes) parts.push("Complex weights: magnitudes.");
  if (map.nans + map.infinities) {
    parts.push(`Not finite: ${map.nans} NaN, ${map.infinities} infinite.`);
  }
  if (map.empty_total) {
    const more = map.empty_total > map.empty.length ? " …" : "";
    parts.push(`Rows that read nothing: ${map.empty.join(", ")}${more}.`);
  }
  const [low, high] = map.row_sums;
  parts.push(`Row sums ${number(low, 3)} to ${number(high, 3)}.`);
  return parts.join(" ");
}

/** The mean weight by lag, for the band above a map by lag. */
function lagCurve({ map, layer }, picture) {
  if (!map.state.lags) return null;
  const [lags, values] = map.state.lags;
  return { lags, values, perCell: layer.read / picture.columns };
}
