// A roulette wheel that is spun pick by pick; chart.js comes before it. It asks `model` for its
// traits and nothing else.

const [RADIUS, TURNS] = [120, 2]; // pixels; whole turns of a spin

function render({ model, el }) {
  const { sizes, names, wheels } = model.get("shown");
  const menu = element("select", { "aria-label": "wheel" });
  menu.append(...names.map((name, i) => element("option", { value: i }, name)));
  const spin = element("button", {}, "Spin");
  const again = element("button", {}, "Start over");
  const says = element("div", { class: "pk-words", role: "status" });
  const picture = element("div", { class: "pk-turning" });
  const fallen = element("div", { class: "pk-fallen" });
  const root = element(
    "div",
    { class: "pk-view pk-wheel" },
    element(
      "div",
      { class: "pk-controls" },
      ...(names.length > 1 ? ["wheel", menu] : []),
      spin,
      again,
    ),
    picture,
    says,
    fallen,
  );
  keepKeys(root);
  el.append(root);

  const largest = Math.max(...sizes) || 1;
  let [done, turned, timer] = [0, 0, 0]; // picks that fell out; degrees

  // Of each weight that is left [its number, where its slice begins, its width], in turns.
  function slices() {
    const { slices, picks } = wheels[menu.value];
    const gone = new Set(picks.slice(0, done));
    const left = slices.map((wide, i) => [i, wide]).filter(([i, wide]) => wide > 0 && !gone.has(i));
    const sum = left.reduce((total, [, wide]) => total + wide, 0);
    let at = 0;
    return left.map(([i, wide]) => [i, (at += wide / sum) - wide / sum, wide / sum]);
  }

  const colour = (i) =>
    PALETTE.viridis[Math.round((sizes[i] / largest) * (PALETTE.viridis.length - 1))];
  const point = (turn, radius) => {
    const angle = 2 * Math.PI * turn - Math.PI / 2;
    return `${(radius * Math.cos(angle)).toFixed(2)} ${(radius * Math.sin(angle)).toFixed(2)}`;
  };

  function drawn([i, start, wide]) {
    const title = `<title>|w| ${sizes[i]}: ${(100 * wide).toFixed(1)} % of the wheel</title>`;
    if (wide > 0.999) return `<circle r="${RADIUS}" fill="${colour(i)}">${title}</circle>`;
    const arc = `A${RADIUS} ${RADIUS} 0 ${wide > 0.5 ? 1 : 0} 1 ${point(start + wide, RADIUS)}`;
    const path = `M0 0L${point(start, RADIUS)}${arc}Z`;
    const label =
      wide > 0.04
        ? `<text transform="translate(${point(start + wide / 2, 0.7 * RADIUS)})">${sizes[i]}</text>`
        : "";
    return `<path d="${path}" fill="${colour(i)}">${title}</path>${label}`;
  }

  function paint() {
    const [left, stay] = [slices(), sizes.length - wheels[menu.value].picks.length];
    const box = RADIUS + 22;
    picture.innerHTML =
      `<svg viewBox="${-box} ${-box} ${2 * box} ${2 * box}" width="${2 * box}" role="img">` +
      `<g>${left.map(drawn).join("")}</g>` +
      `<path class="pk-pointer" d="M-9 ${-RADIUS - 18}h18l-9 20z"/></svg>`;
    picture.firstElementChild.setAttribute("aria-label", `${left.length} weights on the wheel`);
    const out = wheels[menu.value].picks.slice(0, done);
    fallen.replaceChildren(
      ...out.map((i) => element("span", { style: `border-color: ${colour(i)}` }, `${sizes[i]}`)),
    );
    const sum = out.reduce((total, i) => total + sizes[i] ** 2, 0);
    const all = sizes.reduce((total, size) => total + size ** 2, 0);
    const end = left.length || !stay ? "" : `; without a slice: ${stay}`;
    says.textContent = out.length
      ? `${sizes[out.at(-1)]} fell out; ${out.length} of ${sizes.length} are out, with ${((100 * sum) / all).toFixed(1)} % of the squared weights${end}`
      : `${left.length} weights on the wheel; the number is |w|, dark is small`;
    spin.disabled = !left.length;
    turned = 0;
  }

  // Turn until the pointer stands on the next pick, which then falls out.
  function next() {
    clearTimeout(timer);
    if (turned) return fall();
    const pick = wheels[menu.value].picks[done];
    const [, start, wide] = slices().find(([i]) => i === pick);
    turned = 360 * (TURNS + 1 - (start + wide / 2));
    const group = picture.querySelector("g");
    group.style.transform = `rotate(${turned}deg)`;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    says.textContent = "the wheel turns";
    timer = setTimeout(fall, still ? 0 : 1500);
  }

  function fall() {
    done += 1;
    paint();
  }

  function start() {
    clearTimeout(timer);
    done = 0;
    paint();
  }

  spin.onclick = next;
  again.onclick = menu.onchange = start;
  start();
  return () => clearTimeout(timer);
}

export default { render };
