// Decodes maps: one 8-bit code for each cell, as written by dsf/report/views.py.

const MASKED = 0, NAN = 1, PLUS_INFINITY = 2, MINUS_INFINITY = 3, ZERO = 129, LEVELS = 125;

/** The weight of a code as a share of the scale, -1 to 1. */
function shareOf(code) {
  const level = (code - ZERO) / LEVELS;
  return level * Math.abs(level);
}

/** The order when several cells share a pixel: not finite first, then by magnitude, masked last. */
const RANK = Uint8Array.from({ length: 256 }, (_, code) =>
  code === MASKED ? 0 : code <= MINUS_INFINITY ? 255 : 2 + Math.abs(code - ZERO));

/** Decompress bytes, which a page has as base64 and a widget as bytes. */
async function inflate(packed) {
  const bytes = typeof packed === "string"
    ? Uint8Array.from(atob(packed), (character) => character.charCodeAt(0)) : packed;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A map of `rows x columns` cells for `written` queries and `read` keys. */
class Picture {
  constructor(raw, codes, values, scale, layer) {
    const { rows, columns } = raw, { written, read, same_tokens: sameTokens } = layer;
    const { disorder } = layer; // why row k and column k are not both token k
    Object.assign(this, { rows, columns, codes, values, scale, written, read, sameTokens, disorder });
    this.largest = new Map(); // by cell, the first of the largest weights of the map in it
  }

  /** `links` are the largest weights of the map, which are known exactly. */
  static async open(raw, { scale, links }, layer) {
    const codes = await inflate(raw.codes);
    const values = raw.values ? new Float32Array((await inflate(raw.values)).buffer) : null;
    const picture = new Picture(raw, codes, values, scale, layer);
    for (const [query, key, weight] of values ? [] : links) {
      const at = picture.rowOf(query) * raw.columns + picture.columnOf(key);
      if (!picture.largest.has(at)) picture.largest.set(at, weight);
    }
    return picture;
  }

  /** Whether query and key of every cell on the diagonal are one token. */
  get square() {
    return this.sameTokens && this.rows === this.columns;
  }

  get pooled() {
    return this.rows < this.written || this.columns < this.read;
  }

  code(row, column) {
    return this.codes[row * this.columns + column];
  }

  weight(row, column) {
    const at = row * this.columns + column;
    return this.values ? this.values[at] : this.kept(row, column) ?? shareOf(this.codes[at]) * this.scale;
  }

  /** Whether the weight of a cell is stored in float32, and not in eight bits alone. */
  isExact(row, column) {
    return Boolean(this.values) || this.kept(row, column) !== undefined;
  }

  /** The weight of a cell that is one of the largest, which are kept exactly; else nothing. */
  kept(row, column) {
    return this.largest.get(row * this.columns + column);
  }

  /** The first and last query of a row of cells. */
  writtenBy(row) {
    return run(row, this.rows, this.written);
  }

  /** The first and last key of a column of cells. */
  readBy(column) {
    return run(column, this.columns, this.read);
  }

  rowOf(token) {
    return cellOf(token, this.rows, this.written);
  }

  columnOf(token) {
    return cellOf(token, this.columns, this.read);
  }
}

/** The first query and the first key of a cell. */
function tokensAt(picture, [row, column]) {
  return [picture.writtenBy(row)[0], picture.readBy(column)[0]];
}

function run(cell, cells, tokens) {
  return [Math.floor(cell * tokens / cells), Math.floor((cell + 1) * tokens / cells) - 1];
}

function cellOf(token, cells, tokens) {
  let cell = Math.floor(token * cells / tokens);
  while (run(cell, cells, tokens)[1] < token) cell += 1;
  return cell;
}
