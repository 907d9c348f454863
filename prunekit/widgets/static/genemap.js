// Differential evolution of two genes on a map; chart.js comes before it. All populations and
// trials come from Python: here they are only drawn, so they can be looked at without a kernel.

const NEAR = 12; // pixels from a dot within which a click chooses it
const GROW = 500; // milliseconds that an arrow takes
const REST = 600; // and until the next one
const BAR = 78; // pixels for the colour bar
const PLAY = "Play the arrows";
const FRESH = PALETTE.orange; // what has just taken its place, orange
const LEGEND = [
  ["○", "a candidate"],
  ["●", "new in this generation"],
  ["★", "the best"],
  ["▨", "beyond the limit"],
  ["┄", "one value for both"],
];
// Of each strategy what it does, where the way to the mutant starts, and what is multiplied with F.
const WAYS = {
  rand1bin: {
    about:
      "A mutant starts at another dot, drawn at random, and goes F times the way between " +
      "two more.",
    base: "a",
    difference: "b − c",
  },
  best1bin: {
    about: "A mutant starts at the best dot and goes F times the way between two others.",
    base: "best",
    difference: "b − c",
  },
  "current-to-best1bin": {
    about:
      "A mutant starts at the dot itself and adds F times the way to the best dot and F times " +
      "the way between two others.",
    base: "x",
    difference: "best − x + b − c",
  },
  random: {
    about:
      "A mutant is drawn anywhere on the map: F and the other dots do not matter. With CR " +
      "at 1 this is random search.",
  },
};
const VIRIDIS = PALETTE.viridis.map(rgb);

function shade(share) {
  const place = Math.max(0, Math.min(1, share)) * (VIRIDIS.length - 1);
  const i = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const mixed = VIRIDIS[i].map((low, k) =>
    Math.round(low + (place - i) * (VIRIDIS[i + 1][k] - low)),
  );
  return `rgb(${mixed})`;
}

// The ends of the squares around places: halfway to the neighbours.
function edges(places) {
  const middles = places.slice(1).map((place, i) => (place + places[i]) / 2);
  const n = places.length;
  return [2 * places[0] - middles[0], ...middles, 2 * places[n - 1] - middles[n - 2]];
}

// The part of an axis, within `ends`, that these values fill, with some space around them.
function around(values, ends) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const space = Math.max(0.2 * (most - least), 0.02 * (ends[1] - ends[0]));
  return [Math.max(ends[0], least - space), Math.min(ends[1], most + space)];
}

// ------------------------------------------------------------------------------- words and arrows

// Deb's rule as it came out for a dot x and its trial, both [x, y, kept, over].
function verdict(x, trial, won, measured) {
  const digits = trial[2] !== x[2] && trial[2].toFixed(1) === x[2].toFixed(1) ? 2 : 1;
  const keeps = `trial keeps ${trial[2].toFixed(digits)} %, x keeps ${x[2].toFixed(digits)} %`;
  const by = (over) => (measured ? ` by ${over.toFixed(over < 0.1 ? 2 : 1)} points` : "");
  let limit = "both within the limit";
  if (x[3] && trial[3]) {
    limit = measured
      ? `the trial breaks the limit${by(trial[3])}, x${by(x[3])}`
      : "both break the limit";
  } else if (x[3]) limit = `x breaks the limit${by(x[3])}`;
  else if (trial[3]) limit = `the trial breaks the limit${by(trial[3])}`;
  const equal = x[2] === trial[2] && x[3] === trial[3] ? "equally good, " : "";
  return `${keeps}, ${limit}: ${equal}${won ? "the trial takes its place" : "x stays"}.`;
}

const which = (flags) =>
  flags[0] && flags[1] ? "both numbers" : flags[0] ? "the first number" : "the second number";

// How the trial of dot i is made, step by step: words, arrows [from, to, caption], named points.
function story({ run, generation, i, measured }) {
  const now = run.generations[generation];
  const x = now.dots[i],
    trial = now.trials[i],
    mutant = now.mutants[i],
    mended = now.mended[i];
  const named = { x, best: now.dots[now.best] };
  "abc".split("").forEach((name, k) => (named[name] = now.dots[now.others[i][k]]));
  const out = now.outside[i],
    crossed = now.crossed[i];
  const steps = [];
  const { base, difference } = WAYS[run.strategy];
  if (!base) {
    steps.push({ words: "A mutant is drawn anywhere on the map.", points: { mutant }, arrows: [] });
  } else {
    const pair = { b: named.b, c: named.c };
    const drawn = base === "a" ? "Three others are drawn: a, b" : "Two others are drawn: b";
    steps.push({
      words: `${drawn} and c. The way from c to b is b − c.`,
      points: base === "a" ? { a: named.a, ...pair } : pair,
      arrows: [[named.c, named.b, "b − c"]],
    });
    const itself = i === now.best;
    if (base === "x") {
      steps.push({
        words: itself
          ? "x is itself the best, so the way from x to the best, best − x, is none."
          : "The way from x to the best is best − x.",
        points: { best: named.best },
        arrows: itself ? [] : [[x, named.best, "best − x"]],
      });
    }
    const ways = base === "x" ? "both ways together" : "that way";
    const start = base === "best" ? `the best${itself ? ", which is x," : ""}` : base;
    steps.push({
      words:
        `F times ${ways}: ${run.scale.toFixed(2)} × (${difference}), from ${start} on. ` +
        "There is the mutant.",
      points: base === "best" ? { best: named.best, mutant } : { mutant },
      arrows: [[named[base], mutant, `F (${difference})`]],
    });
    if (out[0] || out[1]) {
      steps.push({
        words: `The mutant has left the map: ${which(out)} of it ${out[0] && out[1] ? "are" : "is"} drawn anew.`,
        points: { mutant: mended },
        arrows: [[mutant, mended, "drawn anew"]],
      });
    }
  }
  const whole = crossed[0] && crossed[1];
  const kept = crossed[0] ? "the second" : "the first";
  steps.push({
    words: whole
      ? "Crossover: both numbers come from the mutant, which is the trial."
      : `Crossover: ${which(crossed)} comes from the mutant, ${kept} from x. That is the trial.`,
    points: { trial },
    arrows: whole ? [] : [[mended, trial, "crossover"]],
  });
  const won = now.won.includes(i);
  steps.push({
    words: `Candidate ${i + 1}: ${verdict(x, trial, won, measured)}`,
    points: {},
    arrows: won ? [[x, trial, "takes its place"]] : [],
    lost: won ? null : trial,
  });
  return steps;
}

function summary(run, generation) {
  const { dots, best, new: fresh } = run.generations[generation];
  const [x, y, share, over] = dots[best];
  const within = dots.filter((dot) => !dot[3]).length;
  const parts = [
    `generation ${generation + 1} of ${run.generations.length}`,
    `the best keeps ${share.toFixed(1)} %${over ? " but breaks the limit" : ""}, at (${x.toFixed(2)}, ${y.toFixed(2)})`,
    `${within} of ${dots.length} within the limit`,
  ];
  if (generation) parts.push(`${fresh.length} new`);
  return parts.join("; ");
}

// ---------------------------------------------------------------------------------------- drawing

// White on black, to be seen on every colour of the map.
function outlined(context, width, act) {
  for (const [paint, wide] of [
    ["black", width + 2.4],
    ["white", width],
  ]) {
    context.strokeStyle = context.fillStyle = paint;
    context.lineWidth = wide;
    act();
  }
}

function drawSquares(context, { x, y, box }, map, [low, high]) {
  const [across, up] = [edges(map.xs).map(x).map(Math.round), edges(map.ys).map(y).map(Math.round)];
  const each = (act) => map.kept.forEach((row, r) => row.forEach((share, c) => act(r, c, share)));
  /** @type {(r: number, c: number) => [number, number, number, number]} */
  const square = (r, c) => [across[c], up[r + 1], across[c + 1] - across[c], up[r] - up[r + 1]];
  const broken = (r, c) => map.over[r][c] > 0;
  const forbidden = new Path2D();
  const border = new Path2D();
  const line = (x0, y0, x1, y1) => (border.moveTo(x0, y0), border.lineTo(x1, y1));
  each((r, c, share) => {
    context.fillStyle = shade((share - low) / (high - low || 1));
    context.fillRect(...square(r, c));
    if (broken(r, c)) forbidden.rect(...square(r, c));
    if (c && broken(r, c) !== broken(r, c - 1)) line(across[c], up[r], across[c], up[r + 1]);
    if (r && broken(r, c) !== broken(r - 1, c)) line(across[c], up[r], across[c + 1], up[r]);
  });
  context.save();
  context.clip(forbidden);
  const tall = box.bottom - box.top;
  for (const [paint, wide] of [
    ["rgba(0, 0, 0, 0.4)", 2.6],
    ["rgba(255, 255, 255, 0.85)", 1.1],
  ]) {
    context.strokeStyle = paint;
    context.lineWidth = wide;
    for (let at = box.left - tall; at < box.right; at += 9) {
      stroke(context, [at, box.bottom], [at + tall, box.top]);
    }
  }
  context.restore();
  context.strokeStyle = "white";
  context.lineWidth = 2;
  context.stroke(border);
}

function drawDiagonal(context, { x, y }, both) {
  const [across, up] = both;
  const ends = [Math.max(across[0], up[0]), Math.min(across[1], up[1])];
  if (ends[0] >= ends[1]) return;
  context.setLineDash([2, 4]);
  outlined(context, 1.2, () => stroke(context, ...ends.map((value) => [x(value), y(value)])));
  context.setLineDash([]);
}

function drawBar(context, { right, top, bottom }, [low, high], label, look) {
  const [left, tall] = [right + 12, bottom - top];
  for (let i = 0; i < tall; i++) {
    context.fillStyle = shade(1 - i / tall);
    context.fillRect(left, top + i, 14, 1.5);
  }
  context.fillStyle = look.text;
  context.textAlign = "left";
  context.textBaseline = "middle";
  for (const value of ticks(low, high)) {
    context.fillText(
      written(value),
      left + 18,
      bottom - (tall * (value - low)) / (high - low || 1),
    );
  }
  context.save();
  context.translate(left + BAR - 16, (top + bottom) / 2);
  context.rotate(-Math.PI / 2);
  context.textAlign = "center";
  context.textBaseline = "bottom";
  context.fillText(label, 0, 0);
  context.restore();
}

// A dot, or a star with five points, with a thin outline.
function drawDot(context, [x, y], fill, star = false) {
  context.beginPath();
  if (!star) context.arc(x, y, 5, 0, 2 * Math.PI);
  for (let i = 0; star && i < 10; i++) {
    const [radius, turn] = [i % 2 ? 4.2 : 10, (i * Math.PI) / 5];
    context.lineTo(x + radius * Math.sin(turn), y - radius * Math.cos(turn));
  }
  context.closePath();
  context.fillStyle = fill;
  context.strokeStyle = "black";
  context.lineWidth = 1.2;
  context.fill();
  context.stroke();
}

// The dots of a generation; those without a name stand back while others have one.
function drawDots(context, places, { dots, best, new: fresh }, named) {
  const order = dots.map((_, i) => i).sort((i, j) => Number(i === best) - Number(j === best));
  for (const i of order) {
    context.globalAlpha = named.size > 1 && ![...named.values()].includes(dots[i]) ? 0.5 : 1;
    drawDot(context, places[i], fresh.includes(i) ? FRESH : "white", i === best);
  }
  context.globalAlpha = 1;
}

function drawArrow(context, [x0, y0], [x1, y1]) {
  const long = Math.hypot(x1 - x0, y1 - y0);
  if (long < 2) return;
  const [ux, uy] = [(x1 - x0) / long, (y1 - y0) / long];
  const head = Math.min(11, long);
  const [bx, by] = [x1 - head * ux, y1 - head * uy];
  outlined(context, 2, () => {
    stroke(context, [x0, y0], [bx, by]);
    context.beginPath();
    context.moveTo(x1, y1);
    context.lineTo(bx - 0.45 * head * uy, by + 0.45 * head * ux);
    context.lineTo(bx + 0.45 * head * uy, by - 0.45 * head * ux);
    context.closePath();
    if (context.strokeStyle === "#000000") context.stroke();
    context.fill();
  });
}

// What has been told of a trial, of whose last arrow a part has grown.
function drawTrial(context, at, named, told, grown) {
  for (const name of ["mutant", "trial"]) {
    if (named.has(name)) drawDot(context, at(named.get(name)), PALETTE.teal);
  }
  told.forEach((step, k) => {
    const part = k === told.length - 1 ? grown : 1;
    for (const [from, to] of step.arrows) {
      const [start, end] = [at(from), at(to)];
      drawArrow(
        context,
        start,
        start.map((place, axis) => place + part * (end[axis] - place)),
      );
    }
    if (!step.lost) return;
    const [x, y] = at(step.lost);
    outlined(context, 2.4, () => {
      for (const side of [8, -8]) stroke(context, [x - 8, y - side], [x + 8, y + side]);
    });
  });
}

// A caption near a place, in the box, where it covers none of those that are taken.
function drawCaption(context, text, [x, y], taken, box) {
  const [wide, tall] = [context.measureText(text).width + 8, 17];
  const free = ([left, top]) =>
    left >= box.left &&
    top >= box.top &&
    left + wide <= box.right &&
    top + tall <= box.bottom &&
    !taken.some(([l, t, w, h]) => left < l + w && l < left + wide && top < t + h && t < top + tall);
  const tried = [];
  for (const far of [8, 18, 30, 44, 60, 80, 105, 135]) {
    for (const [across, up] of [
      [1, -1],
      [-1, -1],
      [1, 1],
      [-1, 1],
      [0, -1],
      [0, 1],
      [1, 0],
      [-1, 0],
    ]) {
      tried.push([
        x + across * far - ((1 - across) * wide) / 2,
        y + up * far - ((1 - up) * tall) / 2,
      ]);
    }
  }
  const [left, top] = tried.find(free) || tried[0];
  taken.push([left, top, wide, tall]);
  const nearest = [
    Math.max(left, Math.min(left + wide, x)),
    Math.max(top, Math.min(top + tall, y)),
  ];
  if (Math.hypot(nearest[0] - x, nearest[1] - y) > 16) {
    outlined(context, 1, () => stroke(context, [x, y], nearest));
  }
  context.fillStyle = "rgba(255, 255, 255, 0.93)";
  context.fillRect(left, top, wide, tall);
  context.fillStyle = "black";
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.fillText(text, left + 4, top + tall / 2 + 1);
}

// The names of the points, and the captions of the arrows halfway.
function drawCaptions(context, at, named, told, box) {
  const points = [...named].map(([name, point]) => [name, at(point)]);
  const taken = points.map(([, [x, y]]) => [x - 6, y - 6, 12, 12]);
  const middle = (from, to) => from.map((place, axis) => (place + to[axis]) / 2);
  const halfway = told
    .flatMap((step) => step.arrows)
    .map(([from, to, text]) => [text, middle(at(from), at(to))]);
  for (const [text, place] of [...points, ...halfway])
    drawCaption(context, text, place, taken, box);
}

// All of it; gives the places of the dots on the canvas.
function drawMap(canvas, look, { map, run, generation, chosen, told, grown, nearer }) {
  const [width, height] = [canvas.clientWidth || 640, canvas.clientHeight || 440];
  const context = sharp(canvas, width, height);
  const now = run.generations[generation];
  const named = new Map(chosen === null ? [] : [["x", now.dots[chosen]]]);
  for (const step of told)
    for (const [name, point] of Object.entries(step.points)) named.set(name, point);
  const ends = [edges(map.xs), edges(map.ys)].map((all) => [all[0], all[all.length - 1]]);
  const near = chosen === null ? now.dots : [...now.dots, now.mended[chosen], now.trials[chosen]];
  const seen = nearer
    ? ends.map((pair, k) =>
        around(
          near.map((point) => point[k]),
          pair,
        ),
      )
    : ends;
  const scales = axes(context, width - BAR, height, ...seen, map.labels, look, 0);
  const { x, y, box } = scales;
  const at = (point) => [x(point[0]), y(point[1])];
  const inside = (point) => [
    Math.max(box.left, Math.min(box.right, x(point[0]))),
    Math.max(box.top, Math.min(box.bottom, y(point[1]))),
  ];
  const shares = map.kept.flat();
  /** @type {[number, number]} */
  const range = [Math.min(...shares), Math.max(...shares)];
  const places = now.dots.map(at);
  drawBar(context, box, range, map.label, look);
  context.save();
  context.beginPath();
  context.rect(box.left, box.top, box.right - box.left, box.bottom - box.top);
  context.clip();
  drawSquares(context, scales, map, range);
  drawDiagonal(context, scales, ends);
  if (!told.length) {
    const before = generation && run.generations[generation - 1].dots;
    context.strokeStyle = "rgba(255, 255, 255, 0.8)";
    context.lineWidth = 1;
    for (const i of now.new) stroke(context, [at(before[i]), places[i]]);
  }
  drawDots(context, places, now, named);
  if (chosen !== null) outlined(context, 2, () => dot(context, ...places[chosen], 10, true));
  drawTrial(context, at, named, told, grown);
  context.restore();
  drawCaptions(context, inside, named, told, box);
  return places;
}

// ------------------------------------------------------------------------------------------- view

const RUN =
  "To move F and CR, or for another strategy and new dots, run the notebook from the top.";

function render({ model, el }) {
  const map = model.get("map");
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let run = model.get("run");
  let generation = 0; // in words and on the slider it counts from 1
  let chosen = null;
  let steps = []; // of the chosen dot's trial
  let drawn = 0; // how many of them are shown; the part of the last one that has grown
  let playing = false;
  let begun = null; // when the arrow that is under way began to grow
  let frame = 0;
  let places = []; // of the dots on the canvas
  let nearer = false; // whether the map shows only where the dots are
  let ended = false;

  const range = (label, attributes) => {
    const input = sliderOf(label, attributes);
    const shown = element("output");
    return { input, shown, row: element("label", {}, label, input, shown) };
  };
  const scale = range("F", { min: 0.01, max: 2, step: 0.01 });
  const crossover = range("CR", { min: 0, max: 1, step: 0.01 });
  const slider = range("generation", {
    min: 1,
    max: run.generations.length,
    class: "pk-generation",
  });
  const strategy = element("select", { "aria-label": "strategy" });
  for (const name of map.strategies) strategy.append(element("option", {}, name));
  const strategyAbout = element("div");
  const again = element("button", { type: "button" }, "New dots");
  const next = element("button", { type: "button" }, "Next arrow");
  const play = element("button", { type: "button", class: "pk-play" }, PLAY);
  const closer = element("button", { type: "button", "aria-pressed": false }, "Closer");
  const canvas = element("canvas", { class: "pk-map", role: "img" });
  const dots = element(
    "div",
    {
      class: "pk-dots",
      tabindex: 0,
      role: "application",
      "aria-label": "the dots: arrow keys choose one, Enter draws the next arrow of its trial",
    },
    canvas,
  );
  const [about, said] = [element("div"), element("div")];
  const words = element("div", { class: "pk-words", role: "status" }, about, said);
  const legend = LEGEND.map(([sign, text]) =>
    element("span", {}, element("b", {}, sign), ` ${text}`),
  );
  const root = element(
    "div",
    { class: "pk-view pk-genemap" },
    element("strong", {}, map.title),
    element("div", { class: "pk-controls" }, scale.row, crossover.row, strategy, again),
    strategyAbout,
    element("div", { class: "pk-controls" }, slider.row, next, play, closer),
    dots,
    element("div", { class: "pk-legend" }, ...legend),
    words,
  );
  keepKeys(root);
  el.append(root);

  // What stands there already would be read aloud again.
  const say = (line, text) => line.textContent === text || (line.textContent = text);

  function tell() {
    let text = "Choose a dot to see its trial.";
    if (chosen !== null) {
      const [, , share, over] = run.generations[generation].dots[chosen];
      const keeps = `keeps ${share.toFixed(1)} %${over ? " and breaks the limit" : ""}`;
      const now = `Candidate ${chosen + 1} ${keeps}: it has the values of its square.`;
      text = drawn ? steps[drawn - 1].words : now;
    }
    say(about, `${summary(run, generation)}.`);
    say(said, text);
    canvas.setAttribute(
      "aria-label",
      `map of ${map.label}; across: ${map.labels[0]}, up: ${map.labels[1]}; ${about.textContent} ${text}`,
    );
    strategyAbout.textContent = strategy.title = WAYS[strategy.value].about;
    scale.shown.value = Number(scale.input.value).toFixed(2);
    crossover.shown.value = Number(crossover.input.value).toFixed(2);
    slider.input.value = slider.shown.value = generation + 1;
    next.disabled = chosen === null || drawn >= steps.length;
    play.disabled = chosen === null;
    play.textContent = playing ? "Pause" : PLAY;
  }

  function draw(grown = 1) {
    if (ended) return;
    const told = steps.slice(0, drawn);
    places = drawMap(canvas, colours(root), { map, run, generation, chosen, told, grown, nearer });
    tell();
    root.dataset.shown = `${run.scale} ${run.crossover} ${run.strategy} ${run.seed} ${generation}`;
    root.dataset.drawn = drawn;
    root.dataset.frames = Number(root.dataset.frames || 0) + 1;
  }

  // ------------------------------------------------------------------------------------- a trial

  function choose(i) {
    halt();
    chosen = i;
    drawn = 0;
    retold();
    draw();
  }

  function retold() {
    steps = chosen === null ? [] : story({ run, generation, i: chosen, measured: map.measured });
    drawn = Math.min(drawn, steps.length);
  }

  function halt() {
    playing = false;
    begun = null;
    cancelAnimationFrame(frame);
  }

  function arrow() {
    if (chosen === null || drawn >= steps.length) return;
    drawn++;
    if (still.matches) return draw();
    begun = performance.now();
    draw(0);
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(grow);
  }

  function grow(time) {
    const gone = Math.max(0, time - begun);
    const more = playing && drawn < steps.length;
    if (gone < GROW + REST || !more) draw(Math.min(1, gone / GROW));
    if (gone < (more ? GROW + REST : GROW)) frame = requestAnimationFrame(grow);
    else if (more) arrow();
    else {
      halt();
      tell();
    }
  }

  function tellAll() {
    if (drawn >= steps.length) drawn = 0;
    if (still.matches) {
      drawn = steps.length;
      return draw();
    }
    playing = true;
    arrow();
  }

  // ---------------------------------------------------------------------------------- the controls

  function go(to) {
    halt();
    generation = Math.max(0, Math.min(run.generations.length - 1, to));
    retold();
    draw();
  }

  function ask(name, value) {
    model.set(name, value);
    model.save_changes();
    tell();
  }

  function renewed() {
    run = model.get("run");
    slider.input.max = run.generations.length;
    go(generation);
  }

  scale.input.oninput = () => ask("scale", Number(scale.input.value));
  crossover.input.oninput = () => ask("crossover", Number(crossover.input.value));
  strategy.onchange = () => ask("strategy", strategy.value);
  again.onclick = () => ask("seed", model.get("seed") + 1);
  slider.input.oninput = () => go(Number(slider.input.value) - 1);
  slider.input.onchange = () => {
    model.set("generation", generation);
    model.save_changes();
  };
  next.onclick = () => {
    playing = false;
    arrow();
  };
  play.onclick = () => {
    if (!playing) return tellAll();
    playing = false;
    tell();
  };
  closer.onclick = () => {
    nearer = !nearer;
    closer.setAttribute("aria-pressed", nearer);
    draw();
  };
  canvas.onclick = (event) => {
    const bounds = canvas.getBoundingClientRect();
    const away = ([x, y]) =>
      Math.hypot(x - event.clientX + bounds.left, y - event.clientY + bounds.top);
    const hit = places
      .map((place, i) => i)
      .filter((i) => away(places[i]) < NEAR)
      .sort((i, j) => away(places[i]) - away(places[j]));
    if (!hit.length) return choose(null);
    choose(hit[(hit.indexOf(chosen) + 1) % hit.length]); // of several on one spot, one after another
    tellAll();
  };
  dots.onkeydown = (event) => {
    const turn = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const n = places.length;
    if (turn) choose(chosen === null ? (turn > 0 ? 0 : n - 1) : (chosen + turn + n) % n);
    else if (event.key === "Enter") next.onclick();
    else if (event.key === "Escape") choose(null);
    else return;
    event.preventDefault();
  };

  const follow = () => {
    scale.input.value = model.get("scale");
    crossover.input.value = model.get("crossover");
    strategy.value = model.get("strategy");
    tell();
  };
  const moved = () => model.get("generation") !== generation && go(model.get("generation"));
  if (model.alone) {
    for (const control of [scale.input, crossover.input, strategy, again]) control.disabled = true;
    root.append(element("div", { class: "pk-words" }, RUN));
  }
  const listened = [
    ["change:run", renewed],
    ["change:generation", moved],
    ["change:scale", follow],
    ["change:crossover", follow],
    ["change:strategy", follow],
  ];
  for (const [name, act] of listened) model.on(name, act);
  follow();
  go(model.get("generation") || 0);
  const end = redrawn(canvas, () => begun === null && draw());
  return () => {
    ended = true;
    halt();
    end();
    for (const [name, act] of listened) model.off(name, act);
  };
}

export default { render };
