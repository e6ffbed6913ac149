// Bars above a map for the chosen query and beside it for the chosen key; by lag, the mean weight.

const SPACE = 5;

function drawProfiles(context, layout, window, raster, cell, curve) {
  if (!raster.bands) return;
  const { left, top, width, height, right } = layout;
  const across = curve ? along(curve, window.column - raster.ahead, window.columns, width)
    : strongest(raster, window.column, window.columns, width, raster.columns,
      (column) => raster.codes[cell[0] * raster.columns + column]);
  const down = strongest(raster, window.row, window.rows, height, raster.rows,
    (row) => raster.codes[row * raster.columns + cell[1]]);
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
function strongest(raster, start, length, pixels, cells, codeAt) {
  const { first, last } = spans(start, length, pixels, cells);
  return Float64Array.from({ length: pixels }, (_, at) => {
    let best = codeAt(first[at]);
    for (let cell = first[at] + 1; cell <= last[at]; cell += 1) {
      if (RANK[codeAt(cell)] > RANK[best]) best = codeAt(cell);
    }
    return best <= MINUS_INFINITY ? 0 : shareOf(best);
  });
}

/** For every pixel the value of a curve that is given at some lags; 0 for negative lags. */
function along({ lags, values, perCell }, start, length, pixels) {
  return Float64Array.from({ length: pixels }, (_, at) => {
    const lag = Math.floor(start + (at + 0.5) * length / pixels) * perCell;
    let k = 0;
    while (k + 1 < lags.length && lags[k + 1] <= lag) k += 1;
    return lag < 0 ? 0 : values[k] ?? 0;
  });
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
