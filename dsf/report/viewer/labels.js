// Token labels beside a map, and lines and numbers in its cells. All lengths in CSS pixels.

const FONT = '12px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';
const CLOSEST = 13;
const WIDEST = 92;
const BAND = 40;

/** The margins that labels need beside and below the map, and bars above and beside it.
    Texts of tokens take more room than positions, and are shown where cells are large enough. */
function marginOf(context, raster, window, available) {
  context.font = FONT;
  const band = raster.bands ? BAND : 0, { written, read } = raster.picture;
  const beside = raster.bands ? context.measureText(raster.bandName).width + 7 : 0;
  const named = (cells, per) => niceStep(CLOSEST * cells * per / (available - band)) === 1;
  const width = (cells, per, count, widest) => Math.ceil(Math.min(
    named(cells, per) ? widest(context) : context.measureText(String(count)).width, WIDEST)) + 26;
  return { left: Math.ceil(Math.max(width(window.rows, raster.perRow, written, (on) => raster.widestRow(on)), beside)),
    bottom: width(window.columns, raster.perColumn, read, (on) => raster.widestColumn(on)), top: band, right: band };
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
    if (at >= 0 && at <= pixels) chosen.push([cell, at, step, token]);
  }
}

function niceStep(least) {
  for (let size = 1; ; size *= 10) {
    for (const step of [size, 2 * size, 5 * size]) if (step >= least) return step;
  }
}

function drawLabels(context, { left, top, width, height, bottom }, window, raster) {
  context.font = FONT;
  context.fillStyle = ramp().ink;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const [row, y, ...at] of labelled(window.row, window.rows, height, raster.rows, raster.perRow)) {
    context.fillText(clipped(context, raster.rowLabel(row, ...at)), left - 6, top + Math.max(y, 6));
  }
  if (raster.bands) {
    context.save();
    context.font = FONT.replace("12px", "11px");
    context.fillStyle = ramp().quiet;
    context.fillText(raster.bandName, left - 6, top - 12);
    context.textAlign = "left";
    context.fillText(raster.read.kind === "token" ? "key" : raster.read.kind, left + width + 5, top + height + 10);
    context.restore();
  }
  const turned = (text, x, y) => {
    context.save();
    context.translate(x, y);
    context.rotate(-Math.PI / 2);
    context.fillText(text, 0, 0);
    context.restore();
  };
  for (const [column, x, ...at] of labelled(window.column, window.columns, width, raster.columns, raster.perColumn)) {
    turned(clipped(context, raster.columnLabel(column, ...at)), left + x, top + height + 6);
  }
  context.fillStyle = ramp().quiet;
  context.textAlign = "center";
  turned(raster.titles[0], 8, top + height / 2);
  context.fillText(raster.titles[1], left + width / 2, top + height + bottom - 8);
}

function clipped(context, text) {
  if (context.measureText(text).width <= WIDEST) return text;
  let length = text.length - 1;
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > WIDEST) length -= 1;
  return `${text.slice(0, length)}…`;
}

/** Thin lines between large cells, and weights as numbers in very large ones. */
function drawCells(context, { left, top, width, height }, window, raster, shades) {
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
  for (let row = Math.floor(window.row); row < Math.min(window.row + window.rows, raster.rows); row += 1) {
    for (let column = Math.floor(window.column); column < window.column + window.columns; column += 1) {
      const code = column < raster.columns ? raster.codes[row * raster.columns + column] : MASKED;
      if (code <= MINUS_INFINITY || code === LEFT_OUT) continue;
      context.fillStyle = inkOn(shades.of(code));
      context.fillText(number(raster.picture.weight(...raster.origin([row, column])), 2),
        left + (column + 0.5 - window.column) * wide, top + (row + 0.5 - window.row) * high);
    }
  }
}
