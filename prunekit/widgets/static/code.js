// Some code and a button that copies it; chart.js comes before it.

function render({ model, el }) {
  const code = element("code", {});
  const copy = element("button", { type: "button" }, "Copy");
  const said = element("span", { role: "status" });
  el.append(element("div", { class: "pk-view pk-code" }, element("pre", {}, code), copy, said));
  const tell = () => {
    code.textContent = model.get("text");
    said.textContent = "";
  };
  const byHand = () => {
    getSelection().selectAllChildren(code);
    said.textContent = "selected: copy it with Ctrl+C";
  };
  copy.onclick = () => {
    if (!navigator.clipboard) return byHand(); // a page that is not served securely has none
    const copied = () => (said.textContent = "copied: paste it into a cell");
    navigator.clipboard.writeText(model.get("text")).then(copied, byHand);
  };
  model.on("change:text", tell);
  tell();
  return () => model.off("change:text", tell);
}

export default { render };
