// The playground: which architecture, its sliders, the tokens, and the clock that moves along them.

const SIGNALS = { values: "the tokens' values", impulse: "one impulse at the first token", ones: "a one at every token" };
const BEAT = 800; // milliseconds for each token while it plays

class Board {
  constructor(place, { tokens, presets, start }) {
    Object.assign(this, { presets, tokens, now: tokens.text.length - 1, kind: "values" });
    this.chosen = presets.find(({ name }) => name === start.preset);
    this.settings = { ...this.defaults, ...start.settings };
    this.parts(place);
    this.choose(this.chosen, this.settings);
  }

  get defaults() {
    return Object.fromEntries(this.chosen.sliders.map(([name, , , , , value]) => [name, value]));
  }

  get signal() {
    if (this.kind === "impulse") return this.tokens.value.map((_, t) => (t ? 0 : 1));
    return this.kind === "ones" ? this.tokens.value.map(() => 1) : this.tokens.value;
  }

  parts(place) {
    this.sliders = make("div", { className: "sliders" });
    this.heading = make("h2", {});
    this.equations = make("div", { className: "equations" });
    this.says = make("p", { className: "says" });
    this.mapPlace = make("div", { className: "map" });
    this.timePlace = make("div", { className: "time" });
    this.spoken = make("p", { className: "readout", role: "status" });
    this.facts = make("dl", { className: "facts" });
    this.numbers = make("div", { className: "scroll", tabIndex: 0, role: "region",
      "aria-label": "Map, signal, state and response as a table" });
    this.saved = make("a", { download: "playground.json" }, "Save these numbers as JSON");
    place.replaceChildren(
      make("div", { className: "choosing" }, this.presetButtons()),
      make("div", { className: "stage" }, this.heading, this.equations, this.says, this.transport(), this.sliders, this.spoken,
        make("div", { className: "views" },
          make("section", {}, make("h3", {}, "Attention map"), this.mapPlace),
          make("section", {}, make("h3", {}, "Signal, state, response"), this.timePlace)),
        this.facts,
        make("details", { className: "table" }, make("summary", {}, "Numbers"), this.saved, this.numbers)));
  }

  presetButtons() {
    const kinds = [...new Set(this.presets.map(({ kind }) => kind))];
    this.buttons = new Map();
    return make("nav", {}, ...kinds.map((kind) => {
      const group = make("div", { className: "kind", role: "group", "aria-label": kind }, make("span", {}, kind));
      for (const preset of this.presets.filter((each) => each.kind === kind)) {
        const one = button(preset.title, preset.title, () => this.choose(preset), { value: preset.name });
        this.buttons.set(preset, one);
        group.append(one);
      }
      return group;
    }));
  }

  transport() {
    this.play = button("Play", "Play token by token", () => (this.timer ? this.stop() : this.run()));
    this.play.removeAttribute("aria-label");
    this.clock = make("input", { type: "range", min: 1, max: this.tokens.text.length, value: this.now + 1, "aria-label": "Token" });
    this.clock.addEventListener("input", () => { this.stop(); this.go(Number(this.clock.value) - 1); });
    const signal = make("select", {}, ...Object.entries(SIGNALS).map(([value, text]) => make("option", { value }, text)));
    signal.addEventListener("change", () => { this.kind = signal.value; this.show(); });
    return make("div", { className: "bar" }, this.play,
      button("←", "The token before", () => { this.stop(); this.go(this.now - 1); }),
      button("→", "The next token", () => { this.stop(); this.go(this.now + 1); }), this.clock,
      make("label", {}, "Signal", signal),
      button("Reset sliders", "Put the sliders back", () => this.choose(this.chosen, this.defaults)));
  }

  choose(preset, settings) {
    this.chosen = preset;
    this.settings = { ...this.defaults, ...settings };
    for (const [each, one] of this.buttons) one.setAttribute("aria-pressed", String(each === preset));
    this.heading.textContent = preset.title;
    this.equations.replaceChildren(...preset.equations.map(formula));
    this.says.textContent = preset.says;
    this.sliders.replaceChildren(...preset.sliders.map((slider) => this.slider(slider)));
    this.show();
  }

  slider([name, does, min, max, step]) {
    const shown = make("output", {}, number(this.settings[name], 3));
    const input = make("input", { type: "range", min, max, step, value: this.settings[name], name });
    input.addEventListener("input", () => {
      this.settings[name] = input.valueAsNumber;
      shown.textContent = number(this.settings[name], 3);
      this.waiting = soon(this.waiting, () => this.show());
    });
    return make("label", {}, make("span", {}, make("b", {}, name), ` ${does}`), shown, input);
  }

  run() {
    const last = this.tokens.text.length - 1;
    if (this.now === last) this.go(0);
    this.play.textContent = "Pause";
    this.timer = setInterval(() => (this.now === last ? this.stop() : this.go(this.now + 1)), BEAT);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = 0;
    this.play.textContent = "Play";
  }

  go(token) {
    this.now = Math.min(Math.max(token, 0), this.tokens.text.length - 1);
    this.clock.value = this.now + 1;
    this.draw();
  }

  /** Compute all numbers again, and show them. */
  show() {
    this.found = computed(this.chosen.name, this.tokens, this.settings, this.signal);
    const { map, states, response } = this.found, { signal } = this;
    this.facts.replaceChildren(...factsOf(this.found, signal, this.chosen, this.tokens, this.settings).map(([name, value]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, value))));
    this.numbers.replaceChildren(tableOf(this.found, signal, this.tokens.text));
    const all = { preset: this.chosen.name, settings: this.settings, tokens: this.tokens, signal, map, states, response };
    this.saved.href = `data:application/json,${encodeURIComponent(JSON.stringify(all))}`;
    this.draw();
  }

  draw() {
    const { found, signal, now } = this, choose = (token) => { this.stop(); this.go(token); };
    this.mapPlace.replaceChildren(drawMap(found.map, this.tokens.text, now, choose));
    this.timePlace.replaceChildren(drawTime(found, signal, this.tokens.text, now, choose));
    this.clock.setAttribute("aria-valuetext", `token ${now + 1}, ${this.tokens.text[now]}`);
    this.spoken.textContent = `Token ${now + 1} of ${signal.length}, “${this.tokens.text[now]}”: signal ${number(signal[now], 3)}, `
      + `response ${number(found.response[now], 4)}.`;
  }
}

function factsOf({ map, states, response }, signal, { name }, tokens, settings) {
  const seen = map.map((row, i) => row.slice(0, i + 1));
  const sums = seen.map((row) => row.reduce((sum, each) => sum + each, 0));
  const exact = (sum) => (Math.abs(sum - Math.round(sum)) < 1e-12 ? Math.round(sum) : sum); // up to rounding
  const span = [Math.min(...sums), Math.max(...sums)].map((each) => number(exact(each), 3));
  const apart = largest([response.map((y, t) => y - throughMap(map, signal, t))]);
  const facts = [
    ["numbers of state", String(states[0].length)],
    ["row sums", span[0] === span[1] ? span[0] : `${span[0]} to ${span[1]}`],
    ["negative weights", `${seen.flat().filter((each) => each < 0).length} of ${seen.flat().length}`],
    ["state against map", `differ by ${apart <= 1e-12 ? "less than 1e−12" : number(apart, 2)}`],
  ];
  if (name === "taylor") {
    const exact = computed("softmax_attention", tokens, settings, signal).map;
    const far = largest(map.map((row, i) => row.map((weight, j) => weight - exact[i][j])));
    facts.push(["farthest from softmax", number(far, 3)]);
  }
  return facts;
}

function tableOf({ map, states, response }, signal, tokens) {
  const cell = (value) => number(value, 4);
  const rows = map.map((row, i) => [`${i + 1} ${tokens[i]}`, cell(signal[i]), states[i].map(cell).join(", "), cell(response[i]),
    ...row.map((weight, j) => (j > i ? "–" : cell(weight)))]);
  return table("Map, signal, state and response", ["token", "signal", "state", "response", ...tokens.map((_, j) => `key ${j + 1}`)], rows, 1);
}

function throughMap(map, signal, t) {
  return signal.reduce((sum, value, j) => sum + (j <= t ? map[t][j] * value : 0), 0);
}

/** `h_{t−1}` and `γ^{g}` become elements; everything else stays text. */
function formula(text) {
  const line = make("span", { className: "formula" });
  line.append(...pieces(text));
  return line;
}

function pieces(text) {
  const found = text.match(/^(.*?)([_^])\{/);
  if (!found) return [text];
  let open = 1, at = found[0].length;
  for (; open; at += 1) open += text[at] === "{" ? 1 : text[at] === "}" ? -1 : 0;
  const inside = make(found[2] === "_" ? "sub" : "sup", {}, ...pieces(text.slice(found[0].length, at - 1)));
  return [found[1], inside, ...pieces(text.slice(at))];
}

function startPlayground() {
  const board = new Board(document.getElementById("board"), JSON.parse(document.getElementById("content").textContent));
  followTheme(() => board.draw());
  board.draw();
  document.documentElement.dataset.ready = "true";
}

startPlayground();
