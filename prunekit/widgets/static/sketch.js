// A curve that is drawn as a prediction; chart.js comes before it.

const HOW =
  "Draw with the pointer. Or by keyboard: left and right move along, up and down change the height " +
  "there (with Shift by more).";

function render({ model, el }) {
  const [across, lowest, highest] = model.get("x");
  const [upward, least, most] = model.get("y");
  const last = model.get("drawn").length - 1;
  const canvas = element("canvas", { role: "application", tabindex: 0 });
  const asked = element("div", {});
  const words = element("div", { class: "pk-words", role: "status" });
  const legend = element("div", { class: "pk-legend" });
  const commit = element("button", { type: "button" }, "Commit");
  const again = element("button", { type: "button" }, "Start again");
  const said = element("span", { role: "status" });
  const root = element(
    "div",
    { class: "pk-view pk-sketch" },
    asked,
    element("small", {}, HOW),
    canvas,
    legend,
    words,
    element("div", { class: "pk-controls" }, commit, again, said),
  );
  keepKeys(root);
  el.append(root);

  let heights = [...model.get("drawn")]; // null where nothing is drawn yet
  let place = 0; // where the keys are
  let recent = (least + most) / 2; // the height that was drawn last
  let held = false;
  let scales;

  const locked = () => model.get("committed").length > 0;
  const where = (i) => lowest + ((highest - lowest) * i) / last;
  const number = (value) => Number(value.toPrecision(3));

  function draw() {
    const look = colours(root);
    scales = chart(canvas, [lowest, highest], [least, most], [across, upward], look, 0);
    const { context, x, y, box } = scales;
    const shown = locked() ? model.get("committed") : heights;
    const points = [...shown.keys()]
      .filter((i) => shown[i] !== null)
      .map((i) => [x(where(i)), y(shown[i])]);
    if (document.activeElement === canvas && !locked()) {
      context.strokeStyle = look.text;
      stroke(context, [x(where(place)), box.top], [x(where(place)), box.bottom]);
    }
    const curve = (pairs, colour, size) => {
      context.strokeStyle = context.fillStyle = colour;
      const places = pairs.map(([across, up]) => [x(across), y(up)]);
      if (places.length) stroke(context, ...places);
      for (const place of places) dot(context, ...place, size);
    };
    context.lineWidth = 2;
    for (const pairs of model.get("earlier")) curve(pairs, look.faint, 1);
    curve(model.get("true"), PALETTE.blue, 3.5);
    context.strokeStyle = context.fillStyle = PALETTE.orange;
    context.setLineDash([6, 4]);
    if (points.length) stroke(context, ...points); // as it will be taken
    context.setLineDash([]);
    for (const point of points) dot(context, ...point, locked() ? 1.5 : 3);
    const marks = [["your prediction", PALETTE.orange]];
    if (model.get("true").length) marks.push(["the run", PALETTE.blue]);
    if (model.get("earlier").length) marks.push(["runs before", look.faint]);
    legend.replaceChildren(...marks.map(([name, colour]) => legendLine(name, colour)));
    tell(shown);
  }

  function tell(shown) {
    const count = shown.filter((height) => height !== null).length;
    const here = shown[place] === null ? "nothing drawn" : `${upward} ${number(shown[place])}`;
    words.textContent = `at ${across} ${number(where(place))}: ${here}; ${count} of ${last + 1} places drawn`;
    asked.textContent = [model.get("topic"), model.get("question")].filter(Boolean).join(": ");
    const label = `${asked.textContent} ${upward} over ${across}. ${words.textContent}. ${HOW}`;
    canvas.setAttribute("aria-label", label);
    canvas.setAttribute("aria-disabled", locked());
    commit.disabled = locked();
    said.textContent = model.get("said");
  }

  function put(i, height) {
    recent = Math.max(least, Math.min(most, height));
    heights[i] = recent;
  }

  function at(event) {
    const bounds = canvas.getBoundingClientRect();
    const { box } = scales;
    const part = (event.clientX - bounds.left - box.left) / (box.right - box.left);
    const up = (box.bottom - (event.clientY - bounds.top)) / (box.bottom - box.top);
    const i = Math.max(0, Math.min(last, Math.round(part * last)));
    return [i, least + up * (most - least)];
  }

  // A fast pointer leaves places out: draw a straight line from the one before.
  function go(drawn) {
    const [i, height] = drawn;
    const [from, start] = [place, recent];
    const way = Math.sign(i - from);
    for (let n = from + way; way && n !== i; n += way) {
      put(n, start + ((height - start) * (n - from)) / (i - from));
    }
    put(i, height);
    place = i;
  }

  function keep() {
    model.set("drawn", [...heights]);
    model.set("said", "");
    model.save_changes();
  }

  canvas.onpointerdown = (event) => {
    if (locked()) return;
    canvas.setPointerCapture(event.pointerId);
    held = true;
    const [i, height] = at(event);
    place = i;
    put(i, height);
    draw();
  };
  canvas.onpointermove = (event) => {
    if (!held) return;
    go(at(event));
    draw();
  };
  canvas.onpointerup = canvas.onpointercancel = () => {
    if (held) keep();
    held = false;
  };
  canvas.onkeydown = (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -last, End: last };
    const ways = { ArrowUp: 1, ArrowDown: -1 };
    if (event.key in steps) place = Math.max(0, Math.min(last, place + steps[event.key]));
    else if (event.key in ways && !locked()) {
      const step = ((most - least) / 100) * (event.shiftKey ? 10 : 1);
      put(place, (heights[place] ?? recent) + ways[event.key] * step);
      keep();
    } else return;
    event.preventDefault();
    draw();
  };
  canvas.onfocus = canvas.onblur = draw;
  commit.onclick = () => model.send({ commit: heights });
  again.onclick = () => {
    heights.fill(null);
    keep();
    model.send({ again: true });
    draw();
  };

  const changed = () => {
    if (!held) heights = [...model.get("drawn")];
    draw();
  };
  const events =
    "change:committed change:said change:drawn change:topic change:true change:earlier";
  model.on(events, changed);
  const end = redrawn(canvas, draw);
  draw();
  return () => {
    end();
    model.off(events, changed);
  };
}

export default { render };
