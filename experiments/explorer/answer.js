// What is said of the state: a sentence, or a table of numbers beside those of the pinned state.

export function render({ model }) {
  const root = document.createElement("div");
  const sentence = Object.assign(document.createElement("p"), { className: "headline" });
  sentence.setAttribute("aria-live", "polite");
  const table = document.createElement("table");
  table.className = "readings";
  root.append(sentence, table);

  // What stands there already is left alone, for the browser would lay out the page anew.
  function write(of, text) {
    if (of.textContent !== text) of.textContent = text;
  }

  function add(row, name, text, attributes = {}) {
    const made = Object.assign(document.createElement(name), { textContent: text, ...attributes });
    row.append(made);
    return made;
  }

  function lay(data) {
    const head = document.createElement("tr");
    add(head, "th", "", { ariaLabel: "what is read" });
    for (const title of ["now", ...(data.compared ? ["pinned"] : [])]) add(head, "th", title);
    rows = data.readings.map(({ name }) => {
      const row = document.createElement("tr");
      const about = add(add(row, "th", name, { scope: "row" }), "span", "", { className: "about" });
      return { row, about, now: add(row, "td", ""), pinned: data.compared ? add(row, "td", "") : null };
    });
    table.replaceChildren(head, ...rows.map(({ row }) => row));
  }

  let rows = [];

  function show() {
    const data = JSON.parse(model.data);
    write(sentence, data.headline ?? "");
    sentence.hidden = data.headline === undefined;
    table.hidden = data.readings === undefined;
    root.className = data.busy ? "answer busy" : "answer";
    if (table.hidden) {
      window.goodteacher = { ...window.goodteacher, answered: data.sent, settled: data.settled };
      if (data.sent >= (window.goodteacher.sent ?? 0)) delete document.documentElement.dataset.busy;
      return;
    }
    if (rows.length !== data.readings.length || data.compared !== (rows[0]?.pinned !== null)) lay(data);
    data.readings.forEach(({ text, about, pinned }, at) => {
      write(rows[at].now, text);
      write(rows[at].about, about);
      if (data.compared) write(rows[at].pinned, pinned);
    });
  }

  model.on("data", show);
  show();
  return root;
}
