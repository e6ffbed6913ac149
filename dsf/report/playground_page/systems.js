// A, B, C and D of every architecture on a few tokens. Complex states are pairs of real ones, so that
// everything is real: A is a matrix, B a column, C a row, D a number, for every token.

const dot = (a, b) => a.reduce((sum, value, k) => sum + value * b[k], 0);
const scaledBy = (factor, vector) => vector.map((value) => factor * value);
const identity = (size) => diagonal(Array(size).fill(1));
const diagonal = (values) => values.map((value, k) => values.map((_, n) => (n === k ? value : 0)));
const elu = (x) => (x < 0 ? Math.exp(x) : x + 1);

/** The running sums of vectors. */
function runningSums(vectors) {
  const sum = Array(vectors[0].length).fill(0);
  return vectors.map((vector) => vector.map((value, k) => (sum[k] += value)));
}

/** All products of at most `order` entries of a vector of two, each over the root of its factorials. */
function monomials([x, y], order) {
  const factorial = (n) => (n < 2 ? 1 : n * factorial(n - 1)), found = [];
  for (let degree = 0; degree <= order; degree += 1) {
    for (let n = 0; n <= degree; n += 1) {
      found.push(x ** (degree - n) * y ** n / Math.sqrt(factorial(degree - n) * factorial(n)));
    }
  }
  return found;
}

/** A state that only adds up: C_i·B_j is the weight of token j for token i. */
function adding(write, read) {
  return { A: write.map(({ length }) => identity(length)), B: write, C: read };
}

/** Attention by features, every row divided by its sum. */
function normalised(write, read) {
  const sums = runningSums(write);
  return adding(write, read.map((features, t) => features.map((each) => each / dot(features, sums[t]))));
}

/** One complex state, the same at every token; the response is the real part of `read` times it. */
function oscillation(tokens, [re, im], write, read, D) {
  return { A: tokens.map(() => [[re, -im], [im, re]]), B: tokens.map(() => write),
    C: tokens.map(() => [read, 0]), D: tokens.map(() => D) };
}

/** Erase what the key holds, then write. */
function deltaRule(key, query, rate, decays) {
  return { A: key.map((k, t) => k.map((row, n) => k.map((column, m) =>
    decays[t] * ((n === m ? 1 : 0) - rate * row * column)))), B: key.map((k) => scaledBy(rate, k)), C: query };
}

/** Softmax over the first `length` scores. */
function softmaxRow(scores) {
  const largest = Math.max(...scores), raised = scores.map((score) => Math.exp(score - largest));
  const total = raised.reduce((sum, each) => sum + each, 0);
  return raised.map((each) => each / total);
}

const SYSTEMS = {
  system({ text }, { A, B, C, D }) {
    return { A: text.map(() => [[A]]), B: text.map(() => [B]), C: text.map(() => [C]), D: text.map(() => D) };
  },
  softmax_attention({ query, key }) {
    const slots = identity(key.length);
    const rows = query.map((q, i) => slots[i].map((_, j) => (j > i ? 0
      : softmaxRow(key.slice(0, i + 1).map((k) => dot(q, k)))[j])));
    return { A: query.map(() => slots), B: slots, C: rows };
  },
  linear_attention({ query, key }) {
    return normalised(key.map((k) => k.map(elu)), query.map((q) => q.map(elu)));
  },
  taylor({ query, key }, { order }) {
    return normalised(key.map((k) => monomials(k, order)), query.map((q) => monomials(q, order)));
  },
  in_line_attention({ query, key }) {
    const sums = runningSums(key);
    return adding(key.map((k) => [...k, 1]),
      query.map((q, t) => [...q, (1 - dot(q, sums[t])) / (t + 1)]));
  },
  zero_sum_attention({ query, key, logit }, { C }) {
    const [first, higher] = [0.5 * C, C], long = (v) => scaledBy(1 / (Math.hypot(...v) || 1), v);
    const largest = logit.map((_, t) => Math.max(...logit.slice(0, t + 1)));
    const above = logit.map((s) => s - logit[0]), units = key.map(long);
    const mean = runningSums(above.map((s) => [s])).map(([sum], t) => sum / (t + 1));
    const total = logit.map((_, t) => logit.slice(0, t + 1)
      .reduce((sum, s) => sum + Math.exp(s - largest[t]), 0));
    const fades = largest.map((now, t) => Math.exp((t ? largest[t - 1] : now) - now));
    const write = logit.map((s, t) => [Math.exp(s - largest[t]), above[t], 1]);
    const read = logit.map((_, t) => {
      const [f, h] = [first / (t + 1), higher / (t + 1)];
      return [higher / total[t], f - h, -mean[t] * (f - h) - h];
    });
    const by = (factors, direction) => factors.flatMap((each) => scaledBy(each, direction));
    return { A: fades.map((fade) => diagonal([fade, fade, 1, 1, 1, 1])),
      B: write.map((each, t) => by(each, units[t])), C: read.map((each, t) => by(each, long(query[t]))) };
  },
  retention({ query, key }, { decay }) {
    return { A: key.map(() => diagonal([decay, decay])), B: key, C: query };
  },
  gated_linear_attention({ query, key, gate }, { decay }) {
    return { A: gate.map((g) => diagonal(g.map((each) => decay ** each))), B: key, C: query };
  },
  diagonal_state_space({ text }, { A, step, B, C, D }) {
    const size = Math.exp(-A * step), [re, im] = [size * Math.cos(2 * step), size * Math.sin(2 * step)];
    const over = A * A + 4; // (e^{Δλ} - 1) / λ, λ = -A + 2i, by the conjugate
    const gain = [((re - 1) * -A + im * 2) / over, (im * -A - (re - 1) * 2) / over];
    return oscillation(text, [re, im], scaledBy(B, gain), 2 * C, D);
  },
  lru({ text }, { decay, A, B, C, D }) {
    const pole = [decay * Math.cos(A), decay * Math.sin(A)];
    return oscillation(text, pole, [B * Math.sqrt(1 - decay * decay), 0], C, D);
  },
  selective_state_space({ query, key, gate }, { A, step, D }) {
    const steps = gate.map(([g]) => step * g);
    return { A: steps.map((each) => diagonal([Math.exp(-each * A), Math.exp(-2 * each * A)])),
      B: key.map((k, t) => scaledBy(steps[t], k)), C: query, D: key.map(() => D) };
  },
  delta_net({ query, key }, { rate }) {
    return deltaRule(key, query, rate, key.map(() => 1));
  },
  gated_delta_net({ query, key, gate }, { rate, decay }) {
    return deltaRule(key, query, rate, gate.map(([g]) => decay ** g));
  },
};

/** The tokens as an architecture sees them: its B scales keys and logits, its C the queries. */
function scaledTokens(tokens, { B = 1, C = 1 }) {
  return { ...tokens, key: tokens.key.map((k) => scaledBy(B, k)), query: tokens.query.map((q) => scaledBy(C, q)),
    logit: tokens.key.map((k) => B * (k[0] + k[1])) };
}

/** States and responses by the recurrence, one token after the other, and the map by products of A. */
function computed(name, tokens, settings, signal) {
  const coefficients = SYSTEMS[name](scaledTokens(tokens, settings), settings);
  const system = { D: signal.map(() => 0), ...coefficients };
  const states = [], response = [];
  let state = system.B[0].map(() => 0);
  for (let t = 0; t < signal.length; t += 1) {
    const before = state;
    state = system.A[t].map((row, n) => dot(row, before) + system.B[t][n] * signal[t]);
    states.push(state);
    response.push(dot(system.C[t], state) + system.D[t] * signal[t]);
  }
  return { system, states, response, map: mapOf(system) };
}

/** Row i: C_i, carried back through the transitions, meets every earlier write. */
function mapOf({ A, B, C, D }) {
  return C.map((read, i) => {
    const row = C.map(() => 0);
    let carried = read;
    for (let j = i; j >= 0; j -= 1) {
      row[j] = dot(carried, B[j]) + (j === i ? D[i] : 0);
      const last = carried;
      carried = last.map((_, m) => last.reduce((sum, value, n) => sum + value * A[j][n][m], 0));
    }
    return row;
  });
}
