// What was decided about a map: word, sign and shape, never colour alone.

const SIGNS = { PROVED: ["✓", "good"], REFUTED: ["✗", "bad"], UNKNOWN: ["?", ""] };

function drawVerdicts(verdicts) {
  if (!verdicts.length) return [];
  const items = verdicts.map((each) => {
    const [sign, tone] = SIGNS[each.verdict] || ["·", ""];
    const chip = make("span", { className: `chip ${tone}` }, `${sign} ${each.verdict}`);
    const told = [`Claim: ${each.claim}. Level: ${each.level}.`];
    if (each.observed !== null) told.push(`Observed: ${number(each.observed, 4)}.`);
    if (each.limits) told.push(`Limits: ${each.limits}.`);
    return make("details", { className: "verdict" },
      make("summary", {}, make("span", {}, each.property.replaceAll("_", " ")), chip),
      make("p", {}, told.join(" ")));
  });
  return [make("section", {}, make("h3", {}, "Properties"), ...items)];
}
