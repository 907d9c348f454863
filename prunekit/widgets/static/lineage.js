// Who came from whom: a tree of branches or a population over generations. chart.js comes before
// it; `LineageView` and `Replay` both draw with these functions.
//
// A family is what `lineage.family` makes: `kind` ("tree" or "population"), `counted`, `labels`,
// and `entries`, one a step, null where nobody was tried. In a tree all children of a level come
// from the chosen one before it; in a population a candidate comes from whose place it took.

const rounds = (family) => [...new Set(family.entries.filter(Boolean).map((entry) => entry.round))];

// The levels, or the generations of a round, each with the number of its step.
function generations(family, round) {
  const placed = family.entries.map((entry, step) => ({ ...entry, step }));
  return placed.filter((entry) => entry.values && entry.round === round);
}

// The candidate of the generation before that one comes from, or −1 if it was there already.
function parentOf(family, group, place, who) {
  if (place === 0) return -1;
  if (family.kind === "tree") return group[place - 1].chosen;
  return group[place].replaced.includes(who) ? who : -1;
}

// From the start to a candidate: [place, who] for each generation.
function ancestry(family, group, place, who) {
  const before = (at) => (family.kind === "tree" && at < place ? group[at].chosen : who);
  return group.slice(0, place + 1).map((_, at) => [at, before(at)]);
}

// Where a candidate of a population took its place.
function entered(group, place, who) {
  while (place > 0 && !group[place].replaced.includes(who)) place--;
  return place;
}

// Whether a candidate costs more than allowed.
const breaks = (entry, who) => (entry.broken ?? []).includes(who);

// Axes that hold all of a group.
function familyAxes(context, width, height, family, group, look) {
  const values = group.flatMap((entry) => entry.values).filter((value) => value !== null);
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const margin = 0.05 * (high - low || 1);
  const across = [group[0].number - 0.5, group[group.length - 1].number + 0.5];
  const up = values.length ? [low - margin, high + margin] : [0, 1];
  const scales = axes(context, width, height, across, up, family.labels, look);
  const step = (scales.box.right - scales.box.left) / (across[1] - across[0]);
  const spot = (place, who) => [scales.x(group[place].number), scales.y(group[place].values[who])];
  return { ...scales, spot, radius: Math.max(1, Math.min(3, step / 3)) };
}

// The dots, the lines between them, and who was chosen.
function drawFamily({ context, spot, radius }, family, group, look) {
  const shown = (place, who) => group[place].values[who] !== null;
  context.strokeStyle = look.faint;
  context.lineWidth = 1;
  context.beginPath();
  group.forEach((entry, place) =>
    entry.values.forEach((_, who) => {
      const from = parentOf(family, group, place, who);
      if (from < 0 || !shown(place, who) || !shown(place - 1, from)) return;
      context.moveTo(...spot(place - 1, from));
      context.lineTo(...spot(place, who));
    }),
  );
  context.stroke();
  context.fillStyle = context.strokeStyle = look.soft;
  group.forEach((entry, place) =>
    entry.values.forEach((_, who) => {
      if (shown(place, who)) dot(context, ...spot(place, who), radius, breaks(entry, who));
    }),
  );
  const chosen = group.map((entry, place) => [place, entry.chosen]).filter((one) => shown(...one));
  context.fillStyle = context.strokeStyle = `rgb(${look.kept})`;
  context.lineWidth = 2;
  if (family.kind === "tree") stroke(context, ...chosen.map((one) => spot(...one)));
  for (const [place, who] of chosen) {
    dot(context, ...spot(place, who), radius + 1.5, breaks(group[place], who));
  }
}

// The way to a candidate from the start, with a dot at it and wherever a new one came in.
function drawAncestry({ context, spot, radius }, family, group, place, who, look) {
  const way = ancestry(family, group, place, who).filter(([p, w]) => group[p].values[w] !== null);
  const told = ([p, w]) => p === 0 || p === place || parentOf(family, group, p, w) >= 0;
  context.strokeStyle = context.fillStyle = `rgb(${look.chosen})`;
  context.lineWidth = 3;
  stroke(context, ...way.map((one) => spot(...one)));
  for (const one of way.filter(told)) dot(context, ...spot(...one), radius + 1);
  context.lineWidth = 2;
  context.strokeStyle = look.text;
  dot(context, ...spot(place, who), radius + 4, true);
}

// A result in words, "61 errors" or "accuracy 0.973".
function counted(family, value) {
  if (value === null) return "no figure";
  if (family.counted !== "errors") return `${family.counted} ${value.toFixed(3)}`;
  return `${written(value)} ${value === 1 ? "error" : "errors"}`;
}

// What the steps tell of a candidate; people count from 1.
function describe(family, group, place, who) {
  const told = family.kind === "tree" ? describeChild : describeCandidate;
  return told(family, group, place, who);
}

function describeChild(family, group, place, who) {
  const [entry, before] = [group[place], group[place - 1]];
  const seed = family.seed === null ? "" : ` (seed ${family.seed})`;
  const result = counted(family, entry.values[who]);
  const parts = [`level ${entry.number}, child ${who + 1}${seed}: ${result}`];
  parts.push(entry.chosen === who ? `chosen, keeps ${written(entry.kept)} weights` : "not chosen");
  if (before) {
    const parent = counted(family, before.values[before.chosen]);
    parts.push(`came from child ${before.chosen + 1} of level ${before.number}, with ${parent}`);
  }
  return parts.join("; ");
}

function describeCandidate(family, group, place, who) {
  const entry = group[place];
  const round = entry.round === null ? "" : `round ${entry.round}, `;
  const facts = [`keeps ${written(entry.values[who])} weights`];
  if (entry.results) facts.push(counted(family, entry.results[who]));
  if (entry.vectors) {
    facts.push(`sensitivities ${entry.vectors[who].map((v) => v.toFixed(2)).join(", ")}`);
  }
  const parts = [`${round}generation ${entry.number}, candidate ${who + 1}: ${facts.join(", ")}`];
  if (breaks(entry, who)) {
    parts.push(`beyond the limit of ${counted(family, entry.allowed)}`);
  }
  if (entry.chosen === who) parts.push("the best of its generation");
  const since = entered(group, place, who);
  const here = since === place ? "" : `here since generation ${group[since].number}, `;
  if (since > 0) {
    const left = group[since - 1].values[who];
    parts.push(`${here}took the place of one that kept ${written(left)}`);
  } else parts.push("of the first generation");
  return parts.join("; ");
}

// What the dots of a group mean.
function legendOf(family, group, look) {
  const tree = family.kind === "tree";
  const lines = [
    legendLine(tree ? "a child" : "a candidate, joined to the one whose place it took", look.soft),
    legendLine(tree ? "the chosen one, joined to its children" : "the best", `rgb(${look.kept})`),
  ];
  const broken = group.some((entry) => entry.values.some((_, who) => breaks(entry, who)));
  if (broken) lines.push(legendLine("hollow: beyond the limit", look.soft, true));
  return lines;
}

// A group in a sentence, for who cannot see it.
function summary(family, group) {
  const [first, last] = [group[0], group[group.length - 1]];
  const best = (entry) => entry.values[entry.chosen];
  const many = `${group.length} × ${first.values.length}`;
  if (family.kind === "tree") {
    const ends = [first, last].map((one) => `${counted(family, best(one))} at level ${one.number}`);
    return `${many} children, levels × branches; the chosen one has ${ends.join(" and ")}`;
  }
  const ends = [first, last].map((one) => `${written(best(one))} in generation ${one.number}`);
  const round = first.round === null ? "" : `round ${first.round}: `;
  return `${round}${many} candidates, generations × places; the best keeps ${ends.join(" and ")}`;
}
