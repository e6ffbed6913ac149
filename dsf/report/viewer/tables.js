// The numbers next to a map.

// The verdicts about a map, each with a word and a sign, so that colour is not needed.

// REFUTED is a fact about the layer and no failure, so it has no warning colour.
const SIGNS = {
  PROVED: ["✓", "good"], REFUTED: ["≠", ""], UNKNOWN: ["?", ""], "NOT APPLICABLE": ["–", ""],
};

function drawVerdicts(verdicts) {
  if (!verdicts.length) return [];
  const items = verdicts.map((each) => {
    const [sign, tone] = SIGNS[each.verdict] || ["·", ""];
    const chip = make("span", { className: `chip ${tone}` }, `${sign} ${each.verdict}`);
    const facts = [`${each.scope ? each.scope + ": " : ""}${each.claim}. Level: ${each.level}.`];
    if (each.meaning) facts.push(each.meaning);
    if (each.observed !== null) facts.push(`Observed: ${number(each.observed, 4)}.`);
    if (each.limits) facts.push(`Limits: ${each.limits}.`);
    return make("details", { className: "verdict" },
      make("summary", {}, make("span", {}, each.property.replaceAll("_", " ")), chip),
      make("p", {}, facts.join(" ")));
  });
  return [make("section", {}, make("h3", {}, "Properties"), ...items)];
}

// Tables next to a map: its largest weights, exact; the keys with the largest sums; its measures.

/** Verdicts and tables of the active pane, with one column of measures for each shown pane. */
function drawNumbers(place, panes, active) {
  const { entry, written, read, picture } = active;
  const letters = panes.length > 1 ? ["A", "B"] : ["value"];
  const { together, share } = entry.map;
  const key = (token) => (together ? read.many(picture.readBy(picture.columnOf(token))) : read.named(token));
  const [most, sums, what] = together
    ? ["Largest contributions", "Keys that contribute most, over all queries", "length"]
    : share ? ["Edges with the largest shares", "Keys whose edges contribute most, over all queries", "share"]
      : ["Largest weights", "Keys with the largest column sums", "weight"];
  const links = table(most, ["query", "key", what], entry.map.links.map(
    ([row, column, weight]) => {
      const go = link(number(weight, 6), `Show ${weight}`, () => {
        active.fixed = true;
        active.choose([active.picture.rowOf(row), active.picture.columnOf(column)]);
      });
      return [written.named(row), key(column), go];
    }));
  const columns = table(sums, ["key", "sum"], entry.map.columns.map(
    ([column, sum]) => [key(column), number(sum, 6)]));
  const save = make("a", { href: asCsv(entry.map, written, read), download: "strongest-links.csv" },
    "Save these weights as CSV");
  place.replaceChildren(...drawVerdicts(entry.map.verdicts), ...measured(panes, letters),
    make("section", {}, links, save), make("section", {}, columns), ...erased(active));
}

/** What the last query no longer reads, and the token that erased it; a link shows that cell. */
function erased(pane) {
  const { entry: { map }, written, read, picture } = pane;
  const found = map.state && map.state.erased;
  if (!found || !found.length) return [];
  const rows = found.map(([key, token, decay, overwriting]) => {
    const go = link(read.named(key), "Show the weight of the last query on this key", () => {
      pane.fixed = true;
      pane.choose([picture.rows - 1, picture.columnOf(key)]);
    });
    return [go, written.named(token), number(decay, 4), number(overwriting, 4)];
  });
  return [make("section", {}, table("Erased before the last query: change of its weight on a key",
    ["key", "by token", "decay", "overwriting"], rows, 2))];
}

function measured(panes, letters) {
  const found = panes.map((pane) => new Map(pane.entry.map.measures));
  const labels = [...new Set(found.flatMap((each) => [...each.keys()]))];
  const missing = panes.flatMap(({ entry: { map } }, k) => {
    const { disorder } = panes[k].picture;
    const reason = !map.measures.length ? whyUnmeasured(map) : disorder ? `Distances are not measured, since ${disorder}.` : map.unmeasured;
    return reason ? [make("p", {}, panes.length > 1 ? `${letters[k]}: ${reason}` : reason)] : [];
  });
  if (!labels.length) return [make("section", {}, make("h3", {}, "Measures"), ...missing)];
  const written = (value) => (value === null ? "not defined" : number(value, 4));
  const rows = labels.map((quantity) => [quantity,
    ...found.map((each) => (each.has(quantity) ? written(each.get(quantity)) : "–"))]);
  return [make("section", {}, table("Measures", ["quantity", ...letters], rows, 1), ...missing)];
}

/** Why nothing is measured of a map. */
function whyUnmeasured({ unmeasured, together, share, difference }) {
  if (together) return "Measures are of single channels: choose one of them.";
  if (share) return "What edges contribute is not measured: choose a single map.";
  return difference ? "A difference of two maps is not measured." : unmeasured;
}

/** A table whose columns from `numbers` on hold numbers. */
function table(caption, heads, rows, numbers = heads.length - 1) {
  const cell = (kind, content, k) =>
    make(kind, { className: k >= numbers ? "number" : "" }, content);
  const head = make("tr", {}, ...heads.map((text, k) => cell("th", text, k)));
  const body = rows.map((row) => make("tr", {}, ...row.map((part, k) => cell("td", part, k))));
  return make("table", {}, make("caption", {}, caption), make("thead", {}, head),
    make("tbody", {}, ...body));
}

/** The largest weights as CSV; token texts are quoted, so that none is run as a formula. */
function asCsv(map, written, read) {
  const quoted = (text) => `"${(/^[=+\-@]/.test(text) ? "'" : "") + text.replaceAll('"', '""')}"`;
  const lines = map.links.map(([row, column, weight]) =>
    [row, quoted(written.text(row)), column, quoted(read.text(column)), weight].join(","));
  const text = ["written,written_token,read,read_token,weight", ...lines].join("\r\n");
  return `data:text/csv;charset=utf-8,${encodeURIComponent(text)}`;
}
