// A diverging scale, symmetric about zero: cool subtracts, warm adds. Blue and orange-red stay apart
// for all common kinds of colour blindness, and differ from zero in lightness as well.

const RAMPS = {
  light: {
    cool: [[246, 245, 241], [196, 219, 236], [125, 174, 213], [56, 121, 181], [16, 62, 120]],
    warm: [[246, 245, 241], [251, 214, 184], [244, 157, 107], [214, 84, 48], [131, 24, 22]],
    none: [150, 190, 0], ink: "#1b1e24", quiet: "#595e68", paper: "#fbfaf7", hatch: "#d3cec3",
    accent: "#0b5c7a",
  },
  dark: {
    cool: [[33, 38, 46], [35, 72, 112], [47, 117, 181], [104, 176, 231], [205, 234, 255]],
    warm: [[33, 38, 46], [99, 52, 33], [186, 84, 40], [246, 148, 82], [255, 226, 188]],
    none: [190, 230, 40], ink: "#e8e6e1", quiet: "#a3a8b2", paper: "#101317", hatch: "#343b45",
    accent: "#7cc7e8",
  },
};

const CURVES = {
  linear: (share) => share,
  root: (share) => Math.sqrt(share),
  logarithmic: (share) => Math.log1p(1000 * share) / Math.log(1001),
};

function ramp() {
  const chosen = document.documentElement.dataset.theme;
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  return RAMPS[dark && !matchMedia("print").matches ? "dark" : "light"];
}

/** Colour of a share of the scale, -1 to 1. */
function colourOf(share, curve) {
  const stops = share < 0 ? ramp().cool : ramp().warm;
  const place = CURVES[curve](Math.min(Math.abs(share), 1)) * (stops.length - 1);
  const from = Math.min(Math.floor(place), stops.length - 2);
  return stops[from].map((low, k) => Math.round(low + (stops[from + 1][k] - low) * (place - from)));
}

/** Pixel of every code, for a map whose own scale is `stretch` times the scale that is shown. */
function pixelsOf(curve, stretch) {
  const bytes = new Uint8ClampedArray(4 * 256);
  for (let code = 0; code < 256; code += 1) {
    if (code === MASKED) continue; // see-through: the hatching below shows
    const colour = code <= MINUS_INFINITY ? ramp().none : colourOf(shareOf(code) * stretch, curve);
    bytes.set([...colour, 255], 4 * code);
  }
  return new Uint32Array(bytes.buffer);
}

/** Black or white, whichever reads better on a colour. */
function inkOn([red, green, blue]) {
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#14161a" : "#ffffff";
}
