// What lies over a map and below it: the cross of the chosen cell, and the scale.

function drawCross(context, layout, window, [row, column], held) {
  const { left, width, height, density } = layout;
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  context.save();
  context.beginPath();
  context.rect(left, 0, width, height);
  context.clip();
  const high = height / window.rows, wide = width / window.columns;
  const y = (row - window.row) * high, x = left + (column - window.column) * wide;
  context.strokeStyle = ramp().accent;
  context.lineWidth = 1;
  context.strokeRect(left - 2, y - 0.5, width + 4, high + 1);
  context.strokeRect(x - 0.5, -2, wide + 1, height + 4);
  context.lineWidth = held ? 4 : 2.5;
  context.strokeStyle = ramp().ink;
  const grow = Math.max(0, (7 - Math.min(high, wide)) / 2);
  context.strokeRect(x - grow, y - grow, wide + 2 * grow, high + 2 * grow);
  context.restore();
  context.fillStyle = ramp().accent;
  const middle = y + high / 2, centre = x + wide / 2;
  if (middle >= 0 && middle <= height) triangle(context, left - 1, middle, -1, 0);
  if (centre >= left && centre <= left + width) triangle(context, centre, height + 1, 0, 1);
}

/** A small arrow head whose tip is at (x, y), pointing against (dx, dy). */
function triangle(context, x, y, dx, dy) {
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x + 5 * dx - 4 * dy, y + 5 * dy - 4 * dx);
  context.lineTo(x + 5 * dx + 4 * dy, y + 5 * dy + 4 * dx);
  context.fill();
}

function drawLegend(place, scale, curve, map) {
  const bar = make("canvas", { width: 251, height: 1, "aria-hidden": "true" });
  const context = bar.getContext("2d");
  for (let k = 0; k < 251; k += 1) {
    context.fillStyle = `rgb(${colourOf((k - 125) / 125, curve).join(" ")})`;
    context.fillRect(k, 0, 1, 1);
  }
  const ends = [`−${number(scale, 3)}`, "0", `+${number(scale, 3)}`];
  const ramps = make("div", { className: "ramp" }, bar, ...ends.map((end) => make("span", {}, end)));
  const swatch = (paint, text) => {
    const sample = make("span", { className: "swatch" });
    paint(sample);
    return make("span", {}, sample, text);
  };
  place.replaceChildren(ramps, make("span", {}, `weight, no unit; ${curve === "root" ? "square-root"
    : curve} colours`), swatch((sample) => sample.classList.add("pattern"), "masked"));
  if (map.nans + map.infinities) {
    place.append(swatch((sample) => {
      sample.style.backgroundColor = `rgb(${ramp().none.join(" ")})`;
    }, "not finite"));
  }
}
