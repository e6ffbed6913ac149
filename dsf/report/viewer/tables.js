// The strongest links as numbers, exact, and the tokens that are read most.

function drawTables(place, map, layer, tokensOf, choose) {
  const written = tokensOf(layer.written), read = tokensOf(layer.read);
  const links = table("Strongest links", ["written", "reads", "weight"], map.links.map(
    ([row, column, weight]) => {
      const go = make("button", { type: "button", className: "link" }, number(weight, 6));
      go.addEventListener("click", () => choose(row, column));
      return [written.named(row), read.named(column), go];
    }));
  const columns = table("Read most (column sums)", ["token", "sum"], map.columns.map(
    ([column, sum]) => [read.named(column), number(sum, 6)]));
  const numbers = table("Measures", ["quantity", "value"], map.measures.map(
    ([words, value]) => [words, number(value, 4)]));
  const side = make("div", { className: "side" }, ...(map.measures.length ? [numbers] : []), columns);
  const save = make("a", { href: asCsv(map, written, read), download: "strongest-links.csv" },
    "Save the links as CSV");
  place.replaceChildren(make("div", { className: "pair" }, links, side), make("p", {}, save));
}

function table(caption, heads, rows) {
  const last = heads.length - 1;
  const cell = (kind, content, k) =>
    make(kind, { className: k === last ? "number" : "" }, content);
  const head = make("tr", {}, ...heads.map((text, k) => cell("th", text, k)));
  const body = rows.map((row) => make("tr", {}, ...row.map((part, k) => cell("td", part, k))));
  return make("table", {}, make("caption", {}, caption), make("thead", {}, head),
    make("tbody", {}, ...body));
}

/** A spreadsheet must not take the text of a token for a formula. */
function asCsv(map, written, read) {
  const quoted = (text) => `"${(/^[=+\-@]/.test(text) ? "'" : "") + text.replaceAll('"', '""')}"`;
  const lines = map.links.map(([row, column, weight]) =>
    [row, quoted(written.text(row)), column, quoted(read.text(column)), weight].join(","));
  const text = ["written,written_token,read,read_token,weight", ...lines].join("\r\n");
  return `data:text/csv;charset=utf-8,${encodeURIComponent(text)}`;
}
