// The filters of a convolution as pictures; chart.js comes before it. It asks `model` for its traits
// and nothing else, so that a page without a kernel can give it a plain object instead.

const SIDE = 64; // pixels of the page that a picture is wide
const HOW = "Point at a filter, or move with the arrow keys.";
const WHOLE = 100; // what stands for the layer's largest weight

// What is known of a filter; they are counted from 0, as in the tensor.
function describe({ left, norms, scores, pictures, inputs, size }, i) {
  const parts = [`filter ${i}: ${left[i] ? "kept" : "removed"}`];
  const all = inputs * size[0] * size[1];
  if (left[i] > 0 && left[i] < 1) parts.push(`${Math.round(left[i] * all)} of ${all} weights left`);
  if (scores) {
    const better = scores.filter((score) => score > scores[i]).length;
    parts.push(`score ${written(scores[i])}, rank ${better + 1} of ${pictures.length}`);
  }
  parts.push(`L1 norm ${written(norms[i])}`);
  return parts.join("; ");
}

function drawFilter(canvas, picture, [rows, columns]) {
  bitmap(canvas, columns, rows, (i) => (picture[i] === null ? 0 : weightPixel(picture[i], WHOLE)));
}

function render({ model, el }) {
  const filters = model.get("filters");
  const { layer, inputs, size, pictures, left } = filters;
  const remaining = left.filter((share) => share > 0).length;
  const summary = `${layer}: ${remaining} of ${pictures.length} filters kept`;
  const words = element("div", { class: "pk-words", role: "status" }, HOW);
  const grid = element("div", { class: "pk-filters", role: "listbox", "aria-label": summary });
  const crossed = element("span", {}, "crossed out: removed as a whole");
  const mean = inputs > 1 ? `each filter is the mean over its ${inputs} inputs` : "";
  const root = element(
    "div",
    { class: "pk-view pk-filterview" },
    element("strong", {}, summary),
    grid,
    element("div", { class: "pk-legend" }, ...weightLegend(), crossed),
    words,
    element("small", {}, mean),
  );
  const tiles = pictures.map((picture, i) => {
    const canvas = element("canvas", { "aria-hidden": true });
    canvas.style.height = `${(SIDE * size[0]) / size[1]}px`;
    drawFilter(canvas, picture, size);
    const state = left[i] ? "" : " pk-removed";
    const about = { role: "option", "aria-label": describe(filters, i), tabindex: i ? -1 : 0 };
    const tile = element("div", { class: `pk-filter${state}`, "aria-selected": false, ...about });
    tile.append(canvas);
    tile.onpointerenter = () => select(i);
    tile.onfocus = () => select(i);
    return tile;
  });
  grid.append(...tiles);
  keepKeys(root);
  el.append(root);

  function select(i) {
    tiles.forEach((tile, k) => {
      tile.setAttribute("aria-selected", k === i);
      tile.tabIndex = k === i ? 0 : -1;
    });
    words.textContent = describe(filters, i);
    root.dataset.selected = i;
  }

  grid.onkeydown = (event) => {
    const at = tiles.indexOf(document.activeElement);
    const below = tiles.findIndex((tile) => tile.offsetTop > tiles[0].offsetTop);
    const row = below < 0 ? tiles.length : below; // tiles beside one another
    const ways = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row };
    const ends = { Home: 0, End: tiles.length - 1 };
    const to = event.key in ends ? ends[event.key] : at + ways[event.key];
    if (Number.isNaN(to)) return;
    event.preventDefault();
    tiles[to]?.focus();
  };
  return () => {}; // nothing outside of the view is watched
}

export default { render };
