// Replays a recorded run; chart.js and lineage.js come before it. It asks `model` for its traits and
// nothing else, so that a page without a kernel can give it a plain object instead.

const RATES = [1, 4, 10, 30, 60]; // steps a second
const PHASES = { train: "training, epoch", "fine-tune": "fine-tuning, epoch", prune: "cut" };

// For each layer which history each weight has, the changes up to each step, and the histories as
// rows of bits, one a change.
function masksOf(layers, bytes, count) {
  let offset = 0;
  const next = (length) => {
    if (offset + length > bytes.length) throw new Error(`only ${bytes.length} bytes of masks`);
    return bytes.slice(offset, (offset += length));
  };
  return layers.map((layer) => {
    const wide = Math.ceil(layer.changes.length / 8);
    const rows = next(layer.histories * wide);
    const size = layer.histories && layer.rows * layer.columns;
    const numbers = next(Math.ceil((size * layer.width) / 8));
    const histories = new Uint32Array(size);
    for (let i = 0, bit = 0; i < size; i++) {
      for (let n = 0; n < layer.width; n++) histories[i] = 2 * histories[i] + kept(numbers, bit++);
    }
    const at = new Array(count).fill(-1); // −1: everything is kept
    layer.changes.forEach((step, i) => at.fill(i, step));
    return { ...layer, wide, bits: rows, of: histories, at };
  });
}

// Whether a weight is kept at a step, as a function of its place in the layer.
function keptAt({ histories, wide, bits, of, at }, frame) {
  const change = at[frame];
  if (change < 0) return () => true;
  const rows = Array.from({ length: histories }, (_, row) => kept(bits, 8 * wide * row + change));
  return (i) => rows[of[i]];
}

function drawMask(canvas, layer, frame, look) {
  const isKept = keptAt(layer, frame);
  const on = pixel(look.kept);
  let n = 0;
  bitmap(canvas, layer.columns, layer.rows, (i) => (isKept(i) ? (n++, on) : 0));
  return n;
}

// How many connections of each pixel of a square picture are left, where the first layer sees one.
function drawPixels(canvas, layer, first, frame, look) {
  const side = Math.sqrt(layer.columns);
  const none = layer !== first || !Number.isInteger(side) || side < 8;
  canvas.parentElement.hidden = none;
  if (none) return;
  const isKept = keptAt(layer, frame);
  const left = new Float64Array(layer.columns);
  for (let r = 0, i = 0; r < layer.rows; r++) {
    for (let c = 0; c < layer.columns; c++, i++) if (isKept(i)) left[c]++;
  }
  const most = Math.max(1, ...left);
  bitmap(canvas, side, side, (c) => pixel(look.kept, left[c] / most));
}

function drawCurve(canvas, run, frame, look) {
  const values = run.value.filter((v) => v !== null);
  const low = Math.min(...values, run.dense ?? Infinity);
  const high = Math.max(...values, run.dense ?? -Infinity);
  const margin = 0.05 * (high - low || 0.1);
  const { context, x, y, box } = chart(
    canvas,
    [1, run.value.length],
    [low - margin, high + margin],
    ["step", run.metric],
    look,
  );
  if (run.dense !== null) {
    context.strokeStyle = look.text;
    context.setLineDash([5, 4]);
    stroke(context, [box.left, y(run.dense)], [box.right, y(run.dense)]);
    context.setLineDash([]);
  }
  context.strokeStyle = `rgb(${look.kept})`;
  context.lineWidth = 1.5;
  const known = run.value
    .slice(0, frame + 1)
    .map((v, i) => [i + 1, v])
    .filter(([, v]) => v !== null);
  stroke(context, ...known.map(([step, v]) => [x(step), y(v)]));
  context.fillStyle = look.text;
  if (run.value[frame] !== null) dot(context, x(frame + 1), y(run.value[frame]), 4);
}

// Who was tried, and who went on, up to the last step before the frame that tells it, if there is
// one; gives the legend of that, and says in a sentence what there is to see.
function drawLineage(canvas, family, frame, look) {
  let from = frame;
  while (from >= 0 && family.entries[from] === null) from--;
  canvas.parentElement.hidden = from < 0;
  if (from < 0) return { legend: [], seen: "" };
  const group = generations(family, family.entries[from].round);
  const [width, height] = [canvas.clientWidth || 420, canvas.clientHeight || 200];
  const scales = familyAxes(sharp(canvas, width, height), width, height, family, group, look);
  const past = group.filter((entry) => entry.step <= frame);
  drawFamily(scales, family, past, look);
  return { legend: legendOf(family, group, look), seen: summary(family, past) };
}

// What a step did, and what it left. A step of a search leaves the network as it was: its figures
// are those of the best candidate.
function stepInWords(run, frame) {
  const { kind, entries } = run.lineage;
  const [entry, phase, index] = [entries[frame], run.phase[frame], run.index[frame]];
  const sparsity = `sparsity ${run.sparsity[frame].toFixed(3)}`;
  const value = run.value[frame] === null ? [] : [`${run.metric} ${run.value[frame].toFixed(3)}`];
  const nth = `${index} of ${run.of[frame]}`;
  if (entry && kind === "population") {
    const round = entry.round === null ? "" : `round ${entry.round}, `;
    const total = run.layers.reduce((sum, layer) => sum + layer.rows * layer.columns, 0);
    const best = entry.values[entry.chosen];
    const share = total ? ` (${((100 * best) / total).toFixed(1)} %)` : "";
    const keeps = `${written(best)}${total ? ` of ${written(total)}` : ""} weights${share}`;
    return (
      `${round}search, generation ${nth}: ${entry.values.length} tried, the best would keep ` +
      `${[keeps, ...value].join(" with ")}; the network itself still has ${sparsity}`
    );
  }
  let what = `${PHASES[phase] ?? phase} ${nth}`;
  if (kind === "population" && phase === "rewind") {
    what = `round ${index} taken back: the network is as before the cut`;
  } else if (entry) {
    const result = counted(run.lineage, entry.values[entry.chosen]);
    what += `: ${entry.values.length} children tried, the chosen one has ${result}`;
  }
  return `${what}; ${[sparsity, ...value].join(", ")}`;
}

function render({ model, el }) {
  const run = model.get("run");
  const count = run.phase.length;
  let layers = [];
  let frame = Math.max(0, Math.min(model.get("frame") || 0, count - 1));
  let [playing, last, ended, damaged] = [false, 0, false, ""];

  const play = element("button", { type: "button", class: "pk-play" }, "Play");
  const back = element("button", { type: "button", "aria-label": "one step back" }, "‹");
  const on = element("button", { type: "button", "aria-label": "one step on" }, "›");
  const slider = sliderOf("step of the run", { min: 0, max: Math.max(count - 1, 0), step: 1 });
  const speed = element("select", { "aria-label": "speed" });
  for (const rate of RATES) speed.append(element("option", { value: rate }, `${rate} steps/s`));
  speed.value = 4;
  const which = element("select", { "aria-label": "layer" });
  const words = element("div", { class: "pk-words", role: "status" });
  const mask = element("canvas", { class: "pk-mask", role: "img" });
  const pixels = element("canvas", { class: "pk-pixels", role: "img" });
  const curve = element("canvas", { class: "pk-chart", role: "img" });
  const lineage = element("canvas", { class: "pk-chart", role: "img" });
  const dashed = run.dense === null ? "" : "dashed: before pruning";
  const legend = element("div", { class: "pk-legend" });
  const caption = (text) => element("figcaption", {}, text);
  const root = element(
    "div",
    { class: "pk-view pk-replay" },
    element("strong", {}, run.title),
    element("div", { class: "pk-controls" }, play, back, on, slider, speed),
    words,
    element(
      "div",
      { class: "pk-charts" },
      element("figure", {}, curve, element("div", { class: "pk-legend" }, dashed)),
      element("figure", {}, lineage, legend),
    ),
    element("label", {}, "layer ", which),
    element(
      "div",
      { class: "pk-masks" },
      element("figure", {}, mask, caption("the mask of the layer: a row an output; blue is kept")),
      element("figure", {}, pixels, caption("connections left of each pixel: the bluer, the more")),
    ),
  );
  keepKeys(root);
  el.append(root);

  function draw() {
    if (ended || !count) return;
    const look = colours(root);
    slider.value = frame;
    drawCurve(curve, run, frame, look);
    const family = drawLineage(lineage, run.lineage, frame, look);
    legend.replaceChildren(...family.legend);
    words.textContent = `step ${frame + 1} of ${count}: ${stepInWords(run, frame)}${damaged}`;
    curve.setAttribute("aria-label", `${run.metric} after each step; ${words.textContent}`);
    lineage.setAttribute("aria-label", family.seen);
    const layer = layers[which.selectedIndex];
    if (layer) {
      const n = drawMask(mask, layer, frame, look);
      const size = layer.rows * layer.columns;
      const text = `${layer.name}: ${n} of ${size} weights kept; a row an output`;
      mask.setAttribute("aria-label", text);
      mask.title = text;
      drawPixels(pixels, layer, layers[0], frame, look);
      pixels.setAttribute("aria-label", "connections left of each pixel of the image");
    }
    root.dataset.frames = Number(root.dataset.frames || 0) + 1;
  }

  function go(to) {
    frame = Math.max(0, Math.min(count - 1, to));
    draw();
  }

  function tell() {
    model.set("frame", frame);
    model.save_changes();
  }

  function halt() {
    playing = false;
    play.textContent = "Play";
    words.setAttribute("aria-live", "polite");
    tell();
  }

  function turn(now) {
    if (!playing || ended) return;
    const due = Math.floor(((now - last) / 1000) * speed.value);
    if (due > 0) {
      last += (1000 * due) / speed.value;
      go(frame + due);
    }
    frame >= count - 1 ? halt() : requestAnimationFrame(turn);
  }

  play.onclick = () => {
    if (playing) return halt();
    if (frame >= count - 1) go(0);
    playing = true;
    play.textContent = "Pause";
    words.setAttribute("aria-live", "off"); // thirty times a second is too much to hear
    last = performance.now();
    requestAnimationFrame(turn);
  };
  back.onclick = () => (go(frame - 1), tell());
  on.onclick = () => (go(frame + 1), tell());
  slider.oninput = () => go(Number(slider.value));
  slider.onchange = tell;
  which.onchange = draw;
  const moved = () => model.get("frame") !== frame && !playing && go(model.get("frame"));
  model.on("change:frame", moved);
  const end = redrawn(root, draw);

  try {
    layers = masksOf(run.layers, bytesOf(model.get("masks")), count);
    for (const layer of layers) which.append(element("option", {}, layer.name));
    const cut = layers.findIndex(({ columns, changes }) => columns > 1 && changes.length);
    which.selectedIndex = Math.max(0, cut);
  } catch {
    damaged = ". The masks of this run are damaged and cannot be shown.";
  }
  draw();
  return () => {
    ended = true;
    end();
    model.off("change:frame", moved);
  };
}

export default { render };
