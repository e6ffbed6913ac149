// What is drawn of a map: the map itself, the same by lag, or one row of it on a grid of places.
// A face has cells of its own; `origin` and `place` go between them and the cells of the map.

class MapFace {
  constructor(picture, written, read) {
    Object.assign(this, { picture, written, read });
    this.rows = picture.rows;
    this.columns = picture.columns;
    this.codes = picture.codes;
    this.titles = ["← token written", "token read →"];
    this.bands = true;
    this.bandName = "row";
  }

  origin(cell) {
    return cell;
  }

  place(cell) {
    return cell;
  }

  rowLabel(cell, step) {
    return labelOf(this.written, this.picture.writtenBy(cell), step);
  }

  columnLabel(cell, step) {
    return labelOf(this.read, this.picture.readBy(cell), step);
  }

  get widestRow() {
    return this.written.widest;
  }

  get widestColumn() {
    return this.read.widest;
  }
}

/** Column k of this face is what lies k cells back; further left of zero what lies ahead. */
class LagFace extends MapFace {
  constructor(picture, written, read, measured) {
    super(picture, written, read);
    this.ahead = readsAhead(picture) ? picture.columns - 1 : 0;
    this.columns = this.ahead + Math.max(picture.rows, picture.columns);
    this.codes = new Uint8Array(this.rows * this.columns);
    for (let row = 0; row < this.rows; row += 1) {
      for (let column = 0; column < picture.columns; column += 1) {
        const at = this.columnAt(row, column);
        if (at >= 0 && at < this.columns) {
          this.codes[row * this.columns + at] = picture.code(row, column);
        }
      }
    }
    this.titles = ["← token written", "tokens back →"];
    this.bandName = measured ? "mean" : "row";
  }

  columnAt(row, column) {
    return row - column + this.ahead;
  }

  place([row, column]) {
    return [row, Math.min(Math.max(this.columnAt(row, column), 0), this.columns - 1)];
  }

  origin([row, at]) {
    const column = row + this.ahead - at;
    return column >= 0 && column < this.picture.columns ? [row, column] : null;
  }

  columnLabel(cell) {
    return String(Math.round((cell - this.ahead) * this.read.count / this.picture.columns));
  }

  get widestColumn() {
    return String(-this.read.count);
  }
}

/** What one written token reads, where the last tokens are places of a picture, row by row. */
class GridFace extends MapFace {
  constructor(picture, written, read, grid, row) {
    super(picture, written, read);
    [this.rows, this.columns] = grid;
    this.before = picture.columns - this.rows * this.columns;
    this.row = row;
    const first = row * picture.columns + this.before;
    this.codes = picture.codes.subarray(first, first + this.rows * this.columns);
    this.titles = ["← down", "across →"];
    this.bands = false;
  }

  /** Whether a map has one cell for every token and room for the grid. */
  static fits(picture, grid) {
    return Boolean(grid) && !picture.pooled && picture.columns >= grid[0] * grid[1];
  }

  origin([down, across]) {
    return [this.row, this.before + down * this.columns + across];
  }

  place([, column]) {
    const at = Math.max(column - this.before, 0);
    return [Math.floor(at / this.columns), at % this.columns];
  }

  /** Where the token that reads sits itself, if it is a place. */
  get reader() {
    const at = this.row - (this.written.count - this.rows * this.columns);
    return at < 0 ? null : [Math.floor(at / this.columns), at % this.columns];
  }

  rowLabel(cell) {
    return String(cell);
  }

  columnLabel(cell) {
    return String(cell);
  }

  get widestRow() {
    return "00";
  }

  get widestColumn() {
    return "00";
  }
}

function readsAhead(picture) {
  for (let row = 0; row < picture.rows; row += 1) {
    for (let column = row + 1; column < picture.columns; column += 1) {
      if (picture.code(row, column) !== MASKED) return true;
    }
  }
  return false;
}

/** A text where every token has a label, else its place: texts without neighbours say little. */
function labelOf(tokens, [first, last], step) {
  return step > 1 || last > first ? String(first) : tokens.text(first);
}
