// Puts the page together: controls, search, and what follows from choosing a token.

function radios(id, options, choose) {
  const group = document.getElementById(id);
  options.forEach((option, index) => {
    const input = element("input", { type: "radio", name: id, checked: index === 0 });
    input.addEventListener("change", () => choose(option));
    group.append(element("label", {}, input, option.label));
  });
  if (options.length) choose(options[0]);
}

function addShades() {
  const sheet = document.head.appendChild(element("style", {})).sheet;
  for (const [letter, name] of [
    ["s", "--loss"],
    ["p", "--saved"],
    ["m", "--cost"],
  ]) {
    for (let step = 1; step <= SHADES; step++) {
      const share = Math.round((80 * step) / SHADES);
      sheet.insertRule(
        `.line .${letter}${step} { background-color: color-mix(in srgb, var(${name}) ${share}%, transparent); }`,
      );
    }
  }
}

function drawTextScale(shade) {
  const mix = (name) => `color-mix(in srgb, ${color(name)} 80%, ${color("--paper")})`;
  const above = [color("--paper"), mix(shade.diverging ? "--saved" : "--loss")];
  const colors = gradient(shade.diverging ? [mix("--cost"), ...above] : above);
  const most = number(shade.most);
  drawScale("text-scale", colors, shade.diverging ? `−${most}` : "0", `${most} ${shade.unit}`);
}

function facts(data) {
  const all = (name) => data.meanOf(name, 0, data.count);
  const loss = all("carried");
  const items = [
    [COUNT.format(data.count), "tokens"],
    [loss.toFixed(4), "bits per token with memory"],
  ];
  for (const [name, label] of [
    ["cleared", "without memory"],
    ["swapped", "with another document's memory"],
  ]) {
    if (name in data.arrays) items.push([signed(all(name) - loss, 4), label]);
  }
  document
    .getElementById("facts")
    .append(
      element("span", { textContent: data.model }),
      ...items.map(([value, label]) =>
        element("span", {}, element("b", { textContent: value }), ` ${label}`),
      ),
    );
}

function addSearch(data, text, overview, choose) {
  const query = document.getElementById("query");
  const output = document.getElementById("hits");
  let current = -1;
  const find = () => {
    const escaped = query.value.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const starts = [];
    if (escaped) for (const match of data.text.matchAll(new RegExp(escaped, "gi"))) starts.push(match.index);
    text.matches = { starts, length: query.value.length };
    current = -1;
    output.textContent = escaped ? `${COUNT.format(starts.length)} found` : "";
    overview.markFound(starts.map((start) => data.tokenAt(start)));
    text.render();
  };
  const move = (step) => {
    const { starts } = text.matches;
    if (!starts.length) return;
    current = current < 0 && step < 0 ? starts.length - 1 : (current + step + starts.length) % starts.length;
    output.textContent = `${COUNT.format(current + 1)} of ${COUNT.format(starts.length)}`;
    choose(data.tokenAt(starts[current]));
  };
  query.addEventListener("input", find);
  document.getElementById("search").addEventListener("submit", (event) => {
    event.preventDefault();
    move(1);
  });
  document.getElementById("previous").addEventListener("click", () => move(-1));
}

async function start() {
  const data = new TextDocument(await unpack(document.getElementById("data").textContent));
  let held = null;
  const details = new Details(data, {
    go: (token) => choose(token),
    written: (block) => {
      text.written = block;
      text.render();
    },
  });
  const choose = (token, aloud = false) => {
    held = text.chosen = token;
    details.show(token, overview.layer);
    overview.show(token);
    text.written = null;
    text.show(token);
    if (aloud) document.getElementById("spoken").textContent = details.spoken(token);
  };
  const text = new TextView(data, {
    point: (token) => {
      if (held === null && token !== null) details.show(token, overview.layer);
    },
    choose,
    scroll: () => overview.markSeen(...text.range()),
  });
  const overview = new Overview(data, {
    go: (token) => choose(Math.min(data.count - 1, Math.max(0, token))),
  });
  const layer = document.getElementById("layer");
  layer.append(...data.layers.map((index) => element("option", { textContent: index })));
  layer.addEventListener("change", () => {
    overview.layer = layer.value;
    overview.draw();
    if (held !== null) choose(held);
  });
  document.getElementById("layer-label").hidden = data.layers.length < 2;
  overview.layer = layer.value;
  addShades();
  facts(data);
  radios("quantities", QUANTITIES, (quantity) => {
    overview.map.quantity = quantity;
    overview.draw();
  });
  radios("shades", data.shades, (shade) => {
    text.shade = overview.shade = shade;
    drawTextScale(shade);
    text.render();
    overview.draw();
  });
  addSearch(data, text, overview, choose);
  document.addEventListener("theme", () => drawTextScale(text.shade));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || held === null) return;
    held = text.chosen = null;
    details.clear();
    text.render();
  });
  text.layout();
  overview.markSeen(...text.range());
  root.dataset.ready = "true";
}

start();
