// What made the model say this, and what edits change.

// Short names of layers for the margin of the overview: what tells them apart, a number where it is one.

/** For every layer {number, rest}, without what all names begin and end with. */
function shortNames(names) {
  const parts = names.map((name) => name.split("."));
  const least = Math.min(...parts.map((each) => each.length));
  const alike = (at) => parts.every((each) => each.at(at) === parts[0].at(at));
  let begin = 0, end = 0;
  while (begin < least - 1 && alike(begin)) begin += 1;
  while (end < least - 1 - begin && alike(-1 - end)) end += 1;
  return parts.map((each) => {
    const [number, ...rest] = each.slice(begin, each.length - end);
    return /^\d+$/.test(number) ? { number, rest: rest.join(".") } : { number: "", rest: [number, ...rest].join(".") };
  });
}

// What made the model say this: tokens shaded by their shares, strongest paths, shares of layers and edges.

const PATHS = { widest: 720, narrowest: 280, line: 34, left: 100, right: 20, top: 22, apart: 5 };

/** `go(layer, query, key)` opens the edges of a layer at a cell. */
function drawShares(place, attribution, sample, tokens, go) {
  const shares = attribution.tokens[sample], most = Math.max(...shares.map(Math.abs)) || 1;
  const sum = shares.reduce((all, each) => all + each, 0), cuts = sample ? null : attribution.cuts;
  place.replaceChildren(make("h2", {}, "Shares of the tokens, layers and edges"),
    make("p", { className: "summary" }, `${attribution.target.charAt(0).toUpperCase()}${attribution.target.slice(1)}: `, make("b", {}, number(attribution.value[sample], 4)),
      ` = ${number(sum, 4)} from the tokens ${attribution.remainder[sample] < 0 ? "−" : "+"} `
      + `${number(Math.abs(attribution.remainder[sample]), 4)} from biases and first states. A share is of this run: attention `
      + "weights, activations and the factors of norms are held."
      + agreementText(attribution.agreement)),
    colouredText(shares, most, tokens, `Tokens, coloured by their share of ${attribution.target}`,
      `Square-root colours from −${number(most, 3)} (cool) to +${number(most, 3)} (warm).`, 4),
    make("div", { className: "numbers" },
      ...(attribution.paths ? [pathPart(attribution.paths, sample, tokens, place.clientWidth)] : []),
      make("section", {}, table("Tokens with the largest shares", ["token", "share", ...(cuts ? ["cut"] : [])], largest(shares).map(
        (token) => [tokens.named(token), number(shares[token], 4), ...(cuts ? [token in cuts ? number(cuts[token], 4) : ""] : [])]), 1),
      ...(cuts ? [make("p", {}, "Cut: by how much the value moves where no layer reads the token.")] : [])),
      make("section", {}, edgeTable(attribution.edges[sample], tokens, go)),
      make("section", {}, layerTable(attribution.layers, sample),
      make("p", {}, "Directly: along residual connections alone; these and the first stream sum to the value. "
        + "All paths: through later layers too; these overlap."))));
}

/** How well shares predicted what was lost when edges were cut one by one. */
function agreementText(found) {
  return found ? ` Of ${found.cuts} edges that were cut one by one, what was lost ranks with their shares at ${number(found.held, 2)}, and with their gradients at ${number(found.gradient, 2)}.` : "";
}

/** All layers in a box that scrolls, since there may be many more of them than of the other rows. */
function layerTable(layers, sample) {
  const names = shortNames(layers.map(([name]) => name));
  const rows = layers.map(([name, direct, total], k) => [
    make("span", { title: name }, [names[k].number, names[k].rest].filter(Boolean).join(" ")),
    number(direct[sample], 4), number(total[sample], 4)]);
  return make("div", { className: "tall", tabIndex: 0, role: "region", "aria-label": "Layers: a table that scrolls" }, table("Layers", ["part", "directly", "all paths"], rows, 1));
}

function largest(shares) {
  return [...shares.keys()].sort((a, b) => Math.abs(shares[b]) - Math.abs(shares[a])).slice(0, 12);
}

/** The input as text, each token in the colour of its number, after a caption. */
function colouredText(numbers, most, tokens, label, caption, digits) {
  const line = make("div", { tabIndex: 0, role: "region", "aria-label": label }, ...numbers.map((each, token) =>
    coloured(tokens.text(token), colourOf(each / most, "root"), `${tokens.shown(token)} (${token}): ${number(each, digits)}`)));
  return make("div", { className: "strip shares" }, make("p", {}, caption), line);
}

function edgeTable(edges, tokens, go) {
  return table("Edges with the largest shares", ["edge", "share"], edges.map(([layer, query, key, share]) => {
    const open = link(number(share, 4), `Show the edges of ${layer}`, () => go(layer, query, key));
    const words = make("span", {}, tokens.named(query), " reads ", tokens.named(key), make("br"), make("small", {}, layer));
    return [words, open];
  }));
}

/** Paths drawn from the tokens below to the number above, one line of tokens for each layer. */
function pathPart(paths, sample, tokens, available) {
  if (paths.sample !== sample) return make("section", {}, make("h3", {}, "Strongest paths"), make("p", {}, `They were searched for in sample ${paths.sample}.`));
  const found = paths.paths.slice(0, 8), layers = [...new Set(found.flatMap(({ edges }) => edges.map(({ layer }) => layer)))].sort((one, other) => one.localeCompare(other, "en", { numeric: true }));
  const places = [...new Set(found.flatMap(({ token, edges }) => [token, ...edges.flatMap(({ query, key }) => [query, key])]))].sort((a, b) => a - b);
  const { widest, narrowest, line, left, right, top, apart } = PATHS, width = Math.min(Math.max(available || widest, narrowest), widest);
  const height = top + line * (layers.length + 1) + 64;
  const x = (token) => left + (places.indexOf(token) + 0.5) * (width - left - right) / places.length;
  const y = (level) => height - 64 - line * level;
  const most = Math.max(...found.map(({ share }) => Math.abs(share))) || 1;
  const names = shortNames(layers).map(({ number, rest }) => (number ? `layer ${number}` : rest.slice(-14)));
  const parts = layers.flatMap((layer, k) => [
    shape("line", { x1: left, x2: width - right, y1: y(k + 1), y2: y(k + 1), class: "level" }),
    shape("text", { x: left - 8, y: y(k + 1) + 4, "text-anchor": "end" }, names[k]),
  ]);
  const lines = found.map(({ token, edges, share }, k) => {
    const aside = apart * (k - (found.length - 1) / 2);
    const stops = [[x(token), y(0)]];
    for (const { layer, query, key } of edges) {
      const level = layers.indexOf(layer) + 1;
      stops.push([x(key), y(level - 0.5)], [x(query), y(level)]);
    }
    stops.push([stops.at(-1)[0], y(layers.length + 0.6)]);
    const path = stops.map(([px, py], at) => `${at ? "L" : "M"}${(px + aside).toFixed(1)} ${py.toFixed(1)}`).join("");
    return shape("path", { d: path, class: share < 0 ? "lowers" : "raises",
      "stroke-width": (1 + 5 * Math.abs(share) / most).toFixed(1) }, shape("title", {}, `${number(share, 3)}`));
  });
  const below = places.map((token) => shape("text", { transform: `translate(${x(token) + 4} ${y(0) + 14}) rotate(35)`, class: "place" },
    `${tokens.shown(token).slice(0, 12)} (${token})`));
  const says = `The ${found.length} strongest paths from a token (below) over edges of layers to the number (above); `
    + `${found.length === paths.paths.length ? "" : `${paths.paths.length} were found; `}`
    + `together ${number(paths.covered, 3)} of ${number(paths.total, 3)}. Dashed ones lower it.`;
  const drawing = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": says }, ...parts, ...lines, ...below);
  const list = make("ol", {}, ...paths.paths.map(({ token, edges, share }) => make("li", {}, tokens.named(token),
    ...edges.flatMap(({ layer, query }) => [` → `, tokens.named(query), ` in ${layer}`]), `: ${number(share, 4)}`)));
  return make("figure", { className: "chart paths" }, make("h3", {}, "Strongest paths"), drawing,
    make("figcaption", {}, says), make("details", {}, make("summary", {}, "As text"), list));
}

// An intervention: by how much every output moves, and the last logits, without or with the edits.

function drawEdits(place, { edits, moved, logits }, sample, tokens) {
  const sizes = moved[sample], most = Math.max(...sizes) || 1;
  const body = make("div", { className: "numbers", role: "status" });
  const show = (changed) => {
    run.press(changed ? "changed" : "clean");
    const at = changed ? 2 : 1, ordered = [...logits[sample]].sort((one, other) => other[at] - one[at]);
    body.replaceChildren(make("section", {}, table(`Logits after the last token, ${changed ? "with" : "without"} the edits`,
      ["token", "logit", "changed − clean"],
      ordered.map(([name, clean, after]) => [name.replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length)), number(changed ? after : clean, 4), number(after - clean, 3)]), 1)));
  };
  const run = choices("Run", { clean: "Clean", changed: "Changed" }, (name) => show(name === "changed"));
  place.replaceChildren(make("h2", {}, "The run with edits"),
    make("p", { className: "summary" }, `Edits: ${edits.join("; ") || "none"}.`),
    colouredText(sizes, most, tokens, "Tokens, coloured by how much the output after them moves",
      `Largest change of the output after each token: 0 (pale) to ${number(most, 3)}, square root.`, 3),
    run, body);
  show(true);
}
