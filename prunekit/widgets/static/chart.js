// What the views share. A view's script follows this one in the same module (`_static.script`).

// An element of the page; children are elements or texts.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// A slider with its name for who cannot see it; `limits` are min, max, step and value.
const sliderOf = (label, limits) =>
  element("input", { type: "range", "aria-label": label, ...limits });

// A line of a legend: what a mark of this colour means.
function legendLine(text, colour, hollow = false) {
  const mark = element("span", {
    class: "pk-mark",
    "aria-hidden": "true",
    style: `border-color: ${colour}; background: ${hollow ? "none" : colour}`,
  });
  return element("span", {}, mark, text);
}

// JupyterLab would go to, cut or change a cell; Ctrl+S and Shift+Enter are still its own.
function isOwn(event) {
  const modified = event.ctrlKey || event.metaKey || event.altKey;
  return !modified && !(event.shiftKey && event.key === "Enter");
}

function stopOwn(event) {
  if (isOwn(event)) event.stopPropagation();
}

// Notebook 7 takes a key before it gets here, but not where what has the focus is marked so.
function markOwn(event) {
  const kept = event.target.closest?.(".pk-keys") && isOwn(event);
  event.target.toggleAttribute?.("data-lm-suppress-shortcuts", Boolean(kept));
}

// Keep the keys that are pressed in a box from the notebook around it.
function keepKeys(box) {
  box.classList.add("pk-keys");
  box.addEventListener("keydown", stopOwn);
  if (!window["prunekitMarks"]) addEventListener("keydown", markOwn, true); // once in a page
  window["prunekitMarks"] = true;
}

// The bytes of a trait: a DataView in a notebook, a Uint8Array in a page of its own.
const bytesOf = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

// Bit i of a mask as numpy packs it; without bits everything is kept.
const kept = (bits, i) => (bits ? (bits[i >> 3] >> (7 - (i & 7))) & 1 : 1);

// What the table of looks (`PALETTE`, which stands above) has as "#0173b2", as [r, g, b].
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

// Colours that can be read on the page's background, light or dark: `text`, `soft` and `faint` as
// CSS writes them; `kept` (blue), `chosen` (orange) and `ink` (the text) as [r, g, b], for `rgb(…)` or pixels.
function colours(el) {
  const text = getComputedStyle(el).color || "rgb(0, 0, 0)"; // before it is part of the page
  const [r, g, b] = text.match(/[\d.]+/g).map(Number);
  return {
    text,
    soft: `rgba(${r}, ${g}, ${b}, 0.5)`,
    faint: `rgba(${r}, ${g}, ${b}, 0.25)`,
    kept: rgb(PALETTE.blue),
    chosen: rgb(PALETTE.orange),
    ink: [r, g, b],
  };
}

// A colour [r, g, b] and its opacity, from 0 to 1, as a pixel of `bitmap`.
function pixel(colour, opacity = 1) {
  const [r, g, b] = colour;
  return ((Math.round(255 * opacity) << 24) | (b << 16) | (g << 8) | r) >>> 0;
}

// A canvas of a pixel a place, row by row: `paint(i)` is a `pixel`, or 0 where the page is seen.
function bitmap(canvas, columns, rows, paint) {
  if (canvas.width !== columns) canvas.width = columns;
  if (canvas.height !== rows) canvas.height = rows;
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = paint(i);
  context.putImageData(image, 0, 0);
}

// A weight: its sign as a colour, its size as opacity, so that the page is seen through small ones.
const SIGNS = { positive: rgb(PALETTE.positive), negative: rgb(PALETTE.negative) };
function weightPixel(value, limit) {
  const share = Math.min(1, Math.abs(value) / limit);
  const sign = value < 0 ? SIGNS.negative : SIGNS.positive;
  return pixel(sign, PALETTE.faintest + (1 - PALETTE.faintest) * share);
}

function weightLegend(removed) {
  const empty = removed ? [legendLine("empty: removed", "currentColor", true)] : [];
  return [
    legendLine("positive", PALETTE.positive),
    legendLine("negative", PALETTE.negative),
    element("span", {}, "the stronger the colour, the larger |w|"),
    ...empty,
  ];
}

// Round numbers between two ends, so many parts or fewer, none closer than `least`.
function ticks(low, high, least = 0, parts = 4) {
  const rough = Math.max((high - low) / parts, least) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((n) => n * power >= rough * 0.999) * power;
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
  return found.map((value) => Number(value.toPrecision(6)));
}

const written = (value) => value.toLocaleString("en", { maximumSignificantDigits: 6 });

// A canvas of so many pixels of the page, as sharp as the screen; its context counts in those.
function sharp(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return context;
}

// Two axes with their grid, labels [across, up]; gives the scales from data to places, and the box
// between the axes. Numbers across are no closer than `least`: 1 for steps, 0 for any numbers.
function axes(context, width, height, xs, ys, labels, look, least = 1) {
  context.font = "12px sans-serif";
  context.lineWidth = 1;
  const up = ticks(...ys);
  const widest = Math.max(0, ...up.map((value) => context.measureText(written(value)).width));
  const box = { left: widest + 26, right: width - 14, top: 8, bottom: height - 34 };
  const x = (v) => box.left + ((v - xs[0]) / (xs[1] - xs[0] || 1)) * (box.right - box.left);
  const y = (v) => box.bottom - ((v - ys[0]) / (ys[1] - ys[0] || 1)) * (box.bottom - box.top);
  context.strokeStyle = look.faint;
  context.fillStyle = look.text;
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const value of up) {
    stroke(context, [box.left, y(value)], [box.right, y(value)]);
    context.fillText(written(value), box.left - 5, y(value));
  }
  context.textAlign = "center";
  context.textBaseline = "top";
  for (const value of ticks(...xs, least, Math.max(4, Math.floor(width / 80)))) {
    stroke(context, [x(value), box.bottom], [x(value), box.bottom + 4]);
    context.fillText(written(value), x(value), box.bottom + 5);
  }
  context.textBaseline = "bottom";
  context.fillText(labels[0], (box.left + box.right) / 2, height - 1);
  context.save();
  context.translate(2, (box.top + box.bottom) / 2);
  context.rotate(-Math.PI / 2);
  context.textBaseline = "top";
  context.fillText(labels[1], 0, 0);
  context.restore();
  return { context, x, y, box };
}

// The axes of a canvas that is part of the page, in its size there.
function chart(canvas, xs, ys, labels, look, least = 1) {
  const [width, height] = [canvas.clientWidth || 420, canvas.clientHeight || 200];
  return axes(sharp(canvas, width, height), width, height, xs, ys, labels, look, least);
}

// Calls `draw` when JupyterLab or the system takes other colours, and when `box` gets another width,
// after `fit`; gives what ends that.
function redrawn(box, draw, fit = () => {}) {
  let width = 0;
  const resized = new ResizeObserver(() => {
    if (width === box.clientWidth) return; // only the words in it have grown
    width = box.clientWidth;
    fit();
    draw();
  });
  resized.observe(box);
  const soon = () => requestAnimationFrame(() => draw());
  const theme = new MutationObserver(soon);
  theme.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", soon);
  return () => {
    resized.disconnect();
    theme.disconnect();
    scheme.removeEventListener("change", soon);
  };
}

// A line through places [x, y].
function stroke(context, ...points) {
  context.beginPath();
  points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.stroke();
}

function dot(context, x, y, radius, hollow = false) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  hollow ? context.stroke() : context.fill();
}
