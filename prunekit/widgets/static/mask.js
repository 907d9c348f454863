// The weights of a layer as a picture, to look into and to prune by hand. The whole layer is one
// bitmap that is painted once and then drawn enlarged, so that moving about costs one drawImage.
// chart.js comes before it.

const HIGH = 420; // pixels
const BRUSHES = { look: "Look", prune: "Prune", restore: "Put back" };
const LARGE = 4; // pixels of the canvas, from which on a weight can be met without a wide brush
const WIDE = 5;

// The places [row, column] on the straight way between two, with the last and without the first.
function between(from, to) {
  const [[r, c], [toR, toC]] = [from, to];
  const many = Math.max(Math.abs(toR - r), Math.abs(toC - c));
  const part = (start, end, k) => Math.round(start + ((end - start) * k) / many);
  return Array.from({ length: many }, (_, k) => [part(r, toR, k + 1), part(c, toC, k + 1)]);
}

// A corner of the picture such that it cannot be dragged out of sight.
const within = (corner, least) => Math.max(Math.min(least, 0), Math.min(0, corner));

// Without a kernel: what it does with layers and strokes, from weights that are a byte each.
function answerAlone(model) {
  const stored = model.get("stored");
  const [keptElsewhere, countElsewhere] = model.get("rest");
  const strokes = [];

  function open() {
    const { weights, scale, ...layer } = stored[model.get("layer")];
    const size = layer.rows * layer.columns;
    if (weights.length !== size) throw new Error(`${weights.length} weights, not ${size}`);
    const values = Float32Array.from(new Int8Array(weights.buffer), (q) => q * Math.abs(q) * scale);
    model.set("kept", { layer: layer.layer, bits: layer.bits });
    model.set("shown", { ...layer, weights: new Uint8Array(values.buffer) });
  }
  function judge() {
    let [left, count] = [keptElsewhere, countElsewhere];
    for (const { rows, columns, bits } of Object.values(stored)) {
      count += rows * columns;
      for (let i = 0; i < rows * columns; i++) left += kept(bits, i);
    }
    const words = "Run the notebook from the top to see the accuracy that is left.";
    model.set("verdict", `sparsity ${(1 - left / count).toFixed(3)}. ${words}`);
  }
  function put({ layer, keep, weights }) {
    const { bits } = stored[layer];
    const changed = weights.filter((i) => Boolean(kept(bits, i)) !== keep);
    for (const i of changed) bits[i >> 3] ^= 0x80 >> (i & 7);
    return { layer, keep: !keep, weights: changed };
  }
  model.send = (content) => {
    if (content.undo) {
      if (strokes.length) put(strokes.pop());
    } else {
      const stroke = put(content);
      if (stroke.weights.length) strokes.push(stroke);
    }
    model.set("brushed", strokes.at(-1)?.layer ?? "");
    open();
    judge();
  };
  model.on("change:layer", open);
  open();
  judge();
}

function render({ model, el }) {
  if (model.alone) answerAlone(model);
  const picture = document.createElement("canvas");
  const canvas = element("canvas", { class: "pk-weights", role: "application", tabindex: 0 });
  const words = element("div", { class: "pk-words", role: "status" });
  const verdict = element("div", { class: "pk-words", role: "status" });
  const modes = element("span", { role: "group", "aria-label": "what the pointer does" });
  const size = sliderOf("width of the brush", { min: 1, max: 25, value: WIDE });
  const undo = element("button", { type: "button" }, "Undo");
  const zooms = (name, sign) => {
    const how = `${name}; or Ctrl and the wheel`;
    return element("button", { type: "button", "aria-label": how, title: how }, sign);
  };
  const [near, far] = [zooms("nearer", "+"), zooms("farther", "−")];
  const which = element("select", { "aria-label": "layer" });
  const root = element(
    "div",
    { class: "pk-view pk-maskview" },
    element(
      "div",
      { class: "pk-controls" },
      "layer ",
      which,
      modes,
      undo,
      "brush ",
      size,
      far,
      near,
    ),
    canvas,
    element("div", { class: "pk-legend" }, ...weightLegend(true)),
    words,
    verdict,
  );
  keepKeys(root);
  el.append(root);

  let layer, across, rows, columns, values, mask, remaining, limit;
  let zoom = 1,
    least = 1; // pixels of the canvas per weight, and those that show the whole layer
  let left = 0,
    top = 0; // the corner of the layer on the canvas
  let cursor = [0, 0];
  let mode = "look";
  let held = null; // where the pointer was, while it is down
  let painted = null; // where the brush was last, while it is down
  let stroke = new Set(); // the weights that it has changed, each once
  const widths = {}; // of the brush, where the user has set it

  for (const [name, label] of Object.entries(BRUSHES)) {
    const button = element("button", { type: "button", "aria-pressed": name === mode }, label);
    button.onclick = () => {
      mode = name;
      for (const other of modes.children) other.setAttribute("aria-pressed", other === button);
    };
    modes.append(button);
  }
  for (const name of model.get("layers")) which.append(element("option", {}, name));

  const shade = (i) => (mask[i] ? weightPixel(values[i], limit) : 0);

  function paint(indices) {
    const context = picture.getContext("2d");
    const one = context.createImageData(1, 1);
    for (const i of indices) {
      new Uint32Array(one.data.buffer)[0] = shade(i);
      context.putImageData(one, i % columns, Math.floor(i / columns));
    }
  }

  // Take over what was sent, once layer and mask are of one another; say whether it is another layer.
  function take() {
    const shown = model.get("shown");
    if (model.get("kept").layer !== shown.layer) return null;
    const other = layer !== shown.layer;
    if (other) send(); // what was begun on the layer before
    ({ layer, rows, columns, across } = shown);
    if (other) values = new Float32Array(bytesOf(shown.weights).slice().buffer);
    const bits = bytesOf(model.get("kept").bits);
    mask = Uint8Array.from(values, (_, i) => kept(bits, i));
    for (const i of stroke) mask[i] = value(); // the kernel does not know of it yet
    remaining = mask.reduce((sum, one) => sum + one, 0);
    limit = values.reduce((most, v) => Math.max(most, Math.abs(v)), 0) / 2 || 1;
    which.value = model.get("layer");
    bitmap(picture, columns, rows, shade);
    return other;
  }

  function fit() {
    const width = canvas.clientWidth || 640;
    zoom = least = Math.min(width / columns, HIGH / rows);
    canvas.height = Math.max(80, rows * zoom);
    canvas.width = width;
    canvas.style.height = `${canvas.height}px`;
    left = top = 0;
    cursor = [0, 0];
    painted = null; // no line leads from one picture to another
    size.value = widths[layer] ?? (zoom >= LARGE ? 1 : WIDE);
  }

  function draw() {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, left, top, columns * zoom, rows * zoom);
    if (document.activeElement === canvas) {
      context.strokeStyle = getComputedStyle(root).color;
      context.lineWidth = 2;
      const side = Math.max(zoom, 6);
      context.strokeRect(left + cursor[1] * zoom, top + cursor[0] * zoom, side, side);
    }
    tell();
    root.dataset.frames = Number(root.dataset.frames || 0) + 1;
  }

  const number = (w) => (model.alone ? `≈${w.toPrecision(2)}` : w.toPrecision(3));

  function tell() {
    const [r, c] = cursor;
    const i = r * columns + c;
    const state = mask[i] ? "kept" : "removed";
    words.textContent =
      `output ${r}, ${across} ${c}: ${number(values[i])}, ${state}; ` +
      `${remaining} of ${mask.length} weights of the layer kept`;
    canvas.setAttribute("aria-label", `weights of ${layer}; ${words.textContent}`);
  }

  function at(event) {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    const c = Math.floor(((event.clientX - box.left) * scale - left) / zoom);
    const r = Math.floor(((event.clientY - box.top) * scale - top) / zoom);
    return [Math.max(0, Math.min(rows - 1, r)), Math.max(0, Math.min(columns - 1, c))];
  }

  const value = () => (mode === "restore" ? 1 : 0); // that the brush gives a weight

  function brush(place) {
    const [r, c] = place;
    if (model.get("layer") !== layer) return; // another one is on its way
    const radius = (Number(size.value) - 1) / 2;
    const to = value();
    const changed = [];
    for (let y = Math.ceil(r - radius); y <= r + radius; y++) {
      for (let x = Math.ceil(c - radius); x <= c + radius; x++) {
        const i = y * columns + x;
        if (y >= 0 && y < rows && x >= 0 && x < columns && mask[i] !== to) {
          mask[i] = to;
          remaining += to ? 1 : -1;
          changed.push(i);
          stroke.add(i);
        }
      }
    }
    paint(changed);
  }

  function send() {
    const weights = [...stroke];
    stroke = new Set();
    if (weights.length) model.send({ layer, keep: mode === "restore", weights });
  }

  function closer(factor, x = canvas.width / 2, y = canvas.height / 2) {
    const next = Math.max(least, Math.min(40, zoom * factor));
    left = within(x - ((x - left) * next) / zoom, canvas.width - columns * next);
    top = within(y - ((y - top) * next) / zoom, canvas.height - rows * next);
    zoom = next;
    draw();
  }

  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    held = [event.clientX, event.clientY];
    cursor = at(event);
    if (mode !== "look") brush(cursor);
    painted = cursor;
    draw();
  };
  canvas.onpointermove = (event) => {
    cursor = at(event);
    if (held && mode === "look") {
      left = within(left + event.clientX - held[0], canvas.width - columns * zoom);
      top = within(top + event.clientY - held[1], canvas.height - rows * zoom);
      held = [event.clientX, event.clientY];
    } else if (held) {
      (painted ? between(painted, cursor) : [cursor]).forEach(brush);
      painted = cursor;
    }
    draw();
  };
  canvas.onpointerup = canvas.onpointercancel = () => {
    held = null;
    send();
  };
  canvas.onwheel = (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    closer(event.deltaY < 0 ? 1.25 : 0.8, event.clientX - box.left, event.clientY - box.top);
  };
  canvas.onkeydown = (event) => {
    const step = event.shiftKey ? 10 : 1;
    const ways = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (ways[event.key]) {
      const [r, c] = ways[event.key];
      cursor = [
        Math.max(0, Math.min(rows - 1, cursor[0] + r * step)),
        Math.max(0, Math.min(columns - 1, cursor[1] + c * step)),
      ];
    } else if (event.key === " " && mode !== "look") {
      brush(cursor);
      send();
    } else if (event.key === "+") return closer(1.25);
    else if (event.key === "-") return closer(0.8);
    else return;
    event.preventDefault();
    draw();
  };
  canvas.onfocus = canvas.onblur = draw;
  size.oninput = () => (widths[layer] = size.value);
  undo.onclick = () => model.send({ undo: true });
  near.onclick = () => closer(1.6);
  far.onclick = () => closer(1 / 1.6);
  which.onchange = () => {
    model.set("layer", which.value);
    model.save_changes();
  };

  const renewed = () => {
    const other = take();
    if (other) fit();
    if (other !== null) draw();
  };
  const judged = () => (verdict.textContent = model.get("verdict"));
  const brushed = () => {
    const last = model.get("brushed");
    if (!last && document.activeElement === undo) canvas.focus(); // a disabled button hears no key
    undo.disabled = !last;
    undo.title = last ? `take back the last stroke, in ${last}` : "there is no stroke to take back";
  };
  model.on("change:brushed", brushed);
  model.on("change:shown", renewed);
  model.on("change:kept", renewed);
  model.on("change:verdict", judged);
  take();
  fit();
  draw();
  judged();
  brushed();
  const end = redrawn(root, draw, fit);
  return () => {
    end();
    model.off("change:brushed", brushed);
    model.off("change:shown", renewed);
    model.off("change:kept", renewed);
    model.off("change:verdict", judged);
  };
}

export default { render };
