// The input as text: what the chosen token reads, written out over the tokens themselves.

const NEIGHBOURS = 150;

/** Show one row of a map that is there token by token; `choose(token)` is called on a click. */
function drawStrip(place, picture, row, read, curve, stretch, choose) {
  place.replaceChildren();
  if (!picture || picture.pooled || !read.texts) return;
  const caption = make("p", {}, "What ", read.named(row), " reads, over the text:");
  const line = make("div", {});
  const from = Math.max(0, row - NEIGHBOURS), to = Math.min(read.count, row + NEIGHBOURS + 1);
  if (from > 0) line.append("… ");
  for (let token = from; token < to; token += 1) {
    line.append(word(picture, row, token, read, curve, stretch, choose));
  }
  if (to < read.count) line.append(" …");
  place.append(caption, line);
}

function word(picture, row, token, read, curve, stretch, choose) {
  const code = picture.code(row, token);
  const element = make("span", { textContent: read.text(token), title: `token ${token}` });
  if (token === row) element.classList.add("here");
  if (code === MASKED) {
    element.classList.add("ahead");
  } else {
    const colour = code <= MINUS_INFINITY ? ramp().none : colourOf(shareOf(code) * stretch, curve);
    element.style.backgroundColor = `rgb(${colour.join(" ")})`;
    element.style.color = inkOn(colour);
  }
  element.addEventListener("click", () => choose(token));
  return element;
}
