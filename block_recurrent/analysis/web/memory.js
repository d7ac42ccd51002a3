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
    .replaceChildren(
      element("span", { textContent: data.model }),
      ...items.map(([value, label]) =>
        element("span", {}, element("b", { textContent: value }), ` ${label}`),
      ),
    );
}

// Returns what looks for the matches again.
function addSearch(data, text, overview, choose) {
  const query = document.getElementById("query");
  const output = document.getElementById("hits");
  let current = -1;
  const find = () => {
    const escaped = query.value.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const starts = [];
    if (escaped) for (const match of data.text.matchAll(new RegExp(escaped, "gi"))) starts.push(match.index);
    text.matches = { starts, length: query.value.length };
    output.textContent = escaped ? `${COUNT.format(starts.length)} found` : "";
    overview.markFound(starts.map((start) => data.tokenAt(start)));
  };
  const move = (step) => {
    const { starts } = text.matches;
    if (!starts.length) return;
    current = current < 0 && step < 0 ? starts.length - 1 : (current + step + starts.length) % starts.length;
    output.textContent = `${COUNT.format(current + 1)} of ${COUNT.format(starts.length)}`;
    choose(data.tokenAt(starts[current]));
  };
  query.addEventListener("input", () => {
    current = -1;
    find();
    text.render();
  });
  document.getElementById("search").addEventListener("submit", (event) => {
    event.preventDefault();
    move(1);
  });
  document.getElementById("previous").addEventListener("click", () => move(-1));
  return find;
}

class MemoryPage {
  constructor(data) {
    this.data = data;
    this.held = null;
    this.details = new Details(data, {
      go: (token) => this.choose(token),
      written: (block) => {
        this.text.written = block;
        this.text.render();
      },
    });
    this.text = new TextView(data, {
      point: (token) => {
        if (this.held === null && token !== null) this.details.show(token, this.overview.layer);
      },
      choose: (token, aloud) => this.choose(token, aloud),
      scroll: () => this.overview.markSeen(...this.text.range()),
    });
    this.overview = new Overview(data, {
      go: (token) => this.choose(Math.min(data.count - 1, Math.max(0, token))),
    });
    addShades();
    this.addControls();
    this.find = addSearch(data, this.text, this.overview, (token) => this.choose(token));
    document.addEventListener("theme", () => drawTextScale(this.text.shade));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.release();
    });
    this.update();
  }
  addControls() {
    const { data, overview, text } = this;
    const layer = document.getElementById("layer");
    layer.append(...data.layers.map((index) => element("option", { textContent: index })));
    layer.addEventListener("change", () => {
      overview.layer = layer.value;
      overview.draw();
      if (this.held !== null) this.choose(this.held);
    });
    document.getElementById("layer-label").hidden = data.layers.length < 2;
    overview.layer = layer.value;
    data.fitShades();
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
  }
  choose(token, aloud = false) {
    const { text, details, overview } = this;
    this.held = text.chosen = token;
    details.show(token, overview.layer);
    overview.show(token);
    text.written = null;
    text.show(token);
    if (aloud) document.getElementById("spoken").textContent = details.spoken(token);
  }
  release() {
    if (this.held === null) return;
    this.held = this.text.chosen = null;
    this.details.clear();
    this.text.render();
  }
  // Shows another document from its beginning.
  begin() {
    this.held = this.text.chosen = this.text.written = null;
    this.details.clear();
    this.overview.range = [0, this.overview.blocks];
    this.update();
  }
  // Shows what the document has become.
  update() {
    const { data, text, overview, details } = this;
    data.fitShades();
    details.strong = {};
    facts(data);
    drawTextScale(text.shade);
    this.find();
    text.update();
    overview.update();
    overview.markSeen(...text.range());
  }
}
