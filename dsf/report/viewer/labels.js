// Token labels and cell lines around and on a map. All lengths in CSS pixels.

const FONT = '12px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';
const CLOSEST = 13;
const WIDEST = 92;

/** Room that the labels need beside and below the map. */
function marginOf(context, written, read) {
  context.font = FONT;
  const room = (tokens) => {
    const texts = tokens.texts ? new Set(tokens.texts) : [String(tokens.count - 1)];
    return Math.max(...[...texts].map((text) => context.measureText(text).width));
  };
  const fitted = (tokens) => Math.ceil(Math.min(room(tokens), WIDEST)) + 26;
  return { left: fitted(written), bottom: fitted(read) };
}

/** Which cells get a label: all, or every so many. */
function labelled(start, length, pixels, cells) {
  const every = niceStep(CLOSEST * length / pixels);
  const step = every === 1 ? 1 : niceStep(2 * CLOSEST * length / pixels);
  const chosen = [];
  const from = Math.ceil(Math.max(start, 0) / step) * step;
  for (let cell = from; cell < Math.min(start + length, cells); cell += step) {
    const at = (cell + 0.5 - start) * pixels / length;
    if (at >= 0 && at <= pixels) chosen.push([cell, at, step]);
  }
  return chosen;
}

function niceStep(least) {
  for (let size = 1; ; size *= 10) {
    for (const step of [size, 2 * size, 5 * size]) if (step >= least) return step;
  }
}

function drawLabels(context, layout, window, picture, written, read) {
  context.font = FONT;
  context.fillStyle = ramp().ink;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const [row, y, step] of labelled(window.row, window.rows, layout.height, picture.rows)) {
    context.fillText(clipped(context, short(written, picture.writtenBy(row), step)), layout.left - 6, Math.max(y, 6));
  }
  for (const [column, x, step] of labelled(window.column, window.columns, layout.width, picture.columns)) {
    context.save();
    context.translate(layout.left + x, layout.height + 6);
    context.rotate(-Math.PI / 2);
    context.fillText(clipped(context, short(read, picture.readBy(column), step)), 0, 0);
    context.restore();
  }
  context.fillStyle = ramp().quiet;
  context.textAlign = "center";
  context.save();
  context.translate(8, layout.height / 2);
  context.rotate(-Math.PI / 2);
  context.fillText("← token written", 0, 0);
  context.restore();
  const below = layout.height + layout.bottom - 8;
  context.fillText("token read →", layout.left + layout.width / 2, below);
}

/** A text where every token has a label, else its place: texts without neighbours say little. */
function short(tokens, [first, last], step) {
  return step > 1 || last > first ? String(first) : tokens.text(first);
}

function clipped(context, text) {
  if (context.measureText(text).width <= WIDEST) return text;
  let length = text.length - 1;
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > WIDEST) length -= 1;
  return `${text.slice(0, length)}…`;
}

/** Thin lines between cells that are large enough to count, and numbers in very large ones. */
function drawCells(context, layout, window, picture, curve, stretch) {
  const cell = layout.width / window.columns;
  if (cell < 9) return;
  const high = layout.height / window.rows, first = (cells) => Math.ceil(cells - 1e-6);
  context.fillStyle = ramp().paper;
  for (let row = first(window.row); row <= window.row + window.rows; row += 1) {
    context.fillRect(layout.left, first((row - window.row) * high), layout.width, 1);
  }
  for (let column = first(window.column); column <= window.column + window.columns; column += 1) {
    context.fillRect(layout.left + first((column - window.column) * cell), 0, 1, layout.height);
  }
  if (cell >= 46) drawNumbers(context, layout, window, picture, curve, stretch);
}

function drawNumbers(context, layout, window, picture, curve, stretch) {
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let row = Math.floor(window.row); row < window.row + window.rows; row += 1) {
    for (let column = Math.floor(window.column); column < window.column + window.columns; column += 1) {
      const code = row < picture.rows && column < picture.columns ? picture.code(row, column) : MASKED;
      if (code <= MINUS_INFINITY) continue;
      context.fillStyle = inkOn(colourOf(shareOf(code) * stretch, curve));
      const x = layout.left + (column + 0.5 - window.column) * layout.width / window.columns;
      const y = (row + 0.5 - window.row) * layout.height / window.rows;
      context.fillText(number(picture.weight(row, column), 2), x, y);
    }
  }
}
