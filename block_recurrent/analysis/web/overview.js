// The whole document: a chart of the loss or of what memory saves, and a map of the states.

const AXIS = 58; // pixels to the left of the chart and of the map
const CHART_HEIGHT = 118, MAP_HEIGHT = 128;
const QUANTITIES = [
  { name: "attention", label: "Attention", unit: "of the tokens' attention" },
  { name: "change", label: "Change", unit: "change per block, of its norm" },
  { name: "keep", label: "Gate", unit: "of the old state kept" },
];

class Overview {
  // events: { go(token) }
  constructor(data, events) {
    Object.assign(this, { data, events, range: [0, data.blocks], cursor: [0, 0] });
    this.keys = document.getElementById("chart-keys");
    this.plots = document.getElementById("plots");
    this.map = document.getElementById("map");
    this.readout = document.getElementById("readout");
    this.map.setAttribute("aria-label", "Map of states by block. Arrow keys move, Enter goes to the text");
    this.map.addEventListener("pointermove", (event) => this.point(...this.placeOf(event)));
    this.map.addEventListener("pointerleave", () => { this.readout.textContent = ""; });
    this.map.addEventListener("click", (event) => events.go(this.placeOf(event)[0] * data.window));
    this.map.addEventListener("keydown", (event) => this.key(event));
    document.getElementById("whole").addEventListener("click", () => this.zoom(0, data.blocks));
    document.addEventListener("theme", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.plots);
  }
  array(name = this.quantity.name) { return this.data.arrays[`${name}_${this.layer}`]; }
  get width() { return Math.max(50, this.plots.clientWidth - AXIS); }
  zoom(from, to) {
    const least = Math.min(this.data.blocks, 8), middle = (from + to) / 2;
    if (to - from < least) [from, to] = [middle - least / 2, middle + least / 2];
    from = Math.max(0, Math.min(Math.floor(from), this.data.blocks - least));
    this.range = [from, Math.min(this.data.blocks, Math.max(Math.ceil(to), from + least))];
    this.draw();
  }
  show(token) { // moves the view to a token outside it
    const block = Math.floor(token / this.data.window), [from, to] = this.range;
    if (block < from || block >= to) this.zoom(block - (to - from) / 2, block + (to - from) / 2);
  }
  draw() {
    if (!this.shade || this.plots.clientWidth === 0) return;
    this.drawChart();
    this.drawMap();
    this.mark(...this.marked ?? [0, 0]);
    document.getElementById("whole").disabled = this.range[1] - this.range[0] === this.data.blocks;
  }
  // Means over as many blocks as one point of the chart stands for.
  series() {
    const { data, shade, range: [from, to] } = this, size = Math.max(1, Math.ceil((to - from) / 300));
    const curves = shade.name === "loss"
      ? [["with memory", "carried", 0], ["without memory", "cleared", 1], ["another document's memory", "swapped", 2]]
      : [["saved over no memory", "cleared", 0], ["saved over another document's memory", "swapped", 2]];
    const shown = curves.filter(([, name]) => name in data.arrays);
    const x = [], rows = shown.map(() => []);
    for (let block = from; block < to; block += size) {
      const a = block * data.window, b = Math.min(Math.min(block + size, to) * data.window, data.count);
      x.push((a + b) / 2);
      shown.forEach(([, name], k) => rows[k].push(
        shade.name === "loss" ? data.meanOf(name, a, b) : data.meanOf(name, a, b) - data.meanOf("carried", a, b)));
    }
    return { shown, values: [x, ...rows], size };
  }
  drawChart() {
    const { data, range: [from, to], shade } = this, { shown, values } = this.series();
    const label = shade.name === "loss" ? "bits per token" : "bits saved";
    this.chart?.destroy();
    const options = {
      width: this.width + AXIS, height: CHART_HEIGHT, padding: [6, 0, 0, 0], legend: { show: false },
      scales: { x: { time: false, range: () => [from * data.window, to * data.window] } },
      axes: [plainAxis("", { size: 24, labelSize: 0, values: (_, ticks) => ticks.map((tick) => tick > data.window * (to - 0.04 * (to - from)) ? "" : COUNT.format(tick)) }),
        plainAxis(label, { size: AXIS - 20, space: 28 })],
      series: [{}, ...shown.map(([name, , slot]) => ({ label: name, ...lineStyle(slot), points: { show: values[0].length < 2 } }))],
      cursor: { y: false, drag: { x: true, y: false, setScale: false }, points: { show: false } },
      hooks: { setSelect: [(chart) => this.selected(chart)], setCursor: [(chart) => this.follow(chart)] },
    };
    this.chart = new uPlot(options, values, document.getElementById("chart"));
    this.chart.over.setAttribute("role", "img");
    this.chart.over.setAttribute("aria-label", `${label} along the text, ${shown.map(([name]) => name).join(", ")}`);
    this.chart.over.addEventListener("click", (event) => {
      if (!this.dragged) this.events.go(Math.floor(this.chart.posToVal(event.offsetX, "x")));
      this.dragged = false;
    });
    drawKeys(this.keys, this.chart, shown.map(([label, , style]) => ({ label, style })));
  }
  selected(chart) {
    const { left, width } = chart.select;
    if (width < 4) return;
    this.dragged = true;
    const blocks = [left, left + width].map((x) => chart.posToVal(x, "x") / this.data.window);
    setTimeout(() => { this.zoom(...blocks); this.dragged = false; });
  }
  follow(chart) {
    const token = showValues(this.keys, chart);
    this.readout.textContent = token === null ? "" : `around token ${COUNT.format(Math.round(token))}`;
  }
  // The part of the text in view, in tokens.
  mark(first, last) {
    this.marked = [first, last];
    const { data, range: [from, to] } = this, here = document.getElementById("here");
    const place = (token) => Math.min(1, Math.max(0, (token / data.window - from) / (to - from)));
    const [left, right] = [place(first), place(last + 1)].map((share) => share * this.width);
    here.style.left = `${AXIS + Math.min(left, this.width - 3)}px`;
    here.style.width = `${Math.max(3, right - left)}px`;
    here.hidden = last < from * data.window || first >= to * data.window;
  }
  scaleOf(values) {
    if (this.quantity.name === "keep") {
      let low = Infinity, high = -Infinity;
      for (const q of values.q) { if (q < low) low = q; if (q > high) high = q; }
      return [values.scale * low, values.scale * high];
    }
    const most = percentile(values.q.length, (i) => values.at(0, i), 0.99) || 1e-6;
    // Evenly spread attention is in the middle of the scale at most.
    return [0, this.quantity.name === "attention" ? Math.max(most, 2 / values.columns) : most];
  }
  drawMap() {
    const { map, width, range: [from, to] } = this, values = this.array(), states = values.columns;
    const columns = Math.min(to - from, Math.round(width)), [low, high] = this.scaleOf(values);
    const colors = ramp(), image = new ImageData(columns, states), pixels = new Uint32Array(image.data.buffer);
    for (let column = 0; column < columns; column++) {
      const a = from + Math.floor(column * (to - from) / columns), b = from + Math.floor((column + 1) * (to - from) / columns);
      for (let state = 0; state < states; state++) {
        let sum = 0;
        for (let block = a; block < b; block++) sum += values.at(block, state);
        const share = high > low ? (sum / (b - a) - low) / (high - low) : 0.5;
        pixels[state * columns + column] = colors[Math.round(255 * Math.min(1, Math.max(0, share)))];
      }
    }
    this.fit(map, MAP_HEIGHT).drawImage(canvasOf(image), 0, 0, map.width, map.height);
    const isEven = number(low) === number(high), { unit } = this.quantity;
    drawScale("map-scale", colors, isEven ? "" : number(low), `${number(high)} ${unit}${isEven ? ", everywhere" : ""}`);
    document.getElementById("states-label").lastChild.textContent = states - 1;
    this.drawFound();
  }
  fit(canvas, height) {
    canvas.width = Math.round(this.width * devicePixelRatio);
    canvas.height = Math.round(height * devicePixelRatio);
    Object.assign(canvas.style, { width: `${this.width}px`, height: `${height}px`, marginLeft: `${AXIS}px` });
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    return context;
  }
  drawFound(tokens = this.found ?? []) {
    this.found = tokens;
    const canvas = document.getElementById("found"), context = this.fit(canvas, 7), [from, to] = this.range;
    context.fillStyle = color("--c1");
    for (const token of tokens) {
      const x = (token / this.data.window - from) / (to - from) * canvas.width;
      context.fillRect(x, 0, 2 * devicePixelRatio, canvas.height);
    }
  }
  placeOf(event) {
    const box = this.map.getBoundingClientRect(), [from, to] = this.range, states = this.array().columns;
    const share = (value, size) => Math.min(0.9999, Math.max(0, value / size));
    return [Math.floor(from + share(event.clientX - box.left, box.width) * (to - from)),
      Math.floor(share(event.clientY - box.top, box.height) * states)];
  }
  point(block, state) {
    const { data } = this, first = block * data.window, last = Math.min(first + data.window, data.count);
    this.cursor = [block, state];
    const value = this.array().at(block, state);
    const shown = this.quantity.name === "change" ? value.toFixed(3) : percent(value);
    this.readout.textContent = `block ${COUNT.format(block + 1)}, tokens ${COUNT.format(first + 1)} – ` +
      `${COUNT.format(last)}, state ${state}: ${shown} ${this.quantity.unit}`;
    return this.readout.textContent;
  }
  key(event) {
    let [block, state] = this.cursor;
    if (event.key === "Enter") this.events.go(block * this.data.window);
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const inside = (value, count) => Math.min(count - 1, Math.max(0, value));
    block = inside(block + step[0], this.data.blocks);
    state = inside(state + step[1], this.array().columns);
    this.show(block * this.data.window);
    document.getElementById("spoken").textContent = this.point(block, state);
  }
}

function number(value) { return value === 0 ? "0" : value.toPrecision(2); }

// 256 colours of the map, from low to high, as the integers of an ImageData.
function ramp() {
  const context = Object.assign(document.createElement("canvas"), { width: 256, height: 1 }).getContext("2d");
  const gradient = context.createLinearGradient(0, 0, 255, 0);
  ["--map0", "--map1", "--map2"].forEach((name, index) => gradient.addColorStop(index / 2, color(name)));
  context.fillStyle = gradient;
  context.fillRect(0, 0, 256, 1);
  return new Uint32Array(context.getImageData(0, 0, 256, 1).data.buffer);
}

function canvasOf(image) {
  const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function drawScale(id, colors, low, high) {
  const [left, canvas, right] = document.getElementById(id).children;
  [left.textContent, right.textContent] = [low, high];
  canvas.width = colors.length;
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(colors.buffer.slice(0)), colors.length, 1), 0, 0);
}
