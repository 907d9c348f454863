// A view without a kernel; the view's own script comes before it. What the view asks of `model` is
// answered from data that stand in the page, with bytes written as { base64: text }.

function revived(name, value) {
  if (typeof value?.base64 !== "string") return value;
  return Uint8Array.from(atob(value.base64), (c) => c.charCodeAt(0));
}

function modelOf(data) {
  const values = JSON.parse(JSON.stringify(data), revived);
  const heard = {};
  return {
    alone: true,
    get: (name) => values[name],
    set: (name, value) => {
      values[name] = value;
      for (const act of heard[`change:${name}`] ?? []) act();
    },
    save_changes: () => {},
    send: () => {},
    on: (name, act) => (heard[name] ??= new Set()).add(act),
    off: (name, act) => heard[name]?.delete(act),
  };
}

// Show the view in `el`; gives what ends it, if there is anything to end.
export function show(el, data) {
  return render({ model: modelOf(data), el });
}
