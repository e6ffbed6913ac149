// Charts of what a layer keeps of earlier tokens. All numbers come from dsf.measures.

const ROUNDING = 1e-13;

function drawState(place, { map, layer }) {
  const { state } = map;
  const figures = [hankelChart(state), lagChart(state, map), decayChart(state), leftChart(state, layer)];
  place.replaceChildren(make("p", { className: "summary" }, summary(map, layer)),
    make("div", { className: "charts" }, ...figures.filter(Boolean)));
}

function summary({ state, together, difference, share, rollout }, layer) {
  if (rollout) return "Layers together have no state of their own: choose a single map to see it.";
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
