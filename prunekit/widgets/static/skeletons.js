// The stripes of some filters as bars, under one line for all and under a line each; chart.js comes
// before it. It asks `model` for its traits and nothing else.

const [HIGH, WIDE, GAP, LEFT, TOP, CELL] = [110, 81, 18, 64, 10, 9]; // pixels of a picture
const LEAST = 1e-12; // of a norm that something is divided by
const MOST = 0.15; // of the threshold

function render({ model, el }) {
  const { layer, shape, names, runs, filters, delta } = model.get("shown");
  const [high, wide] = shape;
  const step = WIDE / (high * wide); // from bar to bar
  const menu = element("select", { "aria-label": "strength of the penalty" });
  menu.append(...names.map((name, i) => element("option", { value: i }, name)));
  const epoch = sliderOf("epoch", { min: 0 });
  const line = sliderOf("threshold", { min: 0, max: Math.max(MOST, delta), step: 0.001 });
  const equal = element("input", { type: "checkbox" });
  const [after, base] = [element("span"), element("span")];
  const panels = ["One line for all", "A line for each filter"].map((title) => {
    const says = element("div", { class: "pk-words", role: "status" });
    const picture = element("div");
    return { title, says, picture, box: element("div", {}, says, picture) };
  });
  const root = element(
    "div",
    { class: "pk-view pk-skeletons" },
    element("strong", {}, `Skeletons of ${layer}, trained without a cut`),
    element("div", { class: "pk-controls" }, "penalty", menu, "after epoch", epoch, after),
    element("div", { class: "pk-controls" }, "threshold δ", line, base),
    element("label", { class: "pk-controls" }, equal, "leave as many stripes in both"),
    ...panels.map(({ box }) => box),
    element(
      "div",
      { class: "pk-legend" },
      legendLine("stays", PALETTE.blue),
      legendLine("goes", "gray"),
      element("span", {}, "red: the filter's line; dashed where it is higher than the picture"),
      element("span", {}, "small squares: the places of the kernel that are left"),
      element("span", {}, "every epoch has a scale of its own"),
      element(
        "span",
        {},
        `${filters.length} of ${runs[0][0].length} filters are drawn, all count; ` +
          `left those that are weakest when the training with ${names[0]} ends`,
      ),
    ),
  );
  root.style.setProperty("--pk-kept", PALETTE.blue);
  root.style.setProperty("--pk-line", PALETTE.red);
  keepKeys(root);
  el.append(root);

  const sum = (row) => row.reduce((a, b) => a + b, 0);
  const count = (rows) => sum(rows.map((row) => row.filter(Boolean).length));

  // What stays above the lines, and how much that is.
  function under(sizes, lines) {
    const keep = sizes.map((row, i) => row.map((size) => size > lines[i]));
    return {
      lines,
      keep,
      stripes: count(keep),
      alive: keep.filter((row) => row.some(Boolean)).length,
    };
  }

  function each(sizes, value) {
    const norms = sizes.map(sum);
    return norms.map((norm) => (value * sum(norms)) / norms.length / Math.max(norm, LEAST));
  }

  // The line above which so many stripes are.
  function above(sizes, many) {
    const ordered = sizes.flat().sort((a, b) => b - a);
    return many < ordered.length ? ordered[many] : 0;
  }

  function drawn(sizes, { lines, keep }, top) {
    const bottom = TOP + HIGH;
    const width = LEFT + filters.length * (WIDE + GAP);
    const group = (i, place) => {
      const start = LEFT + place * (WIDE + GAP);
      const middle = start + WIDE / 2;
      const bar = (size, k) => {
        const tall = Math.max((HIGH * size) / top, 1);
        const where = `x="${start + k * step}" y="${bottom - tall}" width="${0.85 * step}"`;
        return `<rect ${where} height="${tall}"${keep[i][k] ? ' class="pk-kept"' : ""}/>`;
      };
      const corner = [middle - (wide * CELL) / 2, bottom + 6];
      const cell = (stays, k) => {
        const [x, y] = [k % wide, Math.floor(k / wide)].map((at, axis) => corner[axis] + at * CELL);
        return `<path d="M${x} ${y}h${CELL}v${CELL}h${-CELL}z"${stays ? ' class="pk-kept"' : ""}/>`;
      };
      const [over, y] = [lines[i] > top, bottom - HIGH * Math.min(lines[i] / top, 1)];
      const reach = `M${start - 3} ${y}h${WIDE + 4}`;
      const gone = !keep[i].some(Boolean);
      const text = `x="${middle}" y="${bottom + 6 + high * CELL + 15}" text-anchor="middle"`;
      return (
        `<g${gone ? ' class="pk-gone"' : ""}>${sizes[i].map(bar).join("")}` +
        `${keep[i].map(cell).join("")}<path class="pk-line${over ? " pk-over" : ""}" d="${reach}"/>` +
        `<text ${text}>filter ${i}${gone ? ": gone" : ""}</text></g>`
      );
    };
    const scale = [0, top].map((value) => {
      const where = `x="${LEFT - 8}" y="${bottom - (HIGH * value) / top + 4}" text-anchor="end"`;
      return `<text ${where}>${value ? value.toPrecision(2) : 0}</text>`;
    });
    const turned = `transform="translate(14 ${TOP + HIGH / 2}) rotate(-90)" text-anchor="middle"`;
    const view = `0 0 ${width} ${bottom + high * CELL + 26}`;
    return (
      `<svg viewBox="${view}" role="img">${scale.join("")}<text ${turned}>size of a stripe</text>` +
      `${filters.map(group).join("")}</svg>`
    );
  }

  function paint() {
    const steps = runs[menu.value];
    epoch.max = steps.length - 1;
    const sizes = steps[epoch.value];
    const top = Math.max(...filters.flatMap((i) => sizes[i])) * 1.05 || 1;
    const own = under(sizes, each(sizes, Number(line.value)));
    const shared = equal.checked ? above(sizes, own.stripes) : Number(line.value);
    const places = [
      under(
        sizes,
        sizes.map(() => shared),
      ),
      own,
    ];
    after.textContent = `${epoch.value} of ${steps.length - 1}`;
    base.textContent = Number(line.value).toFixed(3);
    const many = sizes.length * high * wide;
    panels.forEach(({ title, says, picture }, i) => {
      const { stripes, alive } = places[i];
      const at = i ? "" : ` at ${shared.toFixed(3)}`;
      says.textContent = `${title}${at}: ${stripes} of ${many} stripes left, in ${alive} of ${sizes.length} filters`;
      picture.innerHTML = drawn(sizes, places[i], top);
      picture.firstElementChild.setAttribute("aria-label", says.textContent);
    });
  }

  epoch.max = runs[0].length - 1;
  epoch.value = runs[0].length - 1;
  line.value = delta;
  menu.onchange = epoch.oninput = line.oninput = equal.onchange = paint;
  paint();
  return () => {}; // nothing goes on
}

export default { render };
