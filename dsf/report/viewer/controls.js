// The controls above the maps, and the list of keys below them.

const VIEWS = { map: "Map", state: "State", shares: "Shares", edits: "Edits" };

/** Buttons that choose one of several; `choose(name)` on a click. */
function choices(label, names, choose) {
  const group = make("span", { className: "choices", role: "group", "aria-label": label });
  for (const [name, text] of Object.entries(names)) {
    group.append(button(text, text, () => choose(name), { value: name }));
  }
  group.press = (name) => {
    for (const each of group.children) each.setAttribute("aria-pressed", String(each.value === name));
  };
  return group;
}

/** A choice of the colour scale, and whether maps share it; `changed()` after every change. */
function scaleChoice(settings, changed) {
  const curve = make("select", { "aria-label": "Colour scale" }, ...Object.entries(CURVES).map(([value, { name }]) =>
    make("option", { value }, name)));
  curve.value = settings.curve;
  curve.addEventListener("change", () => {
    settings.curve = curve.value;
    changed();
  });
  const together = make("input", { type: "checkbox" });
  together.addEventListener("change", () => {
    settings.together = together.checked;
    changed();
  });
  return [curve, make("label", {}, together, "same scale")];
}

const HELP = [["← ↑ → ↓", "move the cell"], ["n p", "next, previous map"], ["v", "next view"],
  ["c", "compare"], ["d", "A − B"], ["o", "overview"], ["/", "find a token"], ["+ − 0", "zoom"], ["Enter", "fix the cell"],
  ["t", "numbers"], ["Esc", "back to the overview"]];

// The search field, which finds tokens by their text or position.

class Search {
  /** `found(text)` marks tokens, `go(token)` shows one, `leave()` returns to the map. */
  constructor({ tokens, found, go, leave }) {
    Object.assign(this, { tokens, found, go, at: -1 });
    this.field = make("input", { type: "search", placeholder: "Find token", spellcheck: false,
      "aria-label": "Find a token by its text or position" });
    this.count = make("span", { className: "count", role: "status" });
    this.root = make("span", { className: "search" }, this.field, this.count);
    this.field.addEventListener("input", () => this.look());
    this.field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") this.step(event.shiftKey ? -1 : 1);
      if (event.key === "Escape") leave();
      if (["Enter", "Escape"].includes(event.key)) event.preventDefault();
    });
  }

  /** The tokens of the map that is shown now. */
  get hits() {
    return this.field.value ? this.tokens().holding(this.field.value) : [];
  }

  look() {
    this.at = -1;
    this.showCount();
    this.found(this.field.value);
  }

  step(by) {
    const { hits } = this;
    if (!hits.length) return;
    this.at = (this.at + by + hits.length) % hits.length;
    if (this.at < 0) this.at = hits.length - 1;
    this.showCount();
    this.go(hits[this.at]);
  }

  /** How many there are; on a map of other tokens the search begins anew. */
  showCount() {
    const many = this.hits.length;
    if (this.tokens() !== this.among) this.at = -1;
    this.among = this.tokens();
    this.count.textContent = !this.field.value ? "" : !many ? "none"
      : this.at < 0 ? `${many} found` : `${this.at + 1} of ${many}`;
  }
}

// One row of controls; those that do not fit are in a menu at its end.

class Toolbar {
  /** `always` stay in the row; of the groups in `foldable` the last goes into the menu first. */
  constructor(always, foldable) {
    this.foldable = foldable;
    this.sheet = make("div", { className: "sheet" });
    this.menu = make("details", { className: "menu" }, make("summary", { ariaLabel: "More controls" },
      "⋯", make("span", { className: "word" }, " More")), this.sheet);
    this.root = make("div", { className: "bar row" }, ...always, ...foldable, this.menu);
    this.menu.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.menu.open) this.close();
    });
    this.menu.addEventListener("focusout", ({ relatedTarget }) => {
      if (relatedTarget && !this.menu.contains(relatedTarget)) this.menu.open = false;
    });
    new ResizeObserver(() => this.fit()).observe(this.root);
  }

  /** Move as many groups into the menu as have no room in the row. */
  fit() {
    const { root, menu, sheet, foldable } = this, held = root.getRootNode().activeElement;
    const full = () => root.scrollWidth > root.clientWidth;
    root.classList.remove("tight", "wrapped");
    menu.before(...foldable);
    menu.hidden = true;
    menu.hidden = !full();
    const [last, ...others] = [...foldable].reverse();
    const fold = (group) => () => sheet.prepend(group);
    for (const step of [fold(last), () => root.classList.add("tight"), ...others.map(fold)]) {
      if (full()) step();
    }
    root.classList.toggle("wrapped", full());
    if (menu.hidden) menu.open = false;
    if (foldable.some((group) => group.contains(held))) held.focus({ preventScroll: true });
  }

  /** Open the menu if a control waits in it. */
  reveal(control) {
    if (this.sheet.contains(control)) this.menu.open = true;
  }

  close() {
    this.menu.open = false;
    this.menu.firstChild.focus();
  }
}
