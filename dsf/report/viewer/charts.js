// Small charts of curves in SVG: points, axes with ticks, labelled rules. Lengths in SVG units.

const CHART = { width: 340, height: 214, left: 52, right: 14, top: 24, bottom: 38 };

/** One figure; `curves` = [{name, points: [[x, y]], stems}], `rules` = [{x | y, label}]. */
function chart({ title, says, axes, curves, rules = [], logarithmic = false }) {
  const points = curves.flatMap((curve) => curve.points);
  const across = span([...points.map(([x]) => x), ...rules.flatMap(({ x }) => x ?? [])]);
  const up = logarithmic ? decades(points) : span([0, ...points.map(([, y]) => y),
    ...rules.flatMap(({ y }) => y ?? [])]);
  const x = scaled(across, CHART.left, CHART.width - CHART.right);
  const y = scaled(logarithmic ? up.map(Math.log10) : up, CHART.height - CHART.bottom, CHART.top);
  const height = (value) => y(logarithmic ? Math.log10(Math.max(value, up[0])) : value);
  const parts = [
    ...ticks(up, logarithmic).map((at) => tick(CHART.left, height(at), at, "left")),
    ...ticks(across).filter((at) => Number.isInteger(at))
      .map((at) => tick(x(at), CHART.height - CHART.bottom, at, "below")),
    ...rules.map((rule) => ruled(rule, x, height)),
    ...curves.map((curve, k) => drawn(curve, k, x, height)),
    ...(curves.length > 1 ? curves.map((curve, k) => named(curve, k)) : []),
    shape("text", { x: CHART.width - CHART.right, y: CHART.height - 6, class: "title", "text-anchor": "end" }, axes[0]),
    shape("text", { x: 2, y: 11, class: "title" }, axes[1]),
  ];
  const drawing = shape("svg", { viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img",
    "aria-label": `${title}. ${says}` }, ...parts);
  const values = curves.map((curve) => make("p", {}, curve.name ? `${curve.name}: ` : "",
    curve.points.map(([at, value]) => `${number(at, 4)}: ${number(value, 4)}`).join(", ")));
  return make("figure", { className: "chart" }, make("h3", {}, title), drawing,
    make("figcaption", {}, says), make("details", {}, make("summary", {}, "Values"), ...values));
}

function span(values) {
  const low = Math.min(...values), high = Math.max(...values);
  return low < high ? [low, high] : [Math.min(low, 0), Math.max(high, 1)];
}

/** A range of whole decades that contains the points, at most twelve of them. */
function decades(points) {
  const sizes = points.map(([, y]) => y);
  if (!sizes.length) return [0.1, 1];
  const top = Math.ceil(Math.log10(Math.max(...sizes)) - 1e-9);
  const bottom = Math.floor(Math.log10(Math.min(...sizes)) + 1e-9);
  return [10 ** Math.min(Math.max(bottom, top - 12), top - 1), 10 ** top];
}

function scaled([low, high], from, to) {
  return (value) => from + (value - low) / (high - low) * (to - from);
}

function ticks([low, high], logarithmic = false) {
  const found = [];
  if (logarithmic) {
    const [from, to] = [low, high].map((each) => Math.round(Math.log10(each)));
    const step = Math.ceil((to - from) / 4);
    for (let power = to; power >= from; power -= step) found.push(10 ** power);
    return found;
  }
  const rough = (high - low) / 4, size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find((each) => each * size >= rough);
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k += 1) found.push(k * step);
  return found;
}

function tick(x, y, value, side) {
  const text = Math.abs(value) > 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)
    ? value.toExponential(0).replace("+", "")
    : String(Number(value.toPrecision(4)));
  const shown = text.replaceAll("-", "−");
  if (side === "below") {
    return shape("g", { class: "tick" }, shape("line", { x1: x, x2: x, y1: y, y2: y + 4 }),
      shape("text", { x, y: y + 16, "text-anchor": "middle" }, shown));
  }
  return shape("g", { class: "tick" },
    shape("line", { x1: x, x2: CHART.width - CHART.right, y1: y, y2: y }),
    shape("text", { x: x - 6, y: y + 4, "text-anchor": "end" }, shown));
}

function ruled({ x, y, label }, across, height) {
  const line = y === undefined
    ? { x1: across(x), x2: across(x), y1: CHART.top, y2: CHART.height - CHART.bottom }
    : { x1: CHART.left, x2: CHART.width - CHART.right, y1: height(y), y2: height(y) };
  const late = line.x1 > CHART.width * 0.6;
  const place = y === undefined
    ? { x: line.x1 + (late ? -5 : 5), y: CHART.top + 10, "text-anchor": late ? "end" : "start" }
    : { x: line.x2, y: line.y1 - 5, "text-anchor": "end" };
  return shape("g", { class: "rule" }, shape("line", line), shape("text", place, label));
}

function drawn({ points, stems }, k, x, height) {
  const places = points.map(([at, value]) => [x(at), height(value)]);
  const line = stems
    ? places.map(([px, py]) => `M${px} ${height(0)}V${py}`).join("")
    : places.map(([px, py], at) => `${at ? "L" : "M"}${px} ${py}`).join("");
  const dots = places.length > 64 && !stems ? [] : places.map((place) => marker(k, ...place));
  return shape("g", { class: `curve c${k}` }, shape("path", { d: line }), ...dots);
}

/** The marker of a curve; markers differ in shape, so that colour is not needed. */
function marker(k, x, y) {
  const size = 2.6;
  if (k === 0) return shape("circle", { cx: x, cy: y, r: size });
  if (k === 1) return shape("rect", { x: x - size, y: y - size, width: 2 * size, height: 2 * size });
  return shape("path", { class: "dot", d: `M${x} ${y - 3.6}l3.4 6h-6.8z` });
}

function named({ name }, k) {
  const y = CHART.top + 10 + 15 * k, x = CHART.width - CHART.right - 104;
  return shape("g", { class: `curve c${k}` }, marker(k, x, y - 4),
    shape("text", { x: x + 9, y }, name));
}

// Charts of what a layer keeps of earlier tokens. All numbers come from dsf.measures.

const ROUNDING = 1e-13;

function drawState(place, { map, layer }) {
  const { state } = map;
  const figures = [hankelChart(state), lagChart(state, map), decayChart(state), leftChart(state, layer)];
  place.replaceChildren(make("p", { className: "summary" }, summary(map, layer)),
    make("div", { className: "charts" }, ...figures.filter(Boolean)));
}

function summary({ state, together, difference, share }, layer) {
  if (share) return "What edges contribute has no state of its own: choose a single map to see it.";
  if (difference) return "A difference of two maps has no state of its own.";
  if (together) return "Every channel has a state of its own: choose a single channel to see it.";
  const parts = [state.states === null
    ? "No state of fixed size: every token is kept, and each query has its own weights on them."
    : `A state of ${state.states} ${state.states === 1 ? "number" : "numbers"} per channel is all that is kept of earlier tokens.`];
  if (state.horizon !== undefined) {
    parts.push(state.horizon > layer.written
      ? "Within this sequence the largest unit state never falls to a half."
      : `The largest unit state has fallen to a half after ${state.horizon} `
        + `${state.horizon === 1 ? "token" : "tokens"}.`);
  }
  if (state.unmeasured) parts.push(`The Hankel spectrum was not measured, ${state.unmeasured}.`);
  return parts.join(" ");
}

/** What each token between took of the weight of a query on a key, by decay and by overwriting:
    C (A - 1) x, with x the trace of the key as that token finds it. */
function eraserChart({ traces }, query, key, written) {
  if (!traces || key >= query) return null;
  const { decay, left, right, write, read, before } = traces, dot = (a, b) => a.reduce((sum, x, n) => sum + x * b[n], 0);
  const parts = [[], []];
  let trace = write[key];
  for (let token = key + 1; token <= query - (before ? 1 : 0); token += 1) {
    const kept = trace.map((x, n) => x * (decay[token].length > 1 ? decay[token][n] : decay[token][0]));
    const moved = (right ? right[token] : []).reduce((sum, row, r) => {
      const size = dot(row, trace);
      return sum.map((x, n) => x + size * left[token][r][n]);
    }, trace.map(() => 0));
    parts[0].push([token, dot(read[query], kept) - dot(read[query], trace)]);
    parts[1].push([token, dot(read[query], moved)]);
    trace = kept.map((x, n) => x + moved[n]);
  }
  const at = dot(read[query], write[key]), total = parts.flat().reduce((sum, [, x]) => sum + x, 0);
  return chart({ title: `Who erased key ${written.position(key)}?`,
    says: `Had nothing come between, query ${written.position(query)} would have the weight ${number(at, 4)} on it. `
      + `Each token between changes that; the changes add up to ${number(total, 4)}.`,
    axes: ["token →", "change of the weight"],
    curves: ["decay", "overwriting"].map((name, k) => ({ name, points: parts[k], stems: true })) });
}

function hankelChart({ hankel }) {
  if (!hankel) return null;
  const floor = ROUNDING * Math.max(...hankel.flatMap(([, values]) => values));
  const curves = hankel.map(([token, values]) => ({ name: `after token ${token}`,
    points: values.flatMap((value, k) => (value > floor ? [[k + 1, value]] : [])) }));
  return chart({ title: "Hankel singular values",
    says: "How strongly the tokens up to one token can act on the outputs after it, direction by "
      + "direction. As many states are needed as values lie above rounding. Independent of the basis.",
    axes: ["direction →", "singular value"], curves, logarithmic: true });
}

function lagChart({ lags }, map) {
  if (!lags) return null;
  const half = map.measures.find(([words]) => words.startsWith("half of the weight"))?.[1] ?? -1;
  return chart({ title: "Weight by distance",
    says: "Mean absolute weight at every lag, over the queries that have such a key. Independent of the basis.",
    axes: ["lag, tokens →", "mean |weight|"],
    curves: [{ points: lags[0].map((lag, k) => [lag, lags[1][k] ?? 0]) }],
    rules: half >= 0 ? [{ x: half, label: `half within ${half}` }] : [] });
}

function decayChart({ exponents }) {
  if (!exponents) return null;
  const points = exponents.flatMap((nats, k) => (nats === null ? [] : [[k + 1, -nats]]));
  const erased = exponents.length - points.length;
  return chart({ title: "Decay spectrum",
    says: "How fast each direction of the state decays, on average over this sequence (Lyapunov "
      + "exponents with the opposite sign): 0 keeps it, 0.69 halves it at every token."
      + (erased ? ` Directions erased at once: ${erased} more.` : ""),
    axes: ["direction →", "decay, nats per token"], curves: [{ points, stems: true }] });
}

function leftChart({ left, horizon }, layer) {
  if (!left) return null;
  const rules = [{ y: 0.5, label: "half" }];
  if (horizon <= layer.written) rules.push({ x: horizon, label: `horizon ${horizon}` });
  return chart({ title: "Memory horizon",
    says: "The norm that remains of the largest unit state before the first token (spectral norm of the "
      + "product of transitions). It depends on the basis of the state; the map does not.",
    axes: ["tokens later →", "norm"],
    curves: [{ points: left[0].map((at, k) => [at, left[1][k] ?? 0]) }], rules });
}
