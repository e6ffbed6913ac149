// Draws the pixels of a map: every device pixel shows the largest weight of the cells under it.

/** Codes of `width x height` pixels for the part `window` = {row, column, rows, columns} of a raster. */
function sampled(raster, window, width, height) {
  const across = spans(window.column, window.columns, width, raster.columns);
  const down = spans(window.row, window.rows, height, raster.rows);
  const seen = new Uint8Array(width * height);
  const strongest = new Uint8Array(raster.columns);
  let top = -1, bottom = -1;
  for (let y = 0; y < height; y += 1) {
    if (down.first[y] === top && down.last[y] === bottom) {
      seen.copyWithin(y * width, (y - 1) * width, y * width);
      continue;
    }
    [top, bottom] = [down.first[y], down.last[y]];
    strongestOf(raster, top, bottom, strongest);
    for (let x = 0; x < width; x += 1) {
      let best = strongest[across.first[x]];
      for (let column = across.first[x] + 1; column <= across.last[x]; column += 1) {
        if (RANK[strongest[column]] > RANK[best]) best = strongest[column];
      }
      seen[y * width + x] = best;
    }
  }
  return seen;
}

/** The code of the largest weight in every column, over the rows `top` to `bottom`. */
function strongestOf(raster, top, bottom, strongest) {
  const { codes, columns } = raster;
  strongest.set(codes.subarray(top * columns, (top + 1) * columns));
  for (let row = top + 1; row <= bottom; row += 1) {
    for (let column = 0, at = row * columns; column < columns; column += 1, at += 1) {
      if (RANK[codes[at]] > RANK[strongest[column]]) strongest[column] = codes[at];
    }
  }
}

/** The first and last cell under every pixel. */
function spans(start, length, pixels, cells) {
  const first = new Int32Array(pixels), last = new Int32Array(pixels);
  const clip = (cell) => Math.min(Math.max(cell, 0), cells - 1);
  for (let k = 0; k < pixels; k += 1) {
    first[k] = clip(Math.floor(start + k * length / pixels + 1e-9));
    last[k] = Math.max(first[k], clip(Math.ceil(start + (k + 1) * length / pixels - 1e-9) - 1));
    if (length < pixels) last[k] = first[k];
  }
  return { first, last };
}

/** Paint codes into a rectangle of a canvas; the hatching shows through masked pixels. */
function paint(context, codes, pixels, x, y, width, height) {
  const image = new ImageData(width, height);
  const words = new Uint32Array(image.data.buffer);
  for (let k = 0; k < codes.length; k += 1) words[k] = pixels[codes[k]];
  const sheet = make("canvas", { width, height });
  sheet.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(sheet, x, y);
}

/** Call `act` in the next animation frame and cancel the request `before`. */
function soon(before, act) {
  cancelAnimationFrame(before);
  return requestAnimationFrame(act);
}

/** Fill a rectangle with thin diagonal lines. */
function hatch(context, x, y, width, height, step) {
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.strokeStyle = ramp().hatch;
  context.lineWidth = Math.max(1, step / 6);
  context.beginPath();
  for (let k = -height; k < width; k += step) {
    context.moveTo(x + k, y + height);
    context.lineTo(x + k + height, y);
  }
  context.stroke();
  context.restore();
}
