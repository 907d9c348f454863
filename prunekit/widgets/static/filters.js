// The picture of a convolution's filters, and over it a place a filter to read it by; chart.js comes
// before it. It asks `model` for its traits and nothing else, so that a page without a kernel can
// give it a plain object instead.

const HOW = "Point at a filter, or move with the arrow keys.";

function render({ model, el }) {
  const { picture, says, note, partly, tiles: told } = model.get("filters");
  const image = element("img", { alt: "" });
  // As an image it runs no script, wherever it comes from.
  image.src = URL.createObjectURL(new Blob([picture], { type: "image/svg+xml" }));
  const words = element("div", { class: "pk-words", role: "status" }, HOW);
  const tiles = told.map((tile, i) => {
    const about = { role: "option", "aria-label": tile.says, tabindex: i ? -1 : 0 };
    const made = element("div", { class: "pk-filter", "aria-selected": false, ...about });
    const [left, top, width, height] = tile.place.map((part) => `${part}%`);
    Object.assign(made.style, { left, top, width, height });
    made.onpointerenter = made.onfocus = () => select(i);
    return made;
  });
  const grid = element("div", { class: "pk-filters", role: "listbox", "aria-label": says }, image);
  grid.append(...tiles);
  const crossed = element("span", {}, "crossed out: removed as a whole");
  const root = element(
    "div",
    { class: "pk-view pk-filterview" },
    element("strong", {}, says),
    grid,
    element("div", { class: "pk-legend" }, ...weightLegend(partly), crossed),
    words,
    element("small", {}, note),
  );
  keepKeys(root);
  el.append(root);

  function select(i) {
    tiles.forEach((tile, k) => {
      tile.setAttribute("aria-selected", k === i);
      tile.tabIndex = k === i ? 0 : -1;
    });
    words.textContent = told[i].says;
    root.dataset.selected = i;
  }

  grid.onkeydown = (event) => {
    const at = tiles.indexOf(document.activeElement);
    const row = tiles.filter((tile) => tile.style.top === tiles[0].style.top).length;
    const ways = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row };
    const ends = { Home: 0, End: tiles.length - 1 };
    const to = event.key in ends ? ends[event.key] : at + ways[event.key];
    if (Number.isNaN(to)) return;
    event.preventDefault();
    tiles[to]?.focus();
  };
  return () => URL.revokeObjectURL(image.src);
}

export default { render };
