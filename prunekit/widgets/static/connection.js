// Says so when the kernel does not answer; chart.js comes before it. It asks when it is shown and
// after something is pressed, and one question at a time: a kernel that was restarted logs an error
// for each.

const PATIENCE = 3000; // milliseconds
const AFTER = 300; // milliseconds: a question at once would hold up what the press itself asks for
const SILENCE =
  "No answer from the kernel. If it is busy, wait; if it was restarted, run the notebook again " +
  "from the top.";
const PRESSES = ["pointerdown", "keydown", "click"]; // a screen reader sends the last alone

// Watch what is pressed in `carrier()`, and speak in `el`.
function watch(model, el, carrier) {
  const words = element("div", { class: "pk-connection", role: "status" });
  el.append(words);
  let patience = null; // the timer of the question that is open
  let next = null;

  const later = (wait) => (clearTimeout(next), (next = setTimeout(ask, wait)));
  function ask() {
    clearTimeout(next);
    if (patience !== null) return;
    try {
      model.send({ ask: true });
    } catch {
      return missed(); // the kernel that knew this widget is gone
    }
    patience = setTimeout(missed, PATIENCE);
  }
  function say(text) {
    if (words.textContent !== text) words.textContent = text; // an observer sees each change
  }
  function missed() {
    patience = null;
    say(SILENCE);
  }
  function answered(content) {
    if (!content.answer) return;
    clearTimeout(patience);
    patience = null;
    say("");
    if (model.get("awaited")) later(PATIENCE);
  }
  const pressed = (event) => event.composedPath().includes(carrier()) && later(AFTER);
  const awaited = () => model.get("awaited") && ask();

  model.on("msg:custom", answered);
  model.on("change:awaited", awaited);
  for (const press of PRESSES) document.addEventListener(press, pressed, true);
  ask();
  function end() {
    model.off("msg:custom", answered);
    model.off("change:awaited", awaited);
    for (const press of PRESSES) document.removeEventListener(press, pressed, true);
    clearTimeout(patience);
    clearTimeout(next);
  }
  return { missed, end };
}

// ipywidgets ties the name of a slider to none of its parts.
function nameSliders(box) {
  for (const handle of box.querySelectorAll("[role=slider]:not([aria-label])")) {
    const label = handle.closest(".jupyter-widgets").querySelector("label");
    if (label?.textContent) handle.setAttribute("aria-label", label.textContent);
  }
}

// As a widget of its own it watches the box that it stands in, names the sliders there, and keeps
// its keys from JupyterLab.
function connection({ model, el }) {
  const box = () => el.parentElement;
  const { missed, end } = watch(model, el, box);
  const changed = new MutationObserver(look);
  const placed = new ResizeObserver(() => {
    if (box()) {
      changed.observe(box(), { attributeFilter: ["class"], childList: true, subtree: true });
      keepKeys(box());
    }
    look();
  });
  function look() {
    if (!box()) return; // not yet in the page, or no more
    nameSliders(box());
    // ipywidgets marks so what a kernel that was restarted, or a saved notebook, has left behind
    if (box().classList.contains("jupyter-widgets-disconnected")) missed();
  }
  placed.observe(el);
  return () => {
    changed.disconnect();
    placed.disconnect();
    end();
  };
}

// A view that shows the words below itself.
const connected = (render) => (context) => {
  const { model, el } = context;
  const cleanUp = render(context);
  const { end } = watch(model, el, () => el);
  return () => {
    end();
    cleanUp?.();
  };
};
