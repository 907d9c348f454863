// Bars that are the importance of nodes, a column a layer, and lines that rise over them; chart.js
// comes before it. It asks `model` for its traits, and where a kernel answers for free lines.

const [BARS, HIGH, WIDE, GAP, LEFT, TOP] = [40, 150, 110, 20, 46, 8];

function render({ model, el }) {
  const shown = model.get("shown");
  const { layers, shared, path, alone, dense, tolerance } = shown;
  const free = shown.free && !model.alone; // a kernel can judge any lines
  const bottom = TOP + HIGH;
  let now = { lines: path[0].lines, ...shared[0] };
  let [linked, at, place, asked] = [true, 0, 0, null];
  const best = [0, 0]; // saved within the tolerance: one line, lines of their own

  const link = element("input", { type: "checkbox", checked: "" });
  const menu = element("select", { "aria-label": "layer" });
  menu.append(...layers.map(({ name }, i) => element("option", { value: i }, name)));
  const slider = sliderOf("threshold", { min: 0, value: 0 });
  const step = element("button", {}, "Step: raise the best bargain");
  const back = element("button", { "aria-label": "one raise back" }, "Back");
  const picture = element("div");
  const says = element("div", { class: "pk-words", role: "status" });
  const told = element("div", { class: "pk-words" });
  const most = element("div", { class: "pk-words" });
  const note = element("small", {}, "Run the notebook to move the line of one layer alone.");
  const way = element("div", { class: "pk-controls" }, step, back);
  const root = element(
    "div",
    { class: "pk-view pk-thresholds" },
    element("strong", {}, shown.title),
    element("label", { class: "pk-controls" }, link, "one line for all layers"),
    element("div", { class: "pk-controls" }, menu, slider),
    way,
    picture,
    says,
    told,
    most,
    note,
  );
  root.style.setProperty("--pk-kept", PALETTE.blue);
  root.style.setProperty("--pk-line", PALETTE.red);
  keepKeys(root);
  el.append(root);

  const column = ({ name, worth }, i) => {
    const [start, n] = [LEFT + i * (WIDE + GAP), Math.min(worth.length, BARS)];
    const bars = Array.from({ length: n }, (_, k) => {
      const value = worth[Math.round((k * (worth.length - 1)) / Math.max(n - 1, 1))];
      const tall = Math.max(HIGH * value, 1);
      const where = `x="${start + (k * WIDE) / n}" y="${bottom - tall}"`;
      return `<rect data-worth="${value}" ${where} width="${(0.86 * WIDE) / n}" height="${tall}"/>`;
    });
    const middle = `x="${start + WIDE / 2}" y="${bottom + 16}" text-anchor="middle"`;
    const frame = `x="${start - 6}" y="${TOP - 6}" width="${WIDE + 12}" height="${HIGH + 28}"`;
    return (
      `<g><path class="pk-frame" d="M${start - 6} ${TOP - 6}h${WIDE + 12}v${HIGH + 28}` +
      `h${-WIDE - 12}z"/>${bars.join("")}<path class="pk-line"/>` +
      `<text ${middle} font-size="12" fill="currentColor"></text></g>`
    );
  };
  const width = LEFT + layers.length * (WIDE + GAP);
  const scale = [0, 0.5, 1].map((v) => {
    const where = `x="${LEFT - 8}" y="${bottom - HIGH * v + 4}" text-anchor="end"`;
    return `<text ${where} font-size="12" fill="currentColor">${v}</text>`;
  });
  const turned = `transform="translate(12 ${TOP + HIGH / 2}) rotate(-90)" text-anchor="middle"`;
  picture.innerHTML =
    `<svg viewBox="0 0 ${width} ${bottom + 26}" role="img">${scale.join("")}<text ${turned} ` +
    `font-size="12" fill="currentColor">importance</text>${layers.map(column).join("")}</svg>`;
  const svg = picture.firstElementChild;
  svg.style.maxWidth = `${1.3 * width}px`;
  const groups = [...svg.querySelectorAll("g")];
  groups.forEach((group, i) => (group.querySelector("text").textContent = layers[i].name));

  // Of a layer the nodes that do not lie below the line; the best stays.
  const left = ({ worth }, line) => worth.filter((w) => w >= line).length || 1;
  const percent = (share) => `${(100 * share).toFixed(0)} %`;
  const points = shown.examples ? `${100 * tolerance} points` : `${tolerance}`;

  function paint() {
    const { lines, value, macs } = now;
    const lost = dense - value > tolerance + 1e-9;
    const weak = lost && alone.length ? fragile(lines) : -1;
    groups.forEach((group, i) => {
      const y = bottom - HIGH * lines[i];
      group.querySelector(".pk-line").setAttribute("d", `M${LEFT + i * (WIDE + GAP)} ${y}h${WIDE}`);
      const least = Math.min(lines[i], layers[i].worth.at(-1));
      for (const bar of group.querySelectorAll("rect")) {
        bar.classList.toggle("pk-kept", Number(bar.dataset.worth) >= least);
      }
      group.classList.toggle("pk-fragile", i === weak);
    });
    const error = shown.examples ? Math.sqrt((value * (1 - value)) / shown.examples) : 0;
    const figure = `${value.toFixed(3)}${error ? ` ± ${error.toFixed(3)}` : ""}`;
    says.textContent = `${shown.metric} ${figure}${lost ? `: more than ${points} lost` : ""}`;
    if (weak >= 0) says.textContent += `; alone, the line of ${layers[weak].name} costs most`;
    says.classList.toggle("pk-lost", lost);
    const nodes = layers.map((l, i) => `${l.name} ${left(l, lines[i])} of ${l.worth.length}`);
    told.textContent = `multiply-adds saved ${percent(1 - macs)}; nodes left: ${nodes.join(", ")}`;
    if (!lost) best[linked ? 0 : 1] = Math.max(best[linked ? 0 : 1], 1 - macs);
    most.textContent =
      `Most saved so far with at most ${points} lost: one line ${percent(best[0])}, ` +
      `lines of their own ${percent(best[1])}.`;
    if (now.note) told.textContent = `${now.note}; ${told.textContent}`;
    svg.setAttribute("aria-label", `${says.textContent}; ${told.textContent}`);
    link.checked = linked;
    way.hidden = linked;
    note.hidden = linked || free || !shown.free;
    menu.hidden = linked || !free;
    slider.hidden = !linked && !free;
    Object.assign(slider, linked ? { max: shared.length - 1, step: 1 } : { max: 1, step: 0.01 });
    slider.value = linked ? at : lines[menu.value];
    back.disabled = place === 0;
    step.disabled = place === path.length - 1;
  }

  // The layer whose own line costs most by itself.
  function fragile(lines) {
    const values = alone.map((own, i) => own[Math.floor(lines[i] * (own.length - 1) + 1e-6)]);
    return values.indexOf(Math.min(...values));
  }

  function together(to) {
    [linked, at, asked] = [true, Math.max(0, Math.min(shared.length - 1, to)), null];
    const end = at === shared.length - 1 && shared[at].line < 1;
    now = { ...shared[at], lines: layers.map(() => shared[at].line) };
    now.note = end ? `the next step would lose more than ${points}` : "";
    paint();
  }

  function along(to) {
    const again = asked ? "back on the search's own way; " : "";
    [linked, place, asked] = [false, Math.max(0, Math.min(path.length - 1, to)), null];
    now = { ...path[place], note: again };
    if (place) now.note += `raise ${place}: ${layers[path[place].raised].name}`;
    if (place === path.length - 1) now.note += `, and no other is left within ${points}`;
    paint();
  }

  function apart(layer, line) {
    if (!free) return;
    const lines = [...now.lines];
    lines[layer] = Math.max(0, Math.min(1, line));
    menu.value = layer;
    [asked, now] = [lines, { ...now, lines, note: "" }];
    paint();
    if (answers(model.get("moved"))) return answered(); // the same question once more
    says.textContent = "…";
    model.send({ lines });
  }

  const answers = ({ lines }) => asked && lines?.every((line, i) => line === asked[i]);

  function answered() {
    const { lines, value, macs } = model.get("moved");
    if (linked || !answers({ lines })) return; // an older question
    now = { lines, value, macs };
    paint();
  }

  link.onchange = () => (link.checked ? together(at) : along(0));
  slider.oninput = () =>
    linked ? together(Number(slider.value)) : apart(Number(menu.value), Number(slider.value));
  menu.onchange = paint;
  step.onclick = () => along(place + 1);
  back.onclick = () => along(place - 1);

  let held = -1; // the column that is dragged
  const spot = (event) => {
    const box = svg.getBoundingClientRect();
    const unit = width / box.width;
    return [(event.clientX - box.left) * unit, 1 - ((event.clientY - box.top) * unit - TOP) / HIGH];
  };
  const drag = (event) => {
    const line = spot(event)[1];
    if (!linked) return apart(held, Math.round(100 * line) / 100);
    const above = shared.findIndex((entry) => entry.line > line + 1e-9);
    together(above < 0 ? shared.length - 1 : above - 1);
  };
  svg.onpointerdown = (event) => {
    const number = Math.floor((spot(event)[0] - LEFT + GAP / 2) / (WIDE + GAP));
    held = Math.max(0, Math.min(layers.length - 1, number));
    svg.setPointerCapture(event.pointerId);
    drag(event);
  };
  svg.onpointermove = (event) => svg.hasPointerCapture(event.pointerId) && drag(event);

  model.on("change:moved", answered);
  together(0);
  return () => model.off("change:moved", answered);
}

export default { render };
