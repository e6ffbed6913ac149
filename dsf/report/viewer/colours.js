// A diverging scale, symmetric about zero: cool is negative, warm positive. Blue and orange-red differ
// for all common kinds of colour blindness, and differ from zero in lightness as well.

const RAMPS = {
  light: {
    cool: [[246, 245, 241], [196, 219, 236], [125, 174, 213], [56, 121, 181], [16, 62, 120]],
    warm: [[246, 245, 241], [251, 214, 184], [244, 157, 107], [214, 84, 48], [131, 24, 22]],
    none: [150, 190, 0], ink: "#1b1e24", quiet: "#595e68", hatch: "#d3cec3",
    raised: "#ffffff", line: "#b9b3a6", found: "#8a5cd1", accent: "#0b5c7a", plus: "#c2482a", minus: "#2f6fae",
  },
  dark: {
    cool: [[33, 38, 46], [35, 72, 112], [47, 117, 181], [104, 176, 231], [205, 234, 255]],
    warm: [[33, 38, 46], [99, 52, 33], [186, 84, 40], [246, 148, 82], [255, 226, 188]],
    none: [190, 230, 40], ink: "#e8e6e1", quiet: "#a3a8b2", hatch: "#343b45",
    raised: "#181c22", line: "#4a525e", found: "#c3a2ff", accent: "#7cc7e8", plus: "#f08a4b", minus: "#6fb3ea",
  },
};

/** How far along its ramp the colour of a share of the scale is, and the share of a place there. */
const CURVES = {
  root: { name: "square root", placeOf: Math.sqrt, shareAt: (place) => place ** 2 },
  linear: { name: "linear", placeOf: (share) => share, shareAt: (place) => place },
  logarithmic: { name: "logarithmic", placeOf: (share) => Math.log1p(1000 * share) / Math.log(1001),
    shareAt: (place) => (1001 ** place - 1) / 1000 },
};

let theme = "light";

/** Draw everything from now on in the theme `light` or `dark`. */
function setTheme(name) {
  theme = name;
}

function ramp() {
  return RAMPS[theme];
}

function css(colour) {
  return `rgb(${colour.join(" ")})`;
}

/** The colour of a share of the scale, -1 to 1. */
function colourOf(share, curve) {
  const stops = share < 0 ? ramp().cool : ramp().warm;
  const place = CURVES[curve].placeOf(Math.min(Math.abs(share), 1)) * (stops.length - 1);
  const from = Math.min(Math.floor(place), stops.length - 2);
  return stops[from].map((low, k) => Math.round(low + (stops[from + 1][k] - low) * (place - from)));
}

/** The colour of every code of a map; `end` is the weight from which on it is full. */
class Shades {
  constructor(curve, scale, end) {
    Object.assign(this, { curve, scale, end });
    this.shares = Float64Array.from({ length: 256 }, (_, code) =>
      (code <= MINUS_INFINITY || !end ? 0 : shareOf(code) * scale / end));
  }

  of(code) {
    return code <= MINUS_INFINITY ? ramp().none : colourOf(this.shares[code], this.curve);
  }

  /** One 32-bit pixel for every code; masked ones are transparent, so that the hatching shows. */
  get pixels() {
    const bytes = new Uint8ClampedArray(4 * 256);
    for (let code = 1; code < 256; code += 1) bytes.set([...this.of(code), 255], 4 * code);
    return new Uint32Array(bytes.buffer);
  }
}

/** Black or white, whichever has more contrast with a colour. */
function inkOn(colour) {
  const [red, green, blue] = colour.map((byte) => {
    const share = byte / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000000" : "#ffffff";
}

/** A text in a colour, with the ink that is read on it. */
function coloured(text, colour, title) {
  const element = make("span", { title }, text);
  element.style.backgroundColor = css(colour);
  element.style.color = inkOn(colour);
  return element;
}

/** Follow the theme that the reader's system, a press of the button, or a printer asks for. */
function followTheme(restyle) {
  const toggle = document.getElementById("theme"), printed = matchMedia("print");
  const asked = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => {
    const chosen = document.documentElement.dataset.theme || (asked.matches ? "dark" : "light");
    setTheme(printed.matches ? "light" : chosen);
    toggle.textContent = chosen === "dark" ? "Light" : "Dark";
  };
  const again = () => { follow(); restyle(); };
  follow();
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    document.documentElement.dataset.theme = theme === "dark" ? "light" : "dark";
    again();
  });
  for (const question of [asked, printed]) question.addEventListener("change", again);
}
