// Replays a recorded run. It asks `model` for its traits and nothing else, so that a page without
// a kernel can give it a plain object instead.

const RATES = [1, 4, 10, 30]; // steps a second

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

async function unpacked(view) {
  const bytes = view instanceof DataView ? new Uint8Array(view.buffer, view.byteOffset, view.byteLength) : view;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// For each layer the mask at every step: an index into its distinct masks, and those as bits.
function masksOf(layers, bytes, count) {
  const sizes = layers.map((layer) => Math.ceil((layer.rows * layer.columns) / 8));
  const whole = layers.reduce((sum, layer, i) => sum + layer.changes.length * sizes[i], 0);
  if (bytes.length !== whole) throw new Error(`${bytes.length} bytes of masks, not ${whole}`);
  let offset = 0;
  return layers.map((layer) => {
    const size = layer.rows * layer.columns;
    const length = Math.ceil(size / 8);
    const distinct = layer.changes.map(() => {
      const bits = bytes.subarray(offset, offset + length);
      offset += length;
      return bits;
    });
    const at = new Array(count).fill(-1); // −1: everything is kept
    layer.changes.forEach((step, i) => at.fill(i, step));
    return { ...layer, distinct, at };
  });
}

const kept = (bits, i) => !bits || (bits[i >> 3] >> (7 - (i & 7))) & 1;

// Colours that can be read on the page's background, light or dark.
function colours(el) {
  const text = getComputedStyle(el).color || "rgb(0, 0, 0)"; // before it is part of the page
  const [r, g, b] = text.match(/[\d.]+/g).map(Number);
  const dark = 0.3 * r + 0.6 * g + 0.1 * b > 128;
  return { text, faint: `rgba(${r}, ${g}, ${b}, 0.25)`, kept: dark ? [86, 180, 233] : [1, 115, 178] };
}

function drawMask(canvas, layer, frame, look) {
  const { rows, columns } = layer;
  if (canvas.width !== columns || canvas.height !== rows) {
    canvas.width = columns;
    canvas.height = rows;
  }
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  const [red, green, blue] = look.kept;
  const on = 0xff000000 | (blue << 16) | (green << 8) | red;
  const bits = layer.at[frame] < 0 ? null : layer.distinct[layer.at[frame]];
  let n = 0;
  for (let i = 0; i < pixels.length; i++) {
    if (kept(bits, i)) {
      pixels[i] = on;
      n++;
    }
  }
  context.putImageData(image, 0, 0);
  return n;
}

// How many connections of each pixel of a square picture are left, where the first layer sees one.
function drawPixels(canvas, layer, first, frame, look) {
  const side = Math.sqrt(layer.columns);
  canvas.hidden = layer !== first || !Number.isInteger(side) || side < 8;
  if (canvas.hidden) return;
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  const image = context.createImageData(side, side);
  const bits = layer.at[frame] < 0 ? null : layer.distinct[layer.at[frame]];
  const left = new Float64Array(layer.columns);
  for (let r = 0, i = 0; r < layer.rows; r++) {
    for (let c = 0; c < layer.columns; c++, i++) if (kept(bits, i)) left[c]++;
  }
  const most = Math.max(1, ...left);
  for (let c = 0; c < layer.columns; c++) {
    image.data.set([...look.kept, Math.round((255 * left[c]) / most)], 4 * c);
  }
  context.putImageData(image, 0, 0);
}

// Round numbers between two ends.
function ticks(low, high) {
  const rough = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((n) => n * power >= rough) * power;
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(Number((i * step).toPrecision(6)));
  return found;
}

// A canvas as sharp as the screen, and its scales from data to places.
function chart(canvas, xs, ys, labels, look) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth || 420;
  const height = canvas.clientHeight || 200;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const box = { left: 52, right: width - 10, top: 8, bottom: height - 32 };
  const x = (v) => box.left + ((v - xs[0]) / (xs[1] - xs[0] || 1)) * (box.right - box.left);
  const y = (v) => box.bottom - ((v - ys[0]) / (ys[1] - ys[0] || 1)) * (box.bottom - box.top);
  context.font = "12px sans-serif";
  context.lineWidth = 1;
  for (const value of ticks(...ys)) {
    context.strokeStyle = look.faint;
    context.beginPath();
    context.moveTo(box.left, y(value));
    context.lineTo(box.right, y(value));
    context.stroke();
    context.fillStyle = look.text;
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.fillText(value.toLocaleString("en"), box.left - 5, y(value));
  }
  context.textAlign = "center";
  context.textBaseline = "bottom";
  context.fillText(labels[0], (box.left + box.right) / 2, height - 2);
  context.textBaseline = "top";
  context.fillText(xs[0], box.left, box.bottom + 3);
  context.fillText(xs[1], box.right - 8, box.bottom + 3);
  context.save();
  context.translate(11, (box.top + box.bottom) / 2);
  context.rotate(-Math.PI / 2);
  context.fillText(labels[1], 0, -6);
  context.restore();
  return { context, x, y, box };
}

function dot(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

function drawCurve(canvas, run, frame, look) {
  const values = run.value.filter((v) => v !== null);
  const low = Math.min(...values, run.dense ?? Infinity);
  const high = Math.max(...values, run.dense ?? -Infinity);
  const margin = 0.05 * (high - low || 0.1);
  const { context, x, y, box } = chart(
    canvas, [1, run.value.length], [low - margin, high + margin], ["step", run.metric], look,
  );
  if (run.dense !== null) {
    context.strokeStyle = look.text;
    context.setLineDash([5, 4]);
    context.beginPath();
    context.moveTo(box.left, y(run.dense));
    context.lineTo(box.right, y(run.dense));
    context.stroke();
    context.setLineDash([]);
  }
  context.strokeStyle = `rgb(${look.kept})`;
  context.lineWidth = 1.5;
  context.beginPath();
  let begun = false;
  run.value.forEach((v, i) => {
    if (v === null || i > frame) return;
    begun ? context.lineTo(x(i + 1), y(v)) : context.moveTo(x(i + 1), y(v));
    begun = true;
  });
  context.stroke();
  context.fillStyle = look.text;
  if (run.value[frame] !== null) dot(context, x(frame + 1), y(run.value[frame]), 4);
}

// Who was tried, and who went on: the children of each level, or the population of each generation.
function drawLineage(canvas, run, frame, look) {
  const shown = run.lineage.slice(0, frame + 1);
  let from = shown.length - 1;
  while (from >= 0 && run.lineage[from] === null) from--;
  canvas.hidden = from < 0;
  if (from < 0) return "";
  const round = run.lineage[from].round;
  const group = run.lineage
    .map((entry, i) => ({ entry, i }))
    .filter(({ entry, i }) => entry !== null && entry.round === round);
  const all = group.flatMap(({ entry }) => entry.values);
  const ends = [Math.min(...all), Math.max(...all)];
  const margin = 0.05 * (ends[1] - ends[0] || 1);
  const { context, x, y } = chart(
    canvas, [1, group.length], [ends[0] - margin, ends[1] + margin], run.lineageLabels, look,
  );
  let before = null;
  group.forEach(({ entry, i }, place) => {
    if (i > frame) return;
    entry.values.forEach((value, who) => {
      const fresh = before && entry.replaced && entry.replaced.includes(who);
      if (fresh) {
        context.strokeStyle = look.faint;
        context.beginPath();
        context.moveTo(x(place), y(before.values[who]));
        context.lineTo(x(place + 1), y(value));
        context.stroke();
      }
      context.fillStyle = look.faint;
      dot(context, x(place + 1), y(value), 2.5);
    });
    context.fillStyle = `rgb(${look.kept})`;
    dot(context, x(place + 1), y(entry.values[entry.chosen]), 4);
    before = entry;
  });
  const last = run.lineage[from];
  const said = `${last.values.length} tried, best ${run.lineageLabels[1]} ${last.values[last.chosen]}`;
  return round === null ? said : `round ${round}: ${said}`;
}

function render({ model, el }) {
  const run = model.get("run");
  const count = run.phase.length;
  let layers = [];
  let frame = Math.max(0, Math.min(model.get("frame") || 0, count - 1));
  let playing = false;
  let last = 0;
  let ended = false;
  let damaged = "";

  const play = element("button", { type: "button", class: "pk-play" }, "Play");
  const back = element("button", { type: "button", "aria-label": "one step back" }, "‹");
  const on = element("button", { type: "button", "aria-label": "one step on" }, "›");
  const slider = element("input", {
    type: "range", min: 0, max: Math.max(count - 1, 0), step: 1, "aria-label": "step of the run",
  });
  const speed = element("select", { "aria-label": "speed" });
  for (const rate of RATES) speed.append(element("option", { value: rate }, `${rate} steps/s`));
  speed.value = 4;
  const which = element("select", { "aria-label": "layer" });
  const words = element("div", { class: "pk-words", role: "status" });
  const mask = element("canvas", { class: "pk-mask", role: "img" });
  const pixels = element("canvas", { class: "pk-pixels", role: "img" });
  const curve = element("canvas", { class: "pk-chart", role: "img" });
  const lineage = element("canvas", { class: "pk-chart", role: "img" });
  const root = element(
    "div", { class: "pk-replay" },
    element("strong", {}, run.title),
    element("div", { class: "pk-controls" }, play, back, on, slider, speed),
    words,
    element("div", { class: "pk-charts" }, curve, lineage),
    element("label", {}, "layer ", which),
    element("div", { class: "pk-masks" }, mask, pixels),
  );
  el.append(root);

  function draw() {
    if (ended || !count) return;
    const look = colours(root);
    slider.value = frame;
    const parts = [
      `step ${frame + 1} of ${count}: ${run.phase[frame]} ${run.index[frame]}/${run.of[frame]}`,
      `sparsity ${run.sparsity[frame].toFixed(3)}`,
    ];
    if (run.value[frame] !== null) parts.push(`${run.metric} ${run.value[frame].toFixed(3)}`);
    drawCurve(curve, run, frame, look);
    const said = drawLineage(lineage, run, frame, look);
    if (said) parts.push(said);
    words.textContent = parts.join(", ") + damaged;
    curve.setAttribute("aria-label", `${run.metric} after each step; ${words.textContent}`);
    lineage.setAttribute("aria-label", said);
    const layer = layers[which.selectedIndex];
    if (layer) {
      const n = drawMask(mask, layer, frame, look);
      const size = layer.rows * layer.columns;
      const text = `${layer.name}: ${n} of ${size} weights kept; a row an output`;
      mask.setAttribute("aria-label", text);
      mask.title = text;
      drawPixels(pixels, layer, layers[0], frame, look);
      pixels.setAttribute("aria-label", "connections left of each pixel of the image");
      pixels.title = pixels.getAttribute("aria-label");
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
  const resized = new ResizeObserver(draw);
  resized.observe(root);

  draw();
  unpacked(model.get("masks"))
    .then((bytes) => {
      layers = masksOf(run.layers, bytes, count);
      for (const layer of layers) which.append(element("option", {}, layer.name));
      draw();
    })
    .catch(() => {
      damaged = " The masks of this run are damaged and cannot be shown.";
      draw();
    });
  return () => {
    ended = true;
    resized.disconnect();
    model.off("change:frame", moved);
  };
}

export default { render };
