// What is drawn around and over the cells of a map. All lengths in CSS pixels.

// Token labels of a map, and lines and numbers in its cells.

const FONT = '12px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';
const CLOSEST = 13;
const WIDEST = 92;
const BAND = 40;

/** The margins that labels need left of and below the map, and bars above and right of it.
    Texts of tokens take more room than positions, and are shown where cells are large enough. */
function marginOf(context, picture, window, written, read, available) {
  context.font = FONT;
  const bandWidth = context.measureText("query").width + 7;
  const named = (cells, per) => niceStep(CLOSEST * cells * per / (available - BAND)) === 1;
  const width = (cells, per, count, tokens) => Math.ceil(Math.min(
    named(cells, per) ? tokens.widest(context) : context.measureText(String(count)).width, WIDEST)) + 26;
  return { left: Math.ceil(Math.max(width(window.rows, picture.written / picture.rows, picture.written, written), bandWidth)),
    bottom: width(window.columns, picture.read / picture.columns, picture.read, read), top: BAND, right: BAND };
}

/** The cells that get a label: all, or every so many. Of pooled maps, those of round positions. */
function labelled(start, length, pixels, cells, perCell) {
  const every = niceStep(CLOSEST * length * perCell / pixels);
  const step = every === 1 ? 1 : niceStep(2 * CLOSEST * length * perCell / pixels);
  const chosen = [];
  const from = Math.ceil(Math.max(start, 0) * perCell / step) * step;
  for (let token = from; ; token += step) {
    const cell = Math.floor(token / perCell);
    if (cell >= Math.min(start + length, cells)) return chosen;
    const at = ((token + 0.5) / perCell - start) * pixels / length;
    if (at >= 0 && at <= pixels) chosen.push([at, step, token]);
  }
}

function niceStep(least) {
  for (let size = 1; ; size *= 10) {
    for (const step of [size, 2 * size, 5 * size]) if (step >= least) return step;
  }
}

function drawLabels(context, { left, top, width, height, bottom }, window, picture, written, read) {
  const label = (tokens, token, step) => clipped(context, step > 1 ? tokens.position(token) : tokens.shown(token));
  const key = read.kind === "token" ? "key" : read.kind;
  context.font = FONT;
  context.fillStyle = ramp().ink;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const [y, step, token] of labelled(window.row, window.rows, height, picture.rows, picture.written / picture.rows)) {
    context.fillText(label(written, token, step), left - 6, top + Math.max(y, 6));
  }
  context.save();
  context.font = FONT.replace("12px", "11px");
  context.fillStyle = ramp().quiet;
  context.fillText("query", left - 6, top - 12);
  context.textAlign = "left";
  context.fillText(key, left + width + 5, top + height + 10);
  context.restore();
  const turned = (text, x, y) => {
    context.save();
    context.translate(x, y);
    context.rotate(-Math.PI / 2);
    context.fillText(text, 0, 0);
    context.restore();
  };
  for (const [x, step, token] of labelled(window.column, window.columns, width, picture.columns, picture.read / picture.columns)) {
    turned(label(read, token, step), left + x, top + height + 6);
  }
  context.fillStyle = ramp().quiet;
  context.textAlign = "center";
  turned("← query", 8, top + height / 2);
  context.fillText(`${key} →`, left + width / 2, top + height + bottom - 8);
}

function clipped(context, text) {
  if (context.measureText(text).width <= WIDEST) return text;
  let length = text.length - 1;
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > WIDEST) length -= 1;
  return `${text.slice(0, length)}…`;
}

/** Thin lines between large cells, and weights as numbers in very large ones. */
function drawCells(context, { left, top, width, height }, window, picture, shades) {
  const wide = width / window.columns, high = height / window.rows;
  if (Math.min(wide, high) < 9) return;
  const first = (cells) => Math.ceil(cells - 1e-6);
  context.fillStyle = ramp().raised;
  for (let row = first(window.row); row <= window.row + window.rows; row += 1) {
    context.fillRect(left, top + first((row - window.row) * high), width, 1);
  }
  for (let column = first(window.column); column <= window.column + window.columns; column += 1) {
    context.fillRect(left + first((column - window.column) * wide), top, 1, height);
  }
  if (Math.min(wide, 2 * high) < 46) return;
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let row = Math.floor(window.row); row < Math.min(window.row + window.rows, picture.rows); row += 1) {
    for (let column = Math.floor(window.column); column < Math.min(window.column + window.columns, picture.columns); column += 1) {
      const code = picture.code(row, column);
      if (code <= MINUS_INFINITY) continue;
      const about = picture.isExact(row, column) ? "" : "≈";
      const text = `${about}${number(picture.weight(row, column), 2)}`, half = context.measureText(text).width / 2;
      const x = (column + 0.5 - window.column) * wide, y = (row + 0.5 - window.row) * high;
      // Labels stand outside of the map, where cells at its edges may reach.
      if (2 * half > wide - 2 || Math.min(x, width - x) < half || Math.min(y, height - y) < 7) continue;
      context.fillStyle = inkOn(shades.of(code));
      context.fillText(text, left + x, top + y);
    }
  }
}

// Drawn over a map: the cross of the chosen cell and tokens that were found; below it: the colour scale.

/** `sought` = {rows, columns}: cells of the map whose tokens were found. */
function drawCross(context, layout, window, cell, { fixed, sought }) {
  const { left, top, width, height, density } = layout;
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  const high = height / window.rows, wide = width / window.columns;
  const x = (column) => left + (column - window.column) * wide;
  const y = (row) => top + (row - window.row) * high;
  context.save();
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  context.strokeStyle = ramp().accent;
  context.lineWidth = 1;
  context.strokeRect(left - 2, y(cell[0]) - 0.5, width + 4, high + 1);
  context.strokeRect(x(cell[1]) - 0.5, top - 2, wide + 1, height + 4);
  context.lineWidth = fixed ? 4 : 2.5;
  context.strokeStyle = ramp().ink;
  const grow = Math.max(0, (7 - Math.min(high, wide)) / 2);
  context.strokeRect(x(cell[1]) - grow, y(cell[0]) - grow, wide + 2 * grow, high + 2 * grow);
  context.restore();
  context.fillStyle = ramp().accent;
  if (inside(cell[0], window.row, window.rows)) triangle(context, left - 1, y(cell[0] + 0.5), -1, 0);
  if (inside(cell[1], window.column, window.columns)) {
    triangle(context, x(cell[1] + 0.5), top + height + 1, 0, 1);
  }
  context.fillStyle = ramp().found;
  for (const row of sought.rows.filter((each) => inside(each, window.row, window.rows))) {
    context.fillRect(left - 4, y(row), 4, Math.max(high, 2));
  }
  for (const column of sought.columns.filter((each) => inside(each, window.column, window.columns))) {
    context.fillRect(x(column), top + height, Math.max(wide, 2), 4);
  }
}

function inside(cell, start, length) {
  return cell + 0.5 >= start && cell + 0.5 <= start + length;
}

/** A small arrow head whose tip is at (x, y), pointing against (dx, dy). */
function triangle(context, x, y, dx, dy) {
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x + 5 * dx - 4 * dy, y + 5 * dy - 4 * dx);
  context.lineTo(x + 5 * dx + 4 * dy, y + 5 * dy + 4 * dx);
  context.fill();
}

/** The colour scale in numbers and words. Maps without negative weights have one end. */
function drawLegend(place, shades, map) {
  const bar = make("canvas", { width: 251, height: 1, "aria-hidden": "true" });
  const context = bar.getContext("2d"), { together } = map, signed = map.signed && !together;
  for (let k = 0; k < 251; k += 1) {
    context.fillStyle = css(colourOf(signed ? (k - 125) / 125 : k / 250, shades.curve));
    context.fillRect(k, 0, 1, 1);
  }
  const ramps = make("div", { className: "ramp" }, bar,
    ...legendEnds(shades, signed).map((end) => make("span", {}, end)));
  const what = map.share ? `share of ${map.share.target}` : together ? `length of a contribution, in the unit of ${together.onto}`
    : "weight, without unit";
  const swatch = (text, colour) => {
    const sample = make("span", { className: colour ? "swatch" : "swatch pattern" });
    if (colour) sample.style.backgroundColor = css(colour);
    return make("span", {}, sample, text);
  };
  place.replaceChildren(ramps, make("span", {}, `${what}; ${legendWords(shades)}`), swatch("masked"));
  if (map.nans + map.infinities) place.append(swatch(`not finite (${map.nans + map.infinities})`, ramp().none));
}

function legendEnds({ curve, end, scale: largest }, signed) {
  const last = `${end < largest ? "≥ " : ""}${signed ? "+" : ""}${number(end, 3)}`;
  if (signed) return [`${end < largest ? "≤ " : ""}−${number(end, 3)}`, "0", last];
  return ["0", number(CURVES[curve].shareAt(0.5) * end, 3), last];
}

function legendWords({ curve, end, scale: largest }) {
  const cut = end < largest ? `, full from ${number(end, 3)} on; the largest is ${number(largest, 3)}` : "";
  return `${CURVES[curve].name.replace(" ", "-")} colour scale${cut}`;
}

// Bars above a map for the chosen query and to its right for the chosen key.

const SPACE = 5;

function drawProfiles(context, layout, window, { codes, rows, columns }, cell) {
  const { left, top, width, height, right } = layout;
  const row = codes.subarray(cell[0] * columns, (cell[0] + 1) * columns);
  const column = Uint8Array.from({ length: rows }, (_, at) => codes[at * columns + cell[1]]);
  const across = strongest(row, window.column, window.columns, width);
  const down = strongest(column, window.row, window.rows, height);
  bars(context, across, top - SPACE, (at, from, to, colour) => {
    context.fillStyle = colour;
    context.fillRect(left + at, top - SPACE - to, 1, Math.max(to - from, 0.5));
  });
  bars(context, down, right - SPACE, (at, from, to, colour) => {
    context.fillStyle = colour;
    context.fillRect(left + width + SPACE + from, top + at, Math.max(to - from, 0.5), 1);
  });
}

/** For every pixel the largest weight of the cells under it, as a share of the scale. */
function strongest(codes, start, length, pixels) {
  const line = { codes, rows: 1, columns: codes.length };
  const seen = sampled(line, { row: 0, rows: 1, column: start, columns: length }, pixels, 1);
  return Float64Array.from(seen, (code) => (code <= MINUS_INFINITY ? 0 : shareOf(code)));
}

/** Bars from a line at zero, placed so that both signs fit. */
function bars(context, shares, length, bar) {
  const highest = shares.reduce((most, share) => Math.max(most, share), 0);
  const lowest = shares.reduce((least, share) => Math.min(least, share), 0);
  const unit = length / (highest - lowest || 1);
  const zero = -lowest * unit;
  const { plus, minus, line } = ramp();
  for (let at = 0; at < shares.length; at += 1) {
    const tip = zero + shares[at] * unit;
    if (shares[at] > 0) bar(at, zero, tip, plus);
    else if (shares[at] < 0) bar(at, tip, zero, minus);
    bar(at, zero - 0.5, zero + 0.5, line);
  }
}
