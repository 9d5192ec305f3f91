// The form of the page. The server has the state; this shows it, and sends what a person does.

const LOWEST = -12, HIGHEST = 6; // of the decimal logarithm of the odds of a probability

const toSlider = { start: p => Math.log10(p / (1 - p)) };
const fromSlider = { start: x => 1 / (1 + 10 ** -x) };

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made && typeof value !== "string") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// What stands there already is left alone, for the browser would lay out the page anew.
function put(of, values) {
  for (const [key, value] of Object.entries(values)) if (of[key] !== value) of[key] = value;
}

const short = value => {
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(3) : String(+value.toPrecision(5));
};

export function render({ model }) {
  const root = element("div", { class: "form" });
  let data = JSON.parse(model.data);
  let sent = 0, addressing;
  const waiting = new Map(); // the last of the messages of a slider that is being dragged

  function send(what, value, output = null, contents = null) {
    sent += 1;
    window.goodteacher = { ...window.goodteacher, sent, at: performance.now() };
    model.send_msg({ what, value: String(value), output, contents, sent });
    for (const id of ["published", "prompt"]) if (id !== what) fields.get(id).input.value = "";
    // What takes longer than a moment is compiled.
    setTimeout(() => {
      if (!(window.goodteacher.answered >= sent)) document.documentElement.dataset.busy = "yes";
    }, 500);
  }

  function dragged(what, value, output) {
    // No more often than pictures are drawn.
    if (waiting.size === 0) {
      requestAnimationFrame(() => {
        for (const [, message] of waiting) send(...message);
        waiting.clear();
      });
    }
    waiting.set(`${what}-${output}`, [what, value, output]);
  }

  // Fields: an input, its label, and a sentence if what stands there is bad.

  const fields = new Map();

  function field(id, label, input, { show = value => put(input, { value }), hidden = false } = {}) {
    const said = element("span", { class: "said", id: `said-${id}`, role: "alert" });
    input.id = `field-${id}`;
    input.setAttribute("aria-describedby", said.id);
    const name = element("label", { for: input.id, class: hidden ? "unseen" : "" }, label);
    const whole = element("div", { class: "field" }, name, input, said);
    fields.set(id, { input, said, show, whole });
    return whole;
  }

  function numberField(id, label, options) {
    const input = element("input", { type: "text", inputmode: "decimal", autocomplete: "off", spellcheck: false });
    input.addEventListener("change", () => send(id, input.value.trim()));
    return field(id, label, input, options);
  }

  function selectField(id, label, choices, options = {}) {
    const input = element("select");
    for (const [value, text] of choices) input.append(element("option", { value }, text));
    input.addEventListener("change", () => send(id, input.value));
    return field(id, label, input, options);
  }

  function sliderField(id, label, low, high, step) {
    const input = element("input", { type: "range", min: String(low), max: String(high), step: String(step) });
    input.addEventListener("input", () => dragged(id, input.value, null));
    return field(id, label, input);
  }

  function checkField(id, label) {
    const input = element("input", { type: "checkbox" });
    input.addEventListener("change", () => send(id, input.checked));
    return field(id, label, input, { show: checked => put(input, { checked }) });
  }

  function button(id, text, deed = () => send(id, ""), label = text) {
    const made = element("button", { type: "button", id: `do-${id}`, "aria-label": label }, text);
    made.addEventListener("click", deed);
    return made;
  }

  // Where to start.

  const file = element("input", { type: "file", accept: ".json,.jsonl,.csv,.parquet" });
  file.addEventListener("change", async () => {
    const [chosen] = file.files;
    if (!chosen) return;
    const read = new FileReader();
    read.onload = () => send("file", chosen.name, null, read.result.split(",")[1] ?? "");
    read.readAsDataURL(chosen);
    file.value = "";
  });
  const seed = numberField("seed", "random, from seed");
  const prompts = selectField("prompt", "prompt", []);
  const starts = element("fieldset", { class: "row" }, element("legend", {}, "Start from"),
    selectField("published", "published run: trained on, π₀(y*)", [["", "choose …"], ...data.published.map(name => [name, name])]),
    seed, field("file", "instance file or rollouts", file, { show: () => {} }), prompts);

  // Outputs.

  const columns = [["proxy", "proxy reward"], ["truth", "ground truth"], ["start", "initial probability"]];
  const body = element("tbody");
  const table = element("table", { class: "outputs" },
    element("caption", { class: "unseen" }, "Outputs with their rewards, initial probabilities and errors"),
    element("thead", {}, element("tr", {}, ...["output", "proxy reward", "ground truth", "initial probability", "error: by rule, by effect", ""]
      .map(text => element("th", { scope: "col" }, text || element("span", { class: "unseen" }, "remove"))))),
    body);

  function cell(what, name, output) {
    const slider = element("input", { type: "range", "aria-label": `${name} of output ${output}, slider`, id: `slider-${what}-${output}` });
    slider.addEventListener("input", () => {
      const value = (fromSlider[what] ?? Number)(Number(slider.value));
      fields.get(`${what}-${output}`).input.value = short(value);
      dragged(what, value, output);
    });
    const input = element("input", { type: "text", inputmode: "decimal", autocomplete: "off", class: "number" });
    input.addEventListener("change", () => send(what, input.value.trim(), output));
    const whole = field(`${what}-${output}`, `${name} of output ${output}`, input, {
      hidden: true,
      show: value => {
        put(input, { value: short(value), title: String(value) });
        if (slider.matches(":active")) return;
        const [low, high] = what === "start" ? [LOWEST, HIGHEST] : data.range;
        const step = what === "start" ? 0.02 : (high - low) / 200;
        put(slider, { min: String(low), max: String(high), step: String(step), ariaValueText: short(value) });
        slider.value = (toSlider[what] ?? Number)(value);
      },
    });
    whole.insertBefore(slider, input);
    return element("td", { "data-name": name }, whole);
  }

  function row(output) {
    const kind = element("div", { class: "kind" }), effect = element("div", { class: "effect" });
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = data.outputs[output].color;
    const star = element("span", { class: "star" });
    const made = element("tr", {},
      element("th", { scope: "row" }, swatch, `${output}`, star),
      ...columns.map(([what, name]) => cell(what, name, output)),
      element("td", { "data-name": "error", class: "judged" }, kind, effect),
      element("td", {}, button(`remove-${output}`, "×", () => send("remove", "", output), `remove output ${output}`)));
    return { made, kind, effect, star };
  }

  let rows = [];

  function showOutputs() {
    if (rows.length !== data.outputs.length) {
      for (const id of [...fields.keys()]) if (/^(proxy|truth|start)-/.test(id)) fields.delete(id);
      rows = data.outputs.map((_, output) => row(output));
      body.replaceChildren(...rows.map(({ made }) => made));
      for (const id of ["first", "second"]) {
        fields.get(id).input.replaceChildren(...rows.map((_, y) => element("option", { value: String(y) }, `output ${y}`)));
      }
    }
    data.outputs.forEach((output, y) => {
      put(rows[y].kind, { textContent: output.kind || "none" });
      put(rows[y].effect, { textContent: output.effect || "" });
      put(rows[y].star, { textContent: output.best ? "*" : "", title: output.best ? "y*, the best by ground truth" : "" });
    });
  }

  // Switches.

  const estimators = [["gradient", "gradient"], ["natural", "natural gradient"], ["grpo", "GRPO"], ["mean_subtracted", "mean subtracted (Dr. GRPO)"],
    ["maxrl", "MaxRL"], ["pass_at_k", "pass at k"], ["cold_start", "cold start"]];
  const presets = ["", "trl", "verl", "openrlhf", "prime-rl"].map(name => [name, name || "none"]);
  const only = {
    group: ["grpo", "mean_subtracted", "maxrl"], dynamic_sampling: ["grpo", "mean_subtracted", "maxrl"], epsilon: ["grpo"],
    population: ["grpo"], preset: ["grpo"], power: ["cold_start"], k: ["pass_at_k"],
  };
  const switches = element("fieldset", { class: "row" }, element("legend", {}, "What is followed"),
    selectField("estimator", "estimator", estimators),
    numberField("group", "group size (empty: large)"), numberField("epsilon", "epsilon"),
    selectField("preset", "as computed by", presets), checkField("population", "deviation over G"),
    checkField("dynamic_sampling", "dynamic sampling"),
    numberField("power", "power"), numberField("k", "k"),
    numberField("kl", "KL coefficient"),
    numberField("goal", "goal: share of the increase"), numberField("horizon", "horizon"));
  const policy = element("fieldset", { class: "row" }, element("legend", {}, "Policy"),
    selectField("policy", "features", [["tabular", "tabular"], ["linear", "linear"]]),
    selectField("first", "angle between", []), selectField("second", "and", []),
    sliderField("angle", "angle", 5, 175, 1), numberField("length", "length of the first's"));
  const angle = element("output", { class: "value", for: "field-angle" });
  fields.get("angle").whole.append(angle);

  // Compare, link, export, colours.

  const pin = button("pin", "Pin this state to compare");
  const back = button("back", "Back to the pinned one");
  const unpin = button("unpin", "Unpin");
  const link = element("a", { class: "link" }, "Link to this state");
  const python = element("pre", { tabindex: "0", "aria-label": "Python lines" });
  const copy = button("copy", "Copy", () => navigator.clipboard.writeText(python.textContent));
  const scheme = element("select", { "aria-label": "colours" },
    ...[["", "colours of the system"], ["light", "light"], ["dark", "dark"]].map(([value, text]) => element("option", { value }, text)));
  const system = matchMedia("(prefers-color-scheme: dark)");
  function paint() {
    if (scheme.value) document.documentElement.dataset.scheme = scheme.value;
    else delete document.documentElement.dataset.scheme;
    model.send_msg({ what: "dark", value: String((scheme.value || (system.matches ? "dark" : "light")) === "dark"), sent });
  }
  scheme.addEventListener("change", paint);
  system.addEventListener("change", paint);
  const notice = element("p", { class: "said", role: "alert", id: "said-page" });
  const more = element("p", { class: "said", role: "alert", id: "said-outputs" });
  const bar = element("div", { class: "bar" }, pin, back, unpin, link,
    button("export", "Export instance file", () => model.send_msg({ what: "export", value: "", sent })), scheme);
  const add = button("add", "Add an output");

  root.append(notice, bar, starts, table, element("div", { class: "bar" }, add), more, switches, policy,
    element("details", {}, element("summary", {}, "The Python lines that do the same"), copy, python));

  function show() {
    showOutputs();
    const values = { ...data.values };
    data.outputs.forEach((output, y) => columns.forEach(([what]) => values[`${what}-${y}`] = output[what]));
    for (const [id, { input, said, show: fill, whole }] of fields) {
      const bad = data.errors[id];
      put(said, { textContent: bad ?? "" });
      put(input, { ariaInvalid: String(bad !== undefined) });
      const typing = input.matches(":focus") && input.type === "text" && bad === undefined && input.dataset.typing;
      if (bad !== undefined && input.type === "text") input.value = data.rejected[id];
      else if (id in values && !typing) fill(values[id]);
      const sorts = only[id];
      if (sorts) put(whole, { hidden: !sorts.includes(values.estimator) });
    }
    for (const id of ["first", "second", "angle", "length"]) put(fields.get(id).whole, { hidden: values.policy !== "linear" });
    put(angle, { textContent: `${values.angle}°` });
    const names = JSON.stringify(data.prompts);
    if (prompts.dataset.names !== names) {
      prompts.dataset.names = names;
      fields.get("prompt").input.replaceChildren(element("option", { value: "" }, "choose …"),
        ...data.prompts.map((name, number) => element("option", { value: String(number) }, name)));
    }
    put(prompts, { hidden: data.prompts.length === 0 });
    put(notice, { textContent: data.errors.page ?? "" });
    const others = Object.entries(data.errors).filter(([id]) => /^(add|remove|back|export)/.test(id));
    put(more, { textContent: others.map(([, text]) => text).join(" ") });
    for (const made of [back, unpin]) put(made, { hidden: !data.pinned });
    put(add, { disabled: data.outputs.length >= data.most });
    put(python, { textContent: data.python });
    link.href = `?${data.link}`;
    clearTimeout(addressing); // browsers refuse addresses that change too often
    addressing = setTimeout(() => history.replaceState(null, "", link.href), 150);
  }

  root.addEventListener("input", event => { if (event.target.type === "text") event.target.dataset.typing = "yes"; });
  root.addEventListener("change", event => { delete event.target.dataset.typing; });

  model.on("data", () => { data = JSON.parse(model.data); show(); });
  model.on("msg:custom", message => {
    const { name, text } = message.data ?? message;
    const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    const anchor = element("a", { href: url, download: name });
    anchor.click();
    URL.revokeObjectURL(url);
  });
  show();
  paint();
  return root;
}
