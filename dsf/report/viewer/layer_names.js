// Short names of layers for the margin of the overview: what tells them apart, a number where it is one.

/** For every layer {number, rest}, without what all names begin and end with. */
function shortNames(names) {
  const parts = names.map((name) => name.split("."));
  const least = Math.min(...parts.map((each) => each.length));
  const alike = (at) => parts.every((each) => each.at(at) === parts[0].at(at));
  let begin = 0, end = 0;
  while (begin < least - 1 && alike(begin)) begin += 1;
  while (end < least - 1 - begin && alike(-1 - end)) end += 1;
  return parts.map((each) => {
    const [number, ...rest] = each.slice(begin, each.length - end);
    return /^\d+$/.test(number) ? { number, rest: rest.join(".") } : { number: "", rest: [number, ...rest].join(".") };
  });
}

/** Whether the names are short enough to stand beside the thumbnails. */
function fitBeside(names) {
  return names.every(({ number, rest }) => number && rest.length <= 16);
}
