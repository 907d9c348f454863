// A network that reads digits, drawn, and a slider that removes its smallest weights; chart.js and
// digits.js come before it. It asks `model` for its traits and nothing else.

const SIDE = 28;
const [WIDE, HIGH] = [960, 380]; // of the picture of the network
const IMAGE = { x: 10, y: 96, scale: 6 }; // of the digit in it: its corner, pixels a pixel
const GRIDS = [
  { x: 270, y: 34, columns: 10, step: 11.4, title: "300 hidden units" },
  { x: 560, y: 62, columns: 4, step: 11.4, title: "100 hidden units" },
  { x: 770, y: 60, columns: 1, step: 29, title: "answers" },
];
const LINES = [200, 200, 80]; // weights of each layer that are drawn
const NEAR = 12; // lines of the unit that is pointed at
const [TILE, PEN] = [27, 15]; // pixels: of a digit in the table, of the pen
const CLASSES = 10;

function render({ model, el }) {
  const shown = model.get("shown");
  const { places, labels, widths, examples } = shown;
  const images = bytesOf(model.get("digits"));
  const weights = bytesOf(model.get("weights"));
  const [net, total] = [reader(shown, weights), weights.length];
  const many = labels.length;
  const size = SIDE * SIDE;
  const now = net.watch(images);
  const whole = net.watch(images).answers(places[0].levels);
  let found = whole;
  let [chosen, near, own] = [labels.indexOf(4), null, null]; // digit, unit [layer, number], drawn

  const slider = sliderOf("weights removed", { min: 0, max: places.length - 1, value: 0 });
  const scale = [0, 0.2, 0.4, 0.6, 0.8, 1].map((part) => {
    const { sparsity } = places[Math.round(part * (places.length - 1))];
    return element("span", { style: `left: ${100 * part}%` }, `${+(100 * sparsity).toFixed(1)} %`);
  });
  const says = element("div", { class: "pk-words", role: "status" });
  const picture = element("canvas", { class: "pk-net", role: "img" });
  const told = element("div", { class: "pk-words" });
  const lineCount = element("span");
  const layer = element("select", { "aria-label": "layer" });
  layer.append(...GRIDS.map(({ title }, k) => element("option", { value: k }, title)));
  const unit = element("input", { type: "number", min: 0, value: 0, "aria-label": "unit" });
  const out = element("button", {}, "take out, or bring back");
  const back = element("button", {}, "bring all back");
  const bars = element("canvas", { class: "pk-recall", role: "img" });
  const recall = element("strong", {});
  const table = element("canvas", { class: "pk-digits", role: "img", tabindex: 0 });
  const wrong = element("div", { class: "pk-wrong" });
  const pad = element("canvas", { class: "pk-pad", role: "img", "aria-label": "draw a digit" });
  const clear = element("button", {}, "clear");
  const mine = element("div", { class: "pk-words", role: "status" });
  const sides = element("canvas", { class: "pk-sides", role: "img", "aria-label": "answers" });
  const both = element(
    "div",
    { class: "pk-legend", hidden: "" },
    sides,
    legendLine("whole network", PALETTE.blue),
    legendLine("now", PALETTE.orange),
  );
  const root = element(
    "div",
    { class: "pk-view pk-playground" },
    element("strong", {}, "The smallest weights removed"),
    element("div", { class: "pk-track" }, slider, element("div", { class: "pk-scale" }, ...scale)),
    says,
    picture,
    element(
      "div",
      { class: "pk-legend" },
      legendLine("a weight above 0", PALETTE.positive),
      legendLine("below 0", PALETTE.negative),
      lineCount,
    ),
    told,
    element("div", { class: "pk-controls" }, "unit", layer, unit, out, back),
    element(
      "div",
      { class: "pk-row" },
      element(
        "div",
        {},
        recall,
        bars,
        element(
          "div",
          { class: "pk-legend" },
          legendLine("before", "currentColor", true),
          legendLine("now", PALETTE.blue),
          legendLine("less than half", PALETTE.red),
        ),
      ),
      element("div", {}, element("strong", {}, `${many} digits; red: read wrongly`), table),
      element(
        "div",
        {},
        element("strong", {}, "Draw a digit"),
        pad,
        element("div", { class: "pk-controls" }, clear, mine),
        both,
      ),
    ),
    wrong,
  );
  keepKeys(root);
  el.append(root);
  [pad.width, pad.height] = [196, 196];

  const place = () => places[slider.value];
  const outs = () => now.dead.flatMap((gone) => [...gone]).filter(Boolean).length;
  const percent = (share) => `${(100 * share).toFixed(1)} %`;

  // The numbers that are drawn: of the digit that is chosen, or of the one that was drawn.
  const drawnNow = () => own?.pruned ?? found[chosen];
  const pixelsNow = () => own?.bytes ?? images.subarray(chosen * size, (chosen + 1) * size);

  // What is known of the unit that is pointed at.
  function tell() {
    told.textContent = "";
    if (!near) return;
    const [k, i] = near;
    const value = drawnNow().layers[k][i].toFixed(2);
    const name = k === 2 ? `answer ${i}` : `unit ${i} of ${widths[k + 1]}`;
    const click = matchMedia("(hover: none)").matches ? "a second tap" : "a click";
    const gone = now.dead[k][i]
      ? `is out; ${click} brings it back`
      : `gives ${value}; ${click} takes it out`;
    told.textContent = `${name} ${gone}`;
    if (k) return;
    const row = net.layers[0].weights.subarray(i * size, (i + 1) * size);
    const some = row.some((q) => q && Math.abs(q) >= place().levels[0]);
    told.append(some ? "; its weights lie over the digit" : "; it has no weight to a pixel left");
  }

  function paint() {
    const { sparsity, left, accuracy } = place();
    const right = found.filter(({ answer }, d) => answer === labels[d]).length;
    const gone = outs();
    const all = gone
      ? `${gone} ${gone > 1 ? "units" : "unit"} out`
      : `${percent(accuracy)} of ${examples.toLocaleString("en")} validation images right`;
    says.textContent =
      `${percent(sparsity)} removed: ${left.toLocaleString("en")} of ` +
      `${total.toLocaleString("en")} weights left; ${all}; ${right} of these ${many} digits right`;
    const look = colours(el);
    drawRecall(look);
    drawTable(look);
    drawWrong(look);
    paintOne();
  }

  // What follows from one digit and the unit that is pointed at; the rest stays as it is.
  function paintOne() {
    const look = colours(el);
    drawNet(look);
    tell();
    if (own) drawSides(look);
  }

  const corner = (i) => [
    IMAGE.x + (i % SIDE) * IMAGE.scale,
    IMAGE.y + Math.floor(i / SIDE) * IMAGE.scale,
  ];

  /** @type {(k: any, i: any) => [number, number]} */
  const spot = (k, i) => {
    const { x, y, columns, step } = GRIDS[k];
    return [x + (i % columns) * step, y + Math.floor(i / columns) * step];
  };

  // Weights evenly over their ranks: what is drawn of a layer thins as the layer does.
  const sample = net.layers.map(({ weights, columns }, k) => {
    const order = [...weights.keys()].filter((i) => weights[i]);
    order.sort((a, b) => Math.abs(weights[b]) - Math.abs(weights[a]));
    const chosen = Array.from(
      { length: LINES[k] },
      (_, n) => order[Math.floor((n * order.length) / LINES[k])],
    );
    return chosen.map((i) => [i % columns, Math.floor(i / columns), weights[i]]);
  });
  const isThere =
    (k) =>
    ([from, to, q]) =>
      Math.abs(q) >= place().levels[k] && !now.dead[k][to] && !now.dead[k - 1]?.[from];

  // The strongest products of a weight and the number that it is multiplied with.
  function strong(context, k, values, fits) {
    const { rows, columns, weights } = net.layers[k];
    const found = [];
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < columns; i++) {
        const q = weights[row * columns + i];
        if (values[i] && fits(i, row) && isThere(k)([i, row, q]))
          found.push([i, row, q * values[i]]);
      }
    }
    const most = found.sort((a, b) => Math.abs(b[2]) - Math.abs(a[2])).slice(0, NEAR);
    lines(context, k, most, Math.abs(most[0]?.[2] ?? 1), 0.95);
  }

  function drawNet(look) {
    const ratio = window.devicePixelRatio || 1;
    [picture.width, picture.height] = [WIDE * ratio, HIGH * ratio];
    const context = picture.getContext("2d");
    context.scale(ratio, ratio);
    const letters = Math.max(13, Math.min(22, (9 * WIDE) / picture.clientWidth)); // on a telephone
    context.font = `${letters}px sans-serif`;
    const { layers, answer } = drawnNow();
    const pixels = pixelsNow();
    for (let i = 0; i < size; i++) {
      if (!pixels[i]) continue;
      context.globalAlpha = pixels[i] / 255;
      context.fillStyle = look.text;
      const [x, y] = corner(i);
      context.fillRect(x, y, IMAGE.scale, IMAGE.scale);
    }
    context.globalAlpha = 1;
    context.strokeStyle = look.soft;
    context.strokeRect(IMAGE.x, IMAGE.y, SIDE * IMAGE.scale, SIDE * IMAGE.scale);
    context.fillStyle = look.text;
    context.fillText("784 pixels", IMAGE.x, IMAGE.y - 8);
    GRIDS.forEach(({ x, y, title }) => context.fillText(title, x - 8, y - 14));
    const there = sample.map((drawn, k) => drawn.filter(isThere(k)));
    there.forEach((drawn, k) => lines(context, k, drawn, 127, 0.4));
    const [seen, of] = [there, sample].map((each) => each.flat().length);
    lineCount.textContent = `${seen} of the ${of} drawn are left; a circle is a unit: the fuller, the larger its number`;
    if (near) {
      const [k, i] = near;
      if (k < 2) strong(context, k + 1, layers[k], (from) => from === i);
      if (k > 0) strong(context, k, layers[k - 1], (_, to) => to === i);
      if (k === 0) tile(context, i);
    }
    layers.forEach((values, k) => {
      const most = Math.max(...values.map(Math.abs), 1e-9);
      const chances = k === 2 ? sure(values) : null;
      values.forEach((value, i) => {
        const [x, y] = spot(k, i);
        const gone = now.dead[k][i];
        context.globalAlpha = 1;
        context.fillStyle = PALETTE.blue;
        context.strokeStyle = near?.[0] === k && near[1] === i ? PALETTE.orange : look.faint;
        context.lineWidth = near?.[0] === k && near[1] === i ? 2.5 : 1;
        context.beginPath();
        context.arc(x, y, k === 2 ? 7 : 4, 0, 2 * Math.PI);
        context.stroke();
        context.globalAlpha = gone ? 0 : k === 2 ? chances[i] : Math.max(value, 0) / most;
        context.fill();
        context.globalAlpha = 1;
        if (gone) {
          context.strokeStyle = PALETTE.red;
          stroke(context, [x - 5, y - 5], [x + 5, y + 5]);
          stroke(context, [x - 5, y + 5], [x + 5, y - 5]);
        }
        if (k < 2) return;
        context.fillStyle = look.text;
        context.font = `${i === answer ? "bold " : ""}${letters}px sans-serif`;
        context.fillText(`${i}`, x + 14, y + 5);
        context.fillStyle = i === answer ? PALETTE.blue : look.soft;
        context.fillRect(x + 30, y - 5, 120 * chances[i] + 0.5, 10);
      });
    });
    picture.setAttribute("aria-label", `the network, which answers ${answer}`);
  }

  function lines(context, k, found, top, opacity) {
    context.globalAlpha = opacity;
    for (const [from, to, value] of found) {
      context.lineWidth = 0.3 + (2.7 * Math.abs(value)) / top;
      context.strokeStyle = value > 0 ? PALETTE.positive : PALETTE.negative;
      stroke(context, k ? spot(k - 1, from) : corner(from), spot(k, to));
    }
    context.globalAlpha = 1;
  }

  // The first-layer weights of a unit, over the picture of the digit.
  function tile(context, i) {
    const { weights } = net.layers[0];
    const least = place().levels[0];
    const row = weights.subarray(i * size, (i + 1) * size);
    const most = row.reduce((a, q) => Math.max(a, Math.abs(q)), 1);
    row.forEach((q, p) => {
      if (!q || Math.abs(q) < least) return;
      context.globalAlpha = Math.abs(q) / most;
      context.fillStyle = q > 0 ? PALETTE.positive : PALETTE.negative;
      const [x, y] = corner(p);
      context.fillRect(x, y, IMAGE.scale, IMAGE.scale);
    });
    context.globalAlpha = 1;
  }

  // Axes with the ten digits across.
  function byDigit(canvas, names, look) {
    const made = chart(canvas, [-0.6, 9.6], [0, 1], names, look, Infinity);
    made.context.textBaseline = "top";
    for (let c = 0; c < CLASSES; c++) made.context.fillText(`${c}`, made.x(c), made.box.bottom + 5);
    return made;
  }

  // Of each digit the share that is read rightly: now, and before anything was removed.
  function drawRecall(look) {
    const count = (answers) =>
      Array.from({ length: CLASSES }, (_, c) => {
        const own = labels.map((label, d) => d).filter((d) => labels[d] === c);
        return own.filter((d) => answers[d].answer === c).length / Math.max(own.length, 1);
      });
    recall.textContent = `Recall (share of right answers)${outs() ? ` on these ${many}` : ""}`;
    const [before, after] = outs()
      ? [count(whole), count(found)]
      : [places[0].recall, place().recall];
    const { context, x, y, box } = byDigit(bars, ["digit", "recall"], look);
    const half = (x(1) - x(0)) * 0.36;
    after.forEach((value, c) => {
      context.fillStyle = value < before[c] / 2 ? PALETTE.red : PALETTE.blue;
      context.fillRect(x(c) - half, y(value), 2 * half, box.bottom - y(value));
      context.strokeStyle = look.text;
      context.strokeRect(x(c) - half, y(before[c]), 2 * half, box.bottom - y(before[c]));
    });
    const words = after.map((value, c) => `${c}: ${percent(value)}`).join(", ");
    bars.setAttribute("aria-label", `recall of ${words}`);
  }

  const columns = 10;
  function drawTable(look) {
    const ratio = window.devicePixelRatio || 1;
    const rows = Math.ceil(many / columns);
    [table.width, table.height] = [columns * TILE * ratio, rows * TILE * ratio];
    const context = table.getContext("2d");
    context.scale(ratio, ratio);
    for (let d = 0; d < many; d++) {
      const [x, y] = [(d % columns) * TILE, Math.floor(d / columns) * TILE];
      context.drawImage(tiles(look)[d], x + 1, y + 1, TILE - 2, TILE - 2);
      const frame = (colour, inset) => {
        context.strokeStyle = colour;
        context.strokeRect(x + inset, y + inset, TILE - 2 * inset, TILE - 2 * inset);
      };
      context.lineWidth = 2;
      if (found[d].answer !== labels[d]) frame(PALETTE.red, 1);
      if (d === chosen && !own) frame(PALETTE.orange, 3.5);
    }
    const { answer } = found[chosen];
    table.setAttribute("aria-label", `digit ${chosen}, a ${labels[chosen]}, read as ${answer}`);
  }

  let [made, text] = [[], ""]; // the digits as pictures, in the colour of the page
  function tiles(look) {
    if (text === look.text) return made;
    text = look.text;
    made = labels.map((_, d) => {
      const canvas = element("canvas");
      bitmap(canvas, SIDE, SIDE, (i) => pixel(look.ink, images[d * size + i] / 255));
      return canvas;
    });
    return made;
  }

  // The digits that the whole network reads and this one does not.
  function drawWrong(look) {
    const lost = labels
      .map((label, d) => d)
      .filter((d) => whole[d].answer === labels[d] && found[d].answer !== labels[d]);
    const copies = lost.slice(0, 24).map((d) => {
      const copy = element("canvas", { class: "pk-lost" });
      [copy.width, copy.height] = [SIDE, SIDE];
      copy.getContext("2d").drawImage(tiles(look)[d], 0, 0);
      return element("span", {}, copy, `→ ${found[d].answer}`);
    });
    const words = lost.length
      ? `Newly read wrongly: ${lost.length} of ${many}${lost.length > 24 ? " (24 of them shown)" : ""}. `
      : "";
    wrong.replaceChildren(words, ...copies);
  }

  // ------------------------------------------------------------------ a digit of one's own

  const context = pad.getContext("2d", { willReadFrequently: true });
  let pen = null;
  /** @type {(event: any) => [number, number]} */
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    const unit = pad.width / box.width;
    return [(event.clientX - box.left) * unit, (event.clientY - box.top) * unit];
  };

  // What both networks answer to a digit.
  function put(bytes) {
    const watched = net.watch(bytes);
    const [full] = watched.answers(places[0].levels);
    now.dead.forEach((gone, k) => watched.dead[k].set(gone));
    const [pruned] = watched.answers(place().levels);
    own = { bytes, full, pruned };
    mine.textContent = `whole network: ${full.answer}; now: ${pruned.answer}`;
  }

  function read() {
    const bytes = asDigit(pad, SIDE);
    if (!bytes.some(Boolean)) return forget();
    const first = own === null; // the frame of the chosen digit goes
    put(bytes);
    first ? paint() : paintOne();
  }

  function forget() {
    own = null;
    context.clearRect(0, 0, pad.width, pad.height);
    mine.textContent = "";
    both.hidden = true;
    paint();
  }

  // How sure both are of each answer.
  function drawSides(look) {
    both.hidden = false;
    const { context, x, y, box } = byDigit(sides, ["answer", "confidence"], look);
    const width = (x(1) - x(0)) * 0.38;
    [own.full, own.pruned].forEach(({ layers }, which) => {
      context.fillStyle = which ? PALETTE.orange : PALETTE.blue;
      sure(layers[2]).forEach((value, c) => {
        context.fillRect(x(c) + (which - 1) * width, y(value), width, box.bottom - y(value));
      });
    });
    sides.setAttribute("aria-label", `${mine.textContent}; blue: whole network, orange: now`);
  }

  pad.onpointerdown = (event) => {
    pad.setPointerCapture(event.pointerId);
    pen = at(event);
    drawTo(event);
  };
  const drawTo = (event) => {
    if (!pen) return;
    const to = at(event);
    context.lineWidth = PEN;
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = `rgb(${colours(el).ink})`; // through which no stroke before is seen
    stroke(context, pen, [to[0] + 0.01, to[1]]);
    pen = to;
    read();
  };
  pad.onpointermove = drawTo;
  pad.onpointerup = pad.onpointercancel = () => (pen = null);
  clear.onclick = forget;

  // ------------------------------------------------------------------ units, digits, the slider

  function unitAt(event) {
    const box = picture.getBoundingClientRect();
    const scale = WIDE / box.width;
    const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    for (let k = 0; k < LAYERS; k++) {
      for (let i = 0; i < widths[k + 1]; i++) {
        const [a, b] = spot(k, i);
        const reach = GRIDS[k].step / 2;
        const wide = k === 2 ? 150 : reach;
        if (x >= a - reach && x <= a + wide && Math.abs(y - b) <= reach) return [k, i];
      }
    }
    return null;
  }

  function point(to) {
    if (near?.join() === to?.join()) return;
    near = to;
    if (near) [layer.value, unit.value] = near;
    paintOne();
  }

  function toggle(unit) {
    const [k, i] = unit;
    now.dead[k][i] = 1 - now.dead[k][i];
    [near, layer.value, unit.value] = [[k, i], k, i];
    renew();
  }

  // Everything again, the digit of one's own too.
  function renew() {
    found = now.answers(place().levels);
    if (own) put(own.bytes);
    paint();
  }

  picture.onpointermove = (event) => point(unitAt(event));
  picture.onpointerleave = () => point(null);
  let tapped = ""; // a finger cannot point: the first tap looks, a second takes out
  picture.onclick = (event) => {
    const unit = unitAt(event);
    if (unit && (event.pointerType !== "touch" || tapped === unit.join())) toggle(unit);
    else point(unit);
    tapped = unit?.join() ?? "";
  };
  function asked(act) {
    const [k, i] = [Number(layer.value), unit.valueAsNumber];
    if (Number.isInteger(i) && i >= 0 && i < widths[k + 1]) return act([k, i]);
    told.textContent = `There is no such unit here: they go from 0 to ${widths[k + 1] - 1}.`;
  }
  layer.onchange = unit.onchange = () => asked(point);
  out.onclick = () => asked(toggle);
  back.onclick = () => {
    now.dead.forEach((gone) => gone.fill(0));
    renew();
  };

  function choose(d) {
    chosen = Math.max(0, Math.min(many - 1, d));
    if (own) forget();
    else paint();
  }
  table.onclick = (event) => {
    const box = table.getBoundingClientRect();
    const unit = (columns * TILE) / box.width;
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    choose(Math.floor((y * unit) / TILE) * columns + Math.floor((x * unit) / TILE));
  };
  table.onkeydown = (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const by = steps[event.key];
    if (!by) return;
    event.preventDefault(); // the page stays where it is
    choose(chosen + by);
  };
  let waiting = false;
  slider.oninput = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      renew();
    });
  };

  return redrawn(root, paint); // also once it is part of the page
}

export default { render };
