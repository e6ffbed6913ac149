// The same mixer as a program: it makes the map, the states and the responses that the page shows.

const list = (values) => (Array.isArray(values) ? `[${values.map(list).join(", ")}]` : String(values));
const tensor = (name, rows) => `${name} = torch.tensor(\n    ${list(rows)},\n    dtype=torch.float64,\n)`;
const scaledName = (factor, name) => (factor === 1 ? name : `${factor} * ${name}`);
const full = (value) => `torch.full_like(query[:, 0], ${value})`;
const complex = (re, im, brackets = 1) => `torch.tensor(${"[".repeat(brackets)}complex(${re}, ${im})`
  + `${"]".repeat(brackets)}, dtype=torch.complex128)`;

const CALLS = {
  system: ({ A, B, C, D }) => [["one = torch.ones_like(value)"], "System.from_write_and_read",
    [`dsf.systems.transition.Diagonal(${A} * one)`, `write=${B} * one`, `read=${C} * one`, `feedthrough=${D} * one[:, 0]`]],
  softmax_attention: (s) => [[], "mixers.SoftmaxAttention", [...attending(s), "scale=1.0"]],
  linear_attention: (s) => [[], "mixers.LinearAttention", attending(s)],
  taylor: (s) => [[], "mixers.SoftmaxAttention", [...attending(s), "scale=1.0"], `.expansion(order=${s.order})`],
  in_line_attention: (s) => [[], "mixers.InLineAttention", attending(s)],
  zero_sum_attention: (s) => [[], "mixers.ZeroSumAttention", [...attending(s),
    `logit=(${scaledName(s.B, "key")}).sum(dim=-1)`, `first_order=${full(0.5 * s.C)}`,
    `higher_order=${full(s.C)}`]],
  retention: (s) => [[], "mixers.Retention", [...attending(s), `decay=torch.tensor(${s.decay}, dtype=torch.float64)`]],
  gated_linear_attention: (s) => [[], "mixers.GatedLinearAttention", [...attending(s),
    `log_decay=math.log(${s.decay}) * gate`]],
  diagonal_state_space: (s) => [[], "mixers.DiagonalStateSpace", ["value=value", `pole=${complex(-s.A, 2)}`,
    `write=${complex(s.B, 0)}`, `read=${complex(s.C, 0)}`, `step=${number64(s.step)}`,
    `feedthrough=${number64(s.D)}`]],
  lru: (s) => [[], "mixers.LRU", ["value=value", `log_radius=torch.log(-torch.log(${number64(`[${s.decay}]`)}))`,
    `log_phase=torch.log(${number64(`[${s.A}]`)})`, `write=${complex(s.B, 0, 2)}`,
    `read=${complex(s.C, 0, 2)}`, `feedthrough=${number64(`[${s.D}]`)}`]],
  selective_state_space: (s) => [[], "mixers.SelectiveStateSpace", ["value=value", `step=${s.step} * gate[:, :1]`,
    `pole=-${s.A} * ${number64("[[1, 2]]")}`, `write=${scaledName(s.B, "key")}`,
    `read=${scaledName(s.C, "query")}`, `feedthrough=${number64(`[${s.D}]`)}`]],
  delta_net: (s) => [[], "mixers.DeltaNet", [...attending(s), `rate=${full(s.rate)}`]],
  gated_delta_net: (s) => [[], "mixers.GatedDeltaNet", [...attending(s), `rate=${full(s.rate)}`,
    `log_decay=math.log(${s.decay}) * gate[:, 0]`]],
};

function attending({ B, C }) {
  return [`query=${scaledName(C, "query")}`, `key=${scaledName(B, "key")}`, "value=value"];
}

function number64(text) {
  return `torch.tensor(${text}, dtype=torch.float64)`;
}

/** A program that ends with `map`, `states` and `response`. */
function pythonOf(name, tokens, settings, signal) {
  const [before, call, parts, after = ""] = CALLS[name](settings);
  const body = `dsf.${call}(\n${parts.map((part) => `    ${part},`).join("\n")}\n)${after}`;
  const mixer = call.startsWith("mixers.");
  const used = ["query", "key", "gate"].filter((each) => new RegExp(`\\b${each}\\b(?!=)`).test(body));
  return [
    ...(body.includes("math.") ? ["import math", ""] : []), "import torch", "", "import dsf", "",
    ...used.map((each) => tensor(each, tokens[each])), tensor("value", signal.map((each) => [each])), "",
    ...before, mixer ? `mixer = ${body}` : `system = ${body}`,
    mixer ? "system, signal = mixer.system(), mixer.signal()" : "signal = value.unsqueeze(-2)",
    "map = dsf.attention_map(system)", "states = system.states(signal)", "response = dsf.respond(system, signal)", "",
  ].join("\n");
}
