// The map, and below one another: signal, state and response, token by token.

const CELL = 34, MARGIN = 46;

function largest(rows) {
  return Math.max(1e-12, ...rows.flat().map(Math.abs).filter(Number.isFinite));
}

function shadeOf(value, scale) {
  return Number.isFinite(value) ? colourOf(value / scale, "root") : ramp().none;
}

/** The attention map up to the chosen token; later rows are still to come. */
function drawMap(map, tokens, now, choose) {
  const count = map.length, scale = largest(map), size = MARGIN + count * CELL;
  const cells = map.flatMap((row, i) => row.map((weight, j) => {
    const [x, y] = [MARGIN + j * CELL, MARGIN + i * CELL];
    const known = j <= i && i <= now, shade = shadeOf(weight, scale);
    const cell = shape("g", {}, shape("rect", { x, y, width: CELL, height: CELL, class: j > i ? "masked" : known ? "cell" : "cell blank",
      ...(known ? { fill: css(shade) } : {}) }));
    if (known) {
      cell.append(shape("text", { x: x + CELL / 2, y: y + CELL / 2 + 4, class: "weight", fill: inkOn(shade) },
        Number.isFinite(weight) ? short(weight) : "!"));
    }
    cell.addEventListener("click", () => choose(i));
    return cell;
  }));
  const names = tokens.flatMap((text, k) => [
    shape("text", { x: MARGIN + (k + 0.5) * CELL, y: MARGIN - 8, class: "name across" }, text),
    shape("text", { x: MARGIN - 7, y: MARGIN + (k + 0.5) * CELL + 4, class: "name down" }, text),
  ]);
  const here = shape("rect", { x: MARGIN, y: MARGIN + now * CELL, width: count * CELL, height: CELL, class: "here" });
  return shape("svg", { viewBox: `0 0 ${size + 2} ${size + 2}`, role: "img",
    "aria-label": `Attention map of ${count} tokens, rows up to token ${now + 1} filled. Its numbers stand below under Numbers.` },
  shape("text", { x: MARGIN + count * CELL, y: 14, class: "axis end" }, "key →"),
  shape("text", { x: 2, y: 14, class: "axis" }, "query ↓"), ...names, ...cells, here);
}

function short(value) {
  const size = Math.abs(value);
  if (size < 5e-3) return "";
  const text = size < 1 ? value.toFixed(2).replace("0.", ".") : size < 100 ? value.toPrecision(2) : "≫";
  return text.replaceAll("-", "−");
}

/** One row of bars around zero, one for each token. */
function bars(values, now, top, height, kind) {
  const scale = largest([values]), middle = top + height / 2;
  return [
    shape("line", { x1: MARGIN, x2: MARGIN + values.length * CELL, y1: middle, y2: middle, class: "zero" }),
    ...values.map((value, k) => {
      const finite = Number.isFinite(value), long = finite ? Math.abs(value) / scale * height / 2 : height / 2;
      return shape("rect", { x: MARGIN + (k + 0.22) * CELL, width: CELL * 0.56, y: value < 0 ? middle : middle - long,
        height: long, class: `${kind} ${value < 0 ? "minus" : "plus"}${k > now ? " later" : ""}` });
    }),
  ];
}

/** Signal, state and response over the same tokens. */
function drawTime({ states, response }, signal, tokens, now, choose) {
  const count = signal.length, high = 72, size = states[0].length;
  const slot = Math.max(9, Math.min(30, 200 / size)), stateTop = 40 + high + 26;
  const responseTop = stateTop + size * slot + 30, bottom = responseTop + high + 6;
  const scale = largest(states);
  const heat = states.flatMap((state, k) => state.map((value, n) => shape("rect", { x: MARGIN + k * CELL, width: CELL,
    y: stateTop + n * slot, height: slot, class: k <= now ? "cell" : "cell blank", ...(k <= now ? { fill: css(shadeOf(value, scale)) } : {}) })));
  const over = signal.map((_, k) => {
    const band = shape("rect", { x: MARGIN + k * CELL, y: 4, width: CELL, height: bottom - 4,
      class: k === now ? "here" : "touch" });
    band.addEventListener("click", () => choose(k));
    return band;
  });
  return shape("svg", { viewBox: `0 0 ${MARGIN + count * CELL + 2} ${bottom + 2}`, role: "img",
    "aria-label": `Signal, state of ${size} numbers and response, up to token ${now + 1} of ${count}. `
      + "The numbers stand below under Numbers." },
  ...tokens.map((text, k) => shape("text", { x: MARGIN + (k + 0.5) * CELL, y: 20, class: "name across" }, text)),
  shape("text", { x: 2, y: 40 + high / 2, class: "axis big" }, "u"),
  ...bars(signal, now, 34, high, "bar-u"),
  shape("text", { x: 2, y: stateTop + size * slot / 2 + 4, class: "axis big" }, "h"), ...heat,
  shape("text", { x: 2, y: responseTop + high / 2 + 4, class: "axis big" }, "y"),
  ...bars(response, now, responseTop, high, "bar-y"), ...over);
}
