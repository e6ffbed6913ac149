// The controls above the maps, and the list of keys below them.

const VIEWS = { map: "Map", lag: "By lag", grid: "Grid", state: "State" };

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

function scaleChoice(settings, changed) {
  const curve = make("select", {}, ...Object.keys(CURVES).map((name) =>
    make("option", { value: name }, name === "root" ? "square root" : name)));
  curve.setAttribute("aria-label", "Colour scale");
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
  ["c", "compare"], ["/", "find a token"], ["+ − 0", "zoom"], ["Enter", "fix the cell"],
  ["t", "numbers"], ["Esc", "back to the overview"]];

function keyHelp() {
  return make("p", { className: "keys" }, ...HELP.flatMap(([key, does]) =>
    [make("span", {}, make("kbd", {}, key), ` ${does}`), " "]));
}
