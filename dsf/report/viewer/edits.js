// An intervention: by how much every output moves, and the last logits, without or with the edits.

function drawEdits(place, { edits, moved, logits }, sample, tokens) {
  const sizes = moved[sample], most = Math.max(...sizes) || 1;
  const line = make("div", { tabIndex: 0, role: "region", ariaLabel: "Tokens, coloured by how much the output after them moves" });
  sizes.forEach((size, token) => {
    const colour = colourOf(size / most, "root");
    const element = make("span", { title: `${tokens.shown(token)} (${token}): ${number(size, 3)}` }, tokens.text(token));
    element.style.backgroundColor = css(colour);
    element.style.color = inkOn(colour);
    line.append(element);
  });
  const body = make("div", { className: "numbers", role: "status" });
  const show = (changed) => {
    run.press(changed ? "changed" : "clean");
    const at = changed ? 2 : 1, ordered = [...logits[sample]].sort((one, other) => other[at] - one[at]);
    body.replaceChildren(make("section", {}, table(`Logits after the last token, ${changed ? "with" : "without"} the edits`,
      ["token", "logit", "changed − clean"],
      ordered.map(([name, clean, after]) => [name.replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length)), number(changed ? after : clean, 4), number(after - clean, 3)]), 1)));
  };
  const run = choices("Run", { clean: "Clean", changed: "Changed" }, (name) => show(name === "changed"));
  place.replaceChildren(make("h2", {}, "The run with edits"),
    make("p", { className: "summary" }, `Edits: ${edits.join("; ") || "none"}.`),
    make("div", { className: "strip shares" }, make("p", {}, `Largest change of the output after each token: 0 (pale) to ${number(most, 3)}, square root.`), line),
    run, body);
  show(true);
}
