// The filters of a layer as pictures that slide into piles, one a cluster; chart.js comes before it.
// It asks `model` for its traits and nothing else, so that a page without a kernel can give it a
// plain object instead.

const [SIZE, GAP] = [38, 6]; // pixels of the page: of a picture, and between two

function render({ model, el }) {
  const {
    layer,
    filters,
    shape,
    counts,
    of,
    who,
    clusters,
    start,
    colours: hues,
  } = model.get("shown");
  const menu = (name, names) => {
    const made = element("select", { "aria-label": name });
    made.append(...names.map((each) => element("option", {}, each)));
    return made;
  };
  const features = menu("what is clustered", of);
  const stays = menu("who stays", who);
  const slider = sliderOf("clusters", { min: 0, max: counts.length - 1 });
  const number = element("span");
  const says = element("div", { class: "pk-words", role: "status" });
  const pictures = filters.map((values, i) => {
    const canvas = element("canvas", { role: "img", title: `filter ${i}` });
    bitmap(canvas, shape[1], shape[0], (k) => weightPixel(values[k], 1));
    return canvas;
  });
  const table = element("div", { class: "pk-table" }, ...pictures);
  const root = element(
    "div",
    { class: "pk-view pk-piles" },
    element("strong", {}, `The filters of ${layer} in clusters`),
    element("div", { class: "pk-controls" }, "clusters", slider, number),
    element("div", { class: "pk-controls" }, "of", features, "who stays: the", stays),
    table,
    says,
    element("div", { class: "pk-legend" }, ...weightLegend(false)),
  );
  keepKeys(root);
  el.append(root);

  function pile() {
    const { labels, stay } = clusters[features.value];
    const own = labels[slider.value];
    const kept = new Set(stay[stays.value][slider.value]);
    const piles = Array.from({ length: counts[slider.value] }, () => []);
    own.forEach((cluster, i) => piles[cluster].push(i));
    piles.sort((a, b) => b.length - a.length);
    piles.forEach((members, column) => {
      members.sort((a, b) => Number(kept.has(b)) - Number(kept.has(a)) || a - b);
      const colour = hues[column % hues.length];
      members.forEach((i, row) => {
        const [x, y] = [column, row].map((place) => place * (SIZE + GAP));
        const stands = kept.has(i);
        Object.assign(pictures[i].style, {
          transform: `translate(${x}px, ${y}px)`,
          border: `${stands ? 4 : 2}px solid ${colour}`,
        });
        const what = `filter ${i}, cluster ${column + 1}, ${stands ? "stays" : "goes"}`;
        pictures[i].setAttribute("aria-label", what);
      });
    });
    number.textContent = counts[slider.value];
    table.style.height = `${piles[0].length * (SIZE + GAP)}px`;
    const sizes = piles.map((members) => members.length).join(", ");
    says.textContent = `${kept.size} of ${filters.length} filters stay; clusters of ${sizes}`;
  }

  slider.value = start;
  slider.oninput = features.onchange = stays.onchange = pile;
  pile();
  return () => {}; // nothing goes on
}

export default { render };
