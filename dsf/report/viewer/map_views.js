// The views of a map: the map itself, or its weights by lag.
// Each is a raster of cells; `place` and `origin` convert cells of the map to cells of the raster and back.

class MapRaster {
  constructor(picture, codes, written, read) {
    Object.assign(this, { picture, codes, written, read });
    this.rows = picture.rows;
    this.columns = picture.columns;
    this.perRow = picture.written / picture.rows; // how many queries a row is of
    this.perColumn = picture.read / picture.columns;
    this.titles = ["← query", read.kind === "token" ? "key →" : `${read.kind} →`];
    this.bandName = "query";
  }

  origin(cell) {
    return cell;
  }

  place(cell) {
    return cell;
  }

  rowLabel(_cell, step, token) {
    return step > 1 ? this.written.position(token) : this.written.shown(token);
  }

  columnLabel(_cell, step, token) {
    return step > 1 ? this.read.position(token) : this.read.shown(token);
  }

  /** How much room the labels of columns take in the font of a context. */
  widestColumn(context) {
    return this.read.widest(context);
  }
}

/** The map by lag: a column of this raster is a lag; negative lags, of later keys, come first. */
class LagRaster extends MapRaster {
  constructor(picture, codes, written, read, measured) {
    super(picture, codes, written, read);
    this.ahead = readsAhead(picture) ? picture.columns - 1 : 0;
    this.columns = this.ahead + Math.max(picture.rows, picture.columns);
    this.codes = new Uint8Array(this.rows * this.columns);
    for (let row = 0; row < this.rows; row += 1) {
      for (let column = 0; column < picture.columns; column += 1) {
        const at = this.columnAt(row, column);
        if (at >= 0 && at < this.columns) {
          this.codes[row * this.columns + at] = codes[row * picture.columns + column];
        }
      }
    }
    this.perColumn = 1;
    this.titles = ["← query", "lag, tokens →"];
    this.bandName = measured ? "mean" : "query";
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

  widestColumn(context) {
    return context.measureText(String(-this.read.count)).width;
  }
}

/** Why a map is shown as it is in place of a view; empty where the view is possible. */
function whyNotAs(view, picture) {
  return view === "lag" && picture.disorder ? `Not by lag, since ${picture.disorder}.` : "";
}

function readsAhead(picture) {
  for (let row = 0; row < picture.rows; row += 1) {
    for (let column = row + 1; column < picture.columns; column += 1) {
      if (picture.code(row, column) !== MASKED) return true;
    }
  }
  return false;
}
