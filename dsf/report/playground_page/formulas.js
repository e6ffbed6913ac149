// Formulas as text with lowered and raised parts, and numbers as small matrices.

/** `h_{t−1}` and `γ^{g}` become elements; everything else stays text. */
function formula(text) {
  const line = make("span", { className: "formula" });
  line.append(...pieces(text));
  return line;
}

function pieces(text) {
  const found = text.match(/^(.*?)([_^])\{/);
  if (!found) return [text];
  let open = 1, at = found[0].length;
  for (; open; at += 1) open += text[at] === "{" ? 1 : text[at] === "}" ? -1 : 0;
  const inside = make(found[2] === "_" ? "sub" : "sup", {}, ...pieces(text.slice(found[0].length, at - 1)));
  return [found[1], inside, ...pieces(text.slice(at))];
}

const MOST_SHOWN = 3;

/** A matrix of numbers between brackets; of one that is too large, only its size. */
function matrix(rows, name) {
  const columns = rows[0].length;
  if (rows.length === 1 && columns === 1) return make("b", { className: "lone" }, number(rows[0][0], 3));
  if (Math.max(rows.length, columns) > MOST_SHOWN) {
    return make("span", { className: "sized" }, `${name} (${rows.length} × ${columns})`);
  }
  const shown = make("span", { className: "matrix", role: "img" },
    ...rows.flat().map((value) => make("span", {}, number(value, 3))));
  shown.setAttribute("aria-label", `${name}: ${rows.map((row) => row.map((each) => number(each, 3)).join(", ")).join("; ")}`);
  shown.style.gridTemplateColumns = `repeat(${columns}, auto)`;
  return shown;
}

const column = (vector) => vector.map((value) => [value]);

/** What the chosen token does, in numbers: through the state, and through the map. */
function arithmetic({ system, states, response, map }, signal, t) {
  const before = t ? states[t - 1] : states[0].map(() => 0);
  const u = make("span", {}, number(signal[t], 3));
  const line = (...parts) => make("p", { className: "line" }, ...parts);
  const terms = map[t].flatMap((weight, j) => (j <= t && signal[j] !== 0 ? [[weight, signal[j]]] : []));
  const sum = terms.map(([weight, value], k) => {
    const sign = weight < 0 ? (k ? " − " : "−") : k ? " + " : "";
    const factor = value < 0 ? `(${number(value, 3)})` : number(value, 3);
    return `${sign}${number(Math.abs(weight), 3)} · ${factor}`;
  }).join("") || "0";
  return [
    make("h3", {}, "Through the state"),
    line(formula("h_{t}"), " = ", matrix(system.A[t], "A"), " ", matrix(column(before), "h before"), " + ",
      matrix(column(system.B[t]), "B"), " · ", u, " = ", matrix(column(states[t]), "h")),
    line(formula("y_{t}"), " = ", matrix([system.C[t]], "C"), " ", matrix(column(states[t]), "h"), " + ",
      number(system.D[t], 3), " · ", number(signal[t], 3), " = ", make("b", {}, number(response[t], 4))),
    make("h3", {}, "Through the map"),
    line(formula("y_{t}"), " = ", formula("Σ_{j} a_{tj} u_{j}"), ` = ${sum} = `,
      make("b", {}, number(throughMap(map, signal, t), 4))),
  ];
}

function throughMap(map, signal, t) {
  return signal.reduce((sum, value, j) => sum + (j <= t ? map[t][j] * value : 0), 0);
}
