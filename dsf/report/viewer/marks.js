// Drawn over a map: the cross of the chosen cell and tokens that were found; below it: the colour scale.

/** `sought` = {rows, columns}: cells of the raster whose tokens were found. */
function drawCross(context, layout, window, raster, cell, { fixed, sought }) {
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
  if (raster.bands) {
    context.strokeRect(left - 2, y(cell[0]) - 0.5, width + 4, high + 1);
    context.strokeRect(x(cell[1]) - 0.5, top - 2, wide + 1, height + 4);
  } else if (raster.query) {
    context.lineWidth = 3;
    context.strokeRect(x(raster.query[1]), y(raster.query[0]), wide, high);
  }
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

/** The colour scale in numbers and words. Maps without negative weights have one end.
    `apart` is whether the diagonal is left out. */
function drawLegend(place, shades, map, apart) {
  const bar = make("canvas", { width: 251, height: 1, "aria-hidden": "true" });
  const context = bar.getContext("2d"), { together } = map, signed = map.signed && !together;
  const largest = map.rollout ? map.links[0][2] : apart ? map.largest_apart : shades.scale;
  for (let k = 0; k < 251; k += 1) {
    context.fillStyle = css(colourOf(signed ? (k - 125) / 125 : k / 250, shades.curve));
    context.fillRect(k, 0, 1, 1);
  }
  const ramps = make("div", { className: "ramp" }, bar,
    ...legendEnds(shades, signed, largest).map((end) => make("span", {}, end)));
  const what = map.rollout ? "share by rollout" : map.share ? `share of ${map.share.target}` : together ? `length of a contribution, in the unit of ${together.onto}`
    : "weight, without unit";
  const swatch = (paint, text) => {
    const sample = make("span", { className: "swatch" });
    paint(sample);
    return make("span", {}, sample, text);
  };
  place.replaceChildren(ramps, make("span", {}, `${what}; ${legendWords(shades, largest)}`),
    swatch((sample) => sample.classList.add("pattern"), "masked"));
  if (map.uniform) place.append(make("span", { className: "even" }, uniformWords(map.uniform)));
  if (apart) {
    place.append(swatch((sample) => {
      sample.style.backgroundColor = css(ramp().left);
    }, "diagonal, hidden"));
  }
  if (map.nans + map.infinities) {
    place.append(swatch((sample) => {
      sample.style.backgroundColor = css(ramp().none);
    }, `not finite (${map.nans + map.infinities})`));
  }
}

function legendEnds({ curve, end }, signed, largest) {
  if (curve === "percentile") return signed ? ["− largest", "0", "+ largest"] : ["0", "half of the cells", "all"];
  const last = `${end < largest ? "≥ " : ""}${signed ? "+" : ""}${number(end, 3)}`;
  if (signed) return [`${end < largest ? "≤ " : ""}−${number(end, 3)}`, "0", last];
  return ["0", number(shareAt(0.5, curve) * end, 3), last];
}

function legendWords(shades, largest) {
  const { curve, end } = shades;
  if (curve === "percentile") {
    return `coloured by percentile: half of the cells lie below ${number(shades.weightAt(0.5), 2)}, `
      + `nine tenths below ${number(shades.weightAt(0.9), 2)}, all up to ${number(largest, 3)}`;
  }
  const cut = end < largest ? `, full from ${number(end, 3)} on; the largest is ${number(largest, 3)}` : "";
  return `${CURVE_NAMES[curve].replace(" ", "-")} colour scale${cut}`;
}

/** That a map has hardly any contrast, which colours must not pretend. */
function uniformWords([least, most]) {
  const [low, high] = [number(least, 3), number(most, 3)];
  const where = low === high ? `are ${low}` : `lie between ${low} and ${high}, a ratio of ${(most / least).toFixed(2)}`;
  return `Nearly uniform: beside the diagonal and the first key most weights ${where}; `
    + "colours are paler for it, and percentiles are not drawn.";
}
