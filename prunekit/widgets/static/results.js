// The recorded cells of an experiment, a mark each; chart.js comes before it. It asks `model` for
// its traits and nothing else, so that a page without a kernel can give it a plain object instead.

const REACH = 24; // pixels between the pointer and the mark that it means
const ABOUT =
  "An arm is a way of pruning with its settings. A mark is a run of it: from the trained network " +
  "of that number, or from new weights, with that seed of the random draws. ≥: the last start of the run alone was timed.";

// Of each mark its corners, and by how many eighths of a turn it is turned; stars are deep between.
const SHAPES = { s: [4, 1], D: [4, 0], "^": [3, 0], v: [3, 4], "<": [3, 6], ">": [3, 2] };
const STARS = { P: [4, 0], X: [4, 1], "*": [5, 0], h: [6, 0], p: [5, 4] };

function drawMark(context, x, y, { marker: shape, colour, hollow }) {
  const [corners, turn] = SHAPES[shape] ?? STARS[shape] ?? [24, 0];
  const n = shape in STARS ? 2 * corners : corners;
  context.beginPath();
  for (let i = 0; i < n; i++) {
    const angle = 2 * Math.PI * (i / n + turn / 8 - 1 / 4);
    const r = (n > 10 ? 5 : 5.5) * (shape in STARS && i % 2 ? 0.5 : 1);
    context.lineTo(x + r * Math.cos(angle), y + r * Math.sin(angle));
  }
  context.closePath();
  context.fillStyle = context.strokeStyle = colour;
  context.lineWidth = 1.5;
  hollow ? context.stroke() : context.fill();
}

// Both ends of some numbers, with room around them.
function ends(values) {
  if (!values.length) return [0, 1];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = 0.05 * (high - low) || 0.05 * Math.abs(high) || 0.5;
  return [low - margin, high + margin];
}

// A number as its measure is written; what is none has a dash.
const figure = (measure, value) => (value === null ? "–" : value.toFixed(measure.digits));
const labelOf = ({ name, unit }) => (unit ? `${name}, ${unit}` : name);

// What a cell is, in a few words.
function nameOf(results, cell) {
  return `${results.arms[cell.arm].name}, network ${cell.network}, seed ${cell.seed}`;
}

// Every number of a cell, beside the mean of its arm and the spread over the arm's networks.
function tableOf(results, cell) {
  const arm = results.arms[cell.arm];
  const row = (tag, first, ...texts) =>
    element(
      "tr",
      {},
      element(first ? "th" : "td", {}, first),
      ...texts.map((text) => element(tag, {}, text)),
    );
  const networks = `${arm.networks} network${arm.networks === 1 ? "" : "s"}`;
  const several = arm.seeds.some((value) => value !== null);
  const deviations = [
    "standard deviation over them",
    ...(several ? ["over the seeds of one"] : []),
  ];
  const head = row("th", "", "this run", `mean of ${networks}`, ...deviations);
  const lines = results.measures.map((measure, i) => {
    const least = ({ timed }) => (i === results.timed && !timed ? "≥ " : "");
    return row(
      "td",
      labelOf(measure),
      least(cell) + figure(measure, cell.values[i]),
      least(arm) + figure(measure, arm.means[i]),
      figure(measure, arm.spreads[i]),
      ...(several ? [figure(measure, arm.seeds[i])] : []),
    );
  });
  return element("table", {}, head, ...lines.filter((_, i) => results.measures[i].spreads));
}

function menuOf(results, label) {
  const menu = element("select", { "aria-label": label });
  for (const { name } of results.measures) menu.append(element("option", {}, name));
  return menu;
}

function render({ model, el }) {
  const results = model.get("results");
  const [across, up] = [menuOf(results, "measure across"), menuOf(results, "measure up")];
  const canvas = element("canvas", { class: "pk-scatter", role: "application", tabindex: 0 });
  const words = element("div", { class: "pk-words", role: "status" });
  const numbers = element("div", { class: "pk-numbers" });
  const command = element("code", {});
  const arms = element("fieldset", { class: "pk-arms" }, element("legend", {}, "arms"));
  const boxes = results.arms.map((arm) => {
    const box = element("input", { type: "checkbox" });
    const mark = element("canvas", { width: 14, height: 14, "aria-hidden": "true" });
    drawMark(mark.getContext("2d"), 7, 7, arm);
    arms.append(element("label", {}, box, mark, arm.name));
    box.onchange = choose;
    return box;
  });
  const every = (text, on) => {
    const button = element("button", { type: "button" }, text);
    button.onclick = () => (boxes.forEach((box) => (box.checked = on)), choose());
    return button;
  };
  const root = element(
    "div",
    { class: "pk-view pk-results" },
    element("strong", {}, results.title),
    element(
      "div",
      { class: "pk-controls" },
      element("label", {}, "across ", across),
      element("label", {}, "up ", up),
      every("all arms", true),
      every("none", false),
    ),
    element("div", { class: "pk-beside" }, arms, element("div", {}, canvas, words, command)),
    numbers,
    element("small", {}, ABOUT),
    ...results.damaged.map((text) => element("p", { class: "pk-damaged", role: "note" }, text)),
  );
  keepKeys(root);
  el.append(root);

  let scales, look;
  let [shown, at] = [[], null]; // the cells that have both numbers; the selected one

  const place = (cell) => [cell.values[across.selectedIndex], cell.values[up.selectedIndex]];

  function read() {
    across.value = model.get("x");
    up.value = model.get("y");
    boxes.forEach((box, i) => (box.checked = model.get("shown").includes(results.arms[i].name)));
    draw();
  }

  function choose() {
    const shown = results.arms.filter((_, i) => boxes[i].checked).map((arm) => arm.name);
    const chosen = { x: across.value, y: up.value, shown }; // all before any is set, which draws the old ones
    for (const [name, value] of Object.entries(chosen)) model.set(name, value);
    model.save_changes();
    draw();
  }

  function draw() {
    look = colours(root);
    const drawn = (cell) => boxes[cell.arm].checked && !place(cell).includes(null);
    shown = results.cells.filter(drawn);
    if (!shown.includes(at)) at = shown[0] ?? null;
    const [xs, ys] = [0, 1].map((i) => ends(shown.map((cell) => place(cell)[i])));
    const measures = [across, up].map((menu) => results.measures[menu.selectedIndex]);
    const labels = measures.map(labelOf);
    scales = chart(canvas, xs, ys, labels, look, measures[0].spreads ? 0 : 1);
    const { context } = scales;
    for (const cell of shown) drawMark(context, ...spot(cell), results.arms[cell.arm]);
    if (at) {
      context.strokeStyle = look.text;
      context.lineWidth = 2;
      dot(context, ...spot(at), 9, true);
    }
    const count = `${shown.length} of ${results.cells.length} recorded runs`;
    const label = `${labels[1]} over ${labels[0]}; ${count}. Arrow keys select.`;
    canvas.setAttribute("aria-label", label);
    tell(measures);
  }

  const spot = (cell) => [scales.x(place(cell)[0]), scales.y(place(cell)[1])];

  function tell(measures) {
    const fact = (m, i) => `${m.name} ${figure(m, place(at)[i])} ${m.unit}`.trim();
    const facts = at && `${nameOf(results, at)}: ${measures.map(fact).join(", ")}`;
    words.textContent = facts || "No run is shown: choose an arm, or another measure.";
    numbers.replaceChildren(...(at ? [tableOf(results, at)] : []));
    command.textContent = at ? at.command : "";
    root.dataset.selected = at ? nameOf(results, at) : "";
  }

  canvas.onpointermove = canvas.onpointerdown = ({ offsetX, offsetY }) => {
    const far = (cell) => Math.hypot(spot(cell)[0] - offsetX, spot(cell)[1] - offsetY);
    const found = shown.reduce((a, b) => (a && far(a) <= far(b) ? a : b), null);
    if (found && found !== at && far(found) < REACH) select(found);
  };
  canvas.onkeydown = (event) => {
    const axis = ["ArrowLeft", "ArrowRight"].includes(event.key) ? 0 : 1;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1 }[event.key];
    if (!step || !at) return;
    event.preventDefault();
    const order = [...shown].sort((a, b) => place(a)[axis] - place(b)[axis]);
    select(order[Math.max(0, Math.min(order.length - 1, order.indexOf(at) + step))]);
  };
  const select = (cell) => ((at = cell), draw());

  across.onchange = up.onchange = choose;
  const names = ["change:x", "change:y", "change:shown"];
  names.forEach((name) => model.on(name, read));
  read();
  const first = boxes.find((box) => box.checked)?.parentElement;
  requestAnimationFrame(() => (arms.scrollTop = (first?.offsetTop ?? 0) - 20)); // once it has a size
  const end = redrawn(canvas, draw);
  return () => {
    names.forEach((name) => model.off(name, read));
    end();
  };
}

export default { render };
