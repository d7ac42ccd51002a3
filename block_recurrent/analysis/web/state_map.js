// The map: every state in every block, as colour.

const MAP_HEIGHT = 128;
const QUANTITIES = [
  { name: "attention", label: "Attention", unit: "of the tokens' attention" },
  { name: "change", label: "Change", unit: "change per block, of its norm" },
  { name: "keep", label: "Gate", unit: "of the old state kept" },
];
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

class StateMap {
  constructor(overview) {
    Object.assign(this, { overview, cursor: [0, 0], canvas: document.getElementById("map") });
    const { canvas } = this;
    const go = (block) => overview.events.go(block * overview.data.window);
    canvas.setAttribute("aria-label", "Map of states by block. Arrow keys move, Enter goes to the text");
    canvas.addEventListener("pointermove", (event) => overview.tell(this.point(...this.placeOf(event))));
    canvas.addEventListener("pointerleave", () => overview.tell(""));
    canvas.addEventListener("click", (event) => go(this.placeOf(event)[0]));
    canvas.addEventListener("keydown", (event) => {
      if (event.key === "Enter") go(this.cursor[0]);
      if (event.key in STEPS) this.move(event);
    });
  }
  get values() {
    return this.overview.data.arrays[`${this.quantity.name}_${this.overview.layer}`];
  }
  // The values of the first and the last colour.
  limits() {
    const { values, quantity } = this;
    if (quantity.name === "keep") {
      let [least, most] = [Infinity, 0];
      for (const q of values.q) [least, most] = [Math.min(least, q), Math.max(most, q)];
      return [values.scale * least, values.scale * most];
    }
    const most = percentile(values.q.length, (index) => values.at(0, index), 0.99) || 1e-6;
    // Evenly spread attention is in the middle of the scale at most.
    return [0, quantity.name === "attention" ? Math.max(most, 2 / values.columns) : most];
  }
  draw() {
    const { canvas, values, overview, quantity } = this;
    const [low, high] = this.limits();
    const colors = gradient(["--map0", "--map1", "--map2"].map(color));
    const image = this.image(values, colors, low, high);
    const small = element("canvas", { width: image.width, height: image.height });
    small.getContext("2d").putImageData(image, 0, 0);
    overview.fit(canvas, MAP_HEIGHT).drawImage(small, 0, 0, canvas.width, canvas.height);
    const isEven = number(low) === number(high);
    const unit = quantity.unit + (isEven ? ", everywhere" : "");
    drawScale("map-scale", colors, isEven ? "" : number(low), `${number(high)} ${unit}`);
    document.getElementById("states-label").lastChild.textContent = values.columns - 1;
  }
  // A row for each state. A column is a block, or the mean of several if there are too many.
  image(values, colors, low, high) {
    const [from, to] = this.overview.range;
    const columns = Math.min(to - from, Math.round(this.overview.width));
    const image = new ImageData(columns, values.columns);
    const pixels = new Uint32Array(image.data.buffer);
    const blockOf = (column) => from + Math.floor((column * (to - from)) / columns);
    for (let column = 0; column < columns; column++) {
      const [first, end] = [blockOf(column), blockOf(column + 1)];
      for (let state = 0; state < values.columns; state++) {
        let sum = 0;
        for (let block = first; block < end; block++) sum += values.at(block, state);
        const share = high > low ? (sum / (end - first) - low) / (high - low) : 0.5;
        pixels[state * columns + column] = colors[Math.round(255 * Math.min(1, Math.max(0, share)))];
      }
    }
    return image;
  }
  placeOf(event) {
    const box = this.canvas.getBoundingClientRect();
    const [from, to] = this.overview.range;
    const share = (value, size) => Math.min(0.9999, Math.max(0, value / size));
    return [
      Math.floor(from + share(event.clientX - box.left, box.width) * (to - from)),
      Math.floor(share(event.clientY - box.top, box.height) * this.values.columns),
    ];
  }
  // Moves the cursor, and says what is there.
  point(block, state) {
    const { data } = this.overview;
    const first = block * data.window;
    const last = Math.min(first + data.window, data.count);
    this.cursor = [block, state];
    const value = this.values.at(block, state);
    const shown = this.quantity.name === "change" ? value.toFixed(3) : percent(value);
    const tokens = `${COUNT.format(first + 1)} – ${COUNT.format(last)}`;
    return `block ${COUNT.format(block + 1)}, tokens ${tokens}, state ${state}: ${shown} ${this.quantity.unit}`;
  }
  move(event) {
    event.preventDefault();
    const { overview, values } = this;
    const counts = [overview.data.blocks, values.columns];
    const step = STEPS[event.key];
    const [block, state] = counts.map((count, axis) =>
      Math.min(count - 1, Math.max(0, this.cursor[axis] + step[axis])),
    );
    overview.show(block * overview.data.window);
    const text = this.point(block, state);
    overview.tell(text);
    document.getElementById("spoken").textContent = text;
  }
}
