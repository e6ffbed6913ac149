// Numbers and tokens as a person reads them. Everything becomes text nodes, never markup.

function make(kind, properties = {}, ...children) {
  const element = document.createElement(kind);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// The name space of drawings, asked of the browser: a page that holds no address fetches none.
const DRAWING = new DOMParser().parseFromString("<svg></svg>", "text/html").body.firstChild.namespaceURI;

/** An element of a drawing; attributes only, since the policy of the page admits no style. */
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

function number(value, digits = 4) {
  if (value === null || !Number.isFinite(value)) return "not finite";
  if (Number.isInteger(value) && Math.abs(value) < 1e5) return String(value).replace("-", "−");
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-4 ? value.toExponential(digits - 1) : value.toPrecision(digits);
  return text.replaceAll("-", "−");
}

/** Names tokens by their place and, where known, their text. */
class Tokens {
  constructor(texts, count) {
    this.texts = texts && texts.length === count ? texts : null;
    this.count = count;
  }

  /** The text that takes most room, written in letters of one width. */
  get widest() {
    this.longest ??= this.texts
      ? this.texts.reduce((most, text) => (text.length > most.length ? text : most), "")
      : String(this.count - 1);
    return this.longest;
  }

  text(token) {
    return this.texts ? this.texts[token] : String(token);
  }

  /** `token 7` or its text in quotes with its place. */
  named(token) {
    if (!this.texts) return make("b", {}, `token ${token}`);
    const text = make("span", { className: "token" }, `“${this.texts[token]}”`);
    return make("b", {}, text, ` (${token})`);
  }

  /** The tokens that hold a text, or the one at a place written as a number. */
  holding(wanted) {
    const sought = wanted.toLowerCase();
    const found = (this.texts || []).flatMap((text, token) => (
      text.toLowerCase().includes(sought) ? [token] : []));
    const place = /^\d+$/.test(wanted) ? Number(wanted) : -1;
    if (place >= 0 && place < this.count && !found.includes(place)) found.push(place);
    return found;
  }

  many([first, last]) {
    return first === last ? this.named(first) : make("b", {}, `tokens ${first}–${last}`);
  }
}

/** One sentence about a cell. */
function sentence(picture, row, column, written, read) {
  const from = picture.writtenBy(row), to = picture.readBy(column);
  const code = picture.code(row, column);
  const links = (from[1] - from[0] + 1) * (to[1] - to[0] + 1);
  if (code === MASKED) {
    return [written.many(from), " cannot read ", read.many(to), ": masked."];
  }
  const weight = code === NAN ? "NaN" : code === PLUS_INFINITY ? "+∞" : code === MINUS_INFINITY ? "−∞"
    : picture.values ? number(picture.weight(row, column), 6)
      : `≈ ${number(picture.weight(row, column), 2)}`;
  if (links > 1) {
    return [written.many(from), " read ", read.many(to), ": the strongest of ",
      `${links} links is `, make("b", {}, weight), "."];
  }
  const lag = from[0] - to[0];
  const distance = lag === 0 ? "itself" : `${Math.abs(lag)} ${lag > 0 ? "back" : "ahead"}`;
  return [written.many(from), " reads ", read.many(to), " with weight ", make("b", {}, weight),
    ` · ${distance}.`];
}
