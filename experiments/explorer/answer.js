// What is said of the state: a sentence, or a table of numbers beside those of the pinned state.

export function render({ model }) {
  const root = document.createElement("div");
  const sentence = Object.assign(document.createElement("p"), { className: "headline" });
  sentence.setAttribute("aria-live", "polite");
  const table = document.createElement("table");
  table.className = "readings";
  root.append(sentence, table);

  function cell(name, text, className) {
    const made = document.createElement(name);
    made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function show() {
    const data = JSON.parse(model.data);
    sentence.textContent = data.headline ?? "";
    sentence.hidden = data.headline === undefined;
    table.hidden = data.readings === undefined;
    root.className = data.busy ? "answer busy" : "answer";
    if (table.hidden) {
      window.goodteacher = { ...window.goodteacher, answered: data.sent, settled: data.settled };
      if (data.sent >= (window.goodteacher.sent ?? 0)) delete document.documentElement.dataset.busy;
      return;
    }
    const head = document.createElement("tr");
    const unseen = cell("th", "");
    unseen.setAttribute("aria-label", "what is read");
    head.append(unseen, cell("th", "now"), ...(data.compared ? [cell("th", "pinned")] : []));
    const rows = data.readings.map(({ name, text, about, pinned }) => {
      const row = document.createElement("tr");
      const title = cell("th", name);
      title.scope = "row";
      title.append(cell("span", about, "about"));
      row.append(title, cell("td", text), ...(data.compared ? [cell("td", pinned)] : []));
      return row;
    });
    table.replaceChildren(head, ...rows);
  }

  model.on("data", show);
  show();
  return root;
}
