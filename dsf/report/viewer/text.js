// Numbers, tokens and weights as text. Everything becomes text nodes, never markup.

function make(kind, properties = {}, ...children) {
  const element = document.createElement(kind);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// The namespace of SVG, asked of the browser, so that the page contains no address at all.
const DRAWING = new DOMParser().parseFromString("<svg></svg>", "text/html").body.firstChild.namespaceURI;

/** An SVG element; attributes only, since the policy of the page allows no inline style. */
function shape(kind, attributes = {}, ...children) {
  const element = document.createElementNS(DRAWING, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function button(text, name, act, extra = {}) {
  const made = make("button", { type: "button", title: name, ...extra }, text);
  if (text !== name) made.setAttribute("aria-label", name);
  made.addEventListener("click", act);
  return made;
}

/** A number or token that opens a cell on a click; it is read by its own text. */
function link(text, title, act) {
  const made = button(text, title, act, { className: "link" });
  made.removeAttribute("aria-label");
  return made;
}

function number(value, digits = 4) {
  if (value === null || !Number.isFinite(value)) return "not finite";
  if (Number.isInteger(value) && Math.abs(value) < 1e5) return String(value).replace("-", "−");
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-4 ? value.toExponential(digits - 1)
    : size >= 10 ** digits ? String(Number(value.toPrecision(digits))) : value.toPrecision(digits);
  return text.replaceAll("-", "−");
}

/** Names tokens by their position and, where known, their text; or slots, which have no text. */
class Tokens {
  /** `numbers` are the positions of the tokens where they do not stand in order, -1 for none. */
  constructor(texts, count, kind = "token", numbers = null) {
    Object.assign(this, { count, kind, numbers, found: {} });
    const known = texts && kind === "token" && (numbers ? Math.max(...numbers) < texts.length : texts.length === count);
    this.texts = !known ? null : numbers ? numbers.map((at) => texts[at] ?? "") : texts;
  }

  /** What one of them is to a query that reads it. */
  get read() {
    return this.kind === "token" ? "key" : "column";
  }

  /** Its position in the input; a dash where it is not a token of the input. */
  position(token) {
    const at = this.numbers ? this.numbers[token] : token;
    return at < 0 ? "–" : String(at);
  }

  /** The text with its spaces visible; the position where there is no text. */
  shown(token) {
    return this.texts ? this.texts[token].replaceAll(" ", "␣") : this.position(token);
  }

  /** How much room the widest of them takes, in the font in which all are drawn, up to that of a label. */
  widest(context) {
    if (this.room !== undefined) return this.room;
    this.room = 0;
    for (const text of new Set(Array.from({ length: this.count }, (_, token) => this.shown(token)))) {
      this.room = Math.max(this.room, context.measureText(text).width);
      if (this.room >= WIDEST) break;
    }
    return this.room;
  }

  text(token) {
    return this.texts ? this.texts[token] : this.position(token);
  }

  /** `token 7`, or its text in quotes with its position. */
  named(token) {
    if (this.numbers?.[token] < 0) return make("b", {}, `${this.kind} that is not of the input`);
    if (!this.texts) return make("b", {}, `${this.kind} ${this.position(token)}`);
    const text = make("span", { className: "token" }, `“${this.shown(token)}”`);
    return make("b", {}, text, ` (${this.position(token)})`);
  }

  /** The tokens that contain a text, and the one at a position given as a number. */
  holding(wanted) {
    this.found[wanted] ??= this.search(wanted);
    return this.found[wanted];
  }

  search(wanted) {
    const sought = wanted.toLowerCase().replaceAll("␣", " ");
    const place = /^\d+$/.test(wanted) ? String(Number(wanted)) : null, all = Array.from({ length: this.count }, (_, token) => token);
    const found = all.filter((token) => this.texts?.[token].toLowerCase().includes(sought));
    return [...found, ...all.filter((token) => this.position(token) === place && !found.includes(token))];
  }

  many([first, last]) {
    if (first === last) return this.named(first);
    const [from, to] = [first, last].map((token) => this.position(token));
    return make("b", {}, `${this.kind}s ${from}${this.numbers ? " … " : "–"}${to}`);
  }
}

/** One sentence about a cell: its query, its key and its weight. */
function sentence(picture, row, column, written, read, { together, difference, share }) {
  const from = picture.writtenBy(row), to = picture.readBy(column);
  const code = picture.code(row, column);
  const links = (from[1] - from[0] + 1) * (to[1] - to[0] + 1);
  const place = ["Query ", written.many(from), `, ${read.read} `, read.many(to), ": "];
  if (code === MASKED) return [...place, "masked."];
  const weight = code === NAN ? "NaN" : code === PLUS_INFINITY ? "+∞" : code === MINUS_INFINITY ? "−∞"
    : picture.isExact(row, column) ? number(picture.weight(row, column), 6)
      : `≈ ${number(picture.weight(row, column), 2)}`;
  const shown = make("b", {}, weight);
  if (together) return sentenceTogether(from, to, weight, written, read, together);
  if (share) return ["Query ", written.many(from), ` reads ${read.read} `, read.many(to), ": ", shown, ` of ${share.target}.`];
  if (difference) return [...place, "A − B is ", shown, "."];
  if (links > 1) return [...place, `the largest of ${links} weights is `, shown, "."];
  if (picture.disorder) return [...place, "weight ", shown, "."];
  const lag = from[0] - to[0], tokens = Math.abs(lag) === 1 ? "token" : "tokens";
  const distance = lag === 0 ? "the same token"
    : `key ${Math.abs(lag)} ${tokens} ${lag > 0 ? "before" : "after"} the query`;
  return [...place, "weight ", shown, ` · ${distance}.`];
}

/** One sentence about a cell of all channels together. */
function sentenceTogether(from, to, length, written, read, { channels, onto }) {
  const through = channels === 1 ? "the only channel" : `all ${channels} channels`;
  return ["Key ", read.many(to), to[0] === to[1] ? " adds to " : " add to ", `${onto} at `,
    written.named(from[1]), `, through ${through}, a vector of length `, make("b", {}, length), "."];
}
