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
