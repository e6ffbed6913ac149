// The input as text, each token coloured by the weight that the chosen query has on it as a key.

const NEIGHBOURS = 100;

/** Show one row of a map as colours of the tokens; `choose(token)` is called on a click. */
function drawStrip(place, { picture, cell, read, written, shades }, sought, choose) {
  place.replaceChildren();
  if (!read.texts) return;
  const own = picture.sameTokens ? picture.writtenBy(cell[0]) : picture.readBy(cell[1]);
  const caption = make("p", {}, "Weights of query ", written.many(picture.writtenBy(cell[0])), " on the tokens as keys:");
  const line = make("div", { tabIndex: 0, role: "region", "aria-label": "Tokens, coloured by the weight of the chosen query on them as keys" });
  const from = Math.max(0, own[0] - NEIGHBOURS), to = Math.min(read.count, own[1] + NEIGHBOURS + 1);
  if (from > 0) line.append("… ");
  for (let token = from; token < to; token += 1) {
    const element = word(picture.code(cell[0], picture.columnOf(token)), read.text(token), shades);
    element.title = `key ${read.position(token)}`;
    element.classList.toggle("here", token >= own[0] && token <= own[1]);
    element.classList.toggle("found", sought.has(token));
    element.addEventListener("click", () => choose(token));
    line.append(element);
  }
  if (to < read.count) line.append(" …");
  place.append(caption, line);
}

function word(code, text, shades) {
  const element = make("span", {}, text);
  if (code === MASKED) {
    element.className = "ahead";
  } else {
    const colour = shades.of(code);
    element.style.backgroundColor = css(colour);
    element.style.color = inkOn(colour);
  }
  return element;
}
