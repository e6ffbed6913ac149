// The controls above the maps, and the list of keys below them.

const VIEWS = { map: "Map", lag: "By lag", grid: "Grid", state: "State", shares: "Shares", edits: "Edits" };

/** Buttons that choose one of several; `choose(name)` on a click. */
function choices(label, names, choose) {
  const group = make("span", { className: "choices", role: "group" });
  group.setAttribute("aria-label", label);
  for (const [name, text] of Object.entries(names)) {
    group.append(button(text, text, () => choose(name), { value: name }));
  }
  group.press = (name) => {
    for (const each of group.children) each.setAttribute("aria-pressed", String(each.value === name));
  };
  return group;
}

/** A choice of the colour scale, and switches; `changed()` after every change. */
function scaleChoice(settings, changed) {
  const curve = make("select", {}, ...Object.entries(CURVE_NAMES).map(([value, text]) =>
    make("option", { value }, text)));
  curve.setAttribute("aria-label", "Colour scale");
  curve.value = settings.curve;
  curve.addEventListener("change", () => {
    settings.curve = curve.value;
    changed();
  });
  const toggle = (name, text) => {
    const box = make("input", { type: "checkbox" });
    box.addEventListener("change", () => {
      settings[name] = box.checked;
      changed();
    });
    return make("label", {}, box, text);
  };
  return [curve, toggle("together", "same scale"), toggle("hidesDiagonal", "hide diagonal")];
}

const HELP = [["← ↑ → ↓", "move the cell"], ["n p", "next, previous map"], ["v", "next view"],
  ["c", "compare"], ["d", "A − B"], ["o", "overview"], ["/", "find a token"], ["+ − 0", "zoom"], ["Enter", "fix the cell"],
  ["t", "numbers"], ["Esc", "back to the overview"]];

function keyHelp() {
  return make("p", { className: "keys" }, ...HELP.flatMap(([key, does]) =>
    [make("span", {}, make("kbd", {}, key), ` ${does}`), " "]));
}
