// A lineage to look into: point at a dot, or move with the arrow keys. chart.js and lineage.js come
// before it. What stays the same is painted once, and then copied under each selection.

const NEAR = 24; // pixels between the pointer and the dot that it means

function render({ model, el }) {
  const family = model.get("family");
  const still = document.createElement("canvas");
  const canvas = element("canvas", { class: "pk-tree", role: "application", tabindex: 0 });
  const words = element("div", { class: "pk-words", role: "status" });
  const legend = element("div", { class: "pk-legend" });
  const which = element("select", { "aria-label": "round" });
  const menu = element("label", { class: "pk-controls" }, "round ", which);
  const root = element(
    "div",
    { class: "pk-view pk-lineage" },
    element("strong", {}, model.get("title")),
    menu,
    canvas,
    legend,
    words,
  );
  for (const round of rounds(family)) {
    const undone = family.undone.includes(round) ? " (taken back)" : "";
    which.append(element("option", { value: round ?? "" }, `${round}${undone}`));
  }
  menu.hidden = which.length < 2;
  keepKeys(root);
  el.append(root);

  let group, scales, look, place, who;

  function open() {
    group = generations(family, rounds(family)[which.selectedIndex]);
    place = group.length - 1;
    who = group[place].chosen;
    paint();
  }

  function paint() {
    look = colours(root);
    const [width, height] = [canvas.clientWidth || 860, canvas.clientHeight || 360];
    scales = familyAxes(sharp(still, width, height), width, height, family, group, look);
    drawFamily(scales, family, group, look);
    scales = { ...scales, context: sharp(canvas, width, height) };
    const selected = legendLine("the selected one and those it came from", `rgb(${look.chosen})`);
    legend.replaceChildren(...legendOf(family, group, look), selected);
    select(place, who);
  }

  function select(...one) {
    [place, who] = one;
    if (colours(root).text !== look.text) return paint(); // the page has another theme now
    const { context } = scales;
    context.save();
    context.resetTransform();
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(still, 0, 0);
    context.restore();
    drawAncestry(scales, family, group, place, who, look);
    words.textContent = describe(family, group, place, who);
    canvas.setAttribute("aria-label", `${summary(family, group)}. Arrow keys select.`);
    root.dataset.selected = `${place} ${who}`;
  }

  canvas.onpointermove = canvas.onpointerdown = (event) => {
    const found = nearest(scales, group, event.offsetX, event.offsetY);
    if (found && (found[0] !== place || found[1] !== who)) select(...found);
  };
  canvas.onkeydown = (event) => {
    const to = moved(family, group, place, who, event.key);
    if (!to) return;
    event.preventDefault();
    select(...to);
  };
  which.onchange = open;
  open();
  return redrawn(root, paint);
}

// The dot that a place of the canvas means, if there is one near it.
function nearest({ spot }, group, left, top) {
  let [found, least] = [null, NEAR ** 2];
  group.forEach((entry, place) =>
    entry.values.forEach((value, who) => {
      if (value === null) return;
      const [x, y] = spot(place, who);
      const far = (x - left) ** 2 + (y - top) ** 2;
      if (far < least) [found, least] = [[place, who], far];
    }),
  );
  return found;
}

// Where a key leads from a candidate: across the generations, or up and down in its own.
function moved(family, group, place, who, key) {
  const across = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: group.length - 1 };
  if (key in across) {
    const to = Math.max(0, Math.min(group.length - 1, across[key]));
    return [to, to === place ? who : family.kind === "tree" ? group[to].chosen : who];
  }
  if (key !== "ArrowUp" && key !== "ArrowDown") return null;
  const { values } = group[place];
  const order = [...values.keys()].filter((i) => values[i] !== null);
  order.sort((a, b) => values[a] - values[b] || a - b);
  const at = order.indexOf(who) + (key === "ArrowUp" ? 1 : -1);
  return [place, order[Math.max(0, Math.min(order.length - 1, at))]];
}

export default { render };
