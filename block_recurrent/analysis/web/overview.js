// The whole document, or the part that is zoomed in on: the chart and the map, one above the other.

const AXIS = 58; // pixels to the left of the chart and of the map

class Overview {
  // events: { go(token) }
  constructor(data, events) {
    const { blocks } = data;
    Object.assign(this, { data, events, blocks, range: [0, blocks], seen: [0, 0], found: [] });
    this.plots = document.getElementById("plots");
    this.chart = new MemoryChart(this);
    this.map = new StateMap(this);
    document.getElementById("whole").addEventListener("click", () => this.zoom(0, data.blocks));
    document.addEventListener("theme", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.plots);
  }
  get width() {
    return Math.max(50, this.plots.clientWidth - AXIS);
  }
  // Shows a document that has changed: the same part of it, or all of it as before.
  update() {
    const [from, to] = this.range;
    const isWhole = to - from === this.blocks;
    this.blocks = this.data.blocks;
    if (isWhole) this.zoom(0, this.blocks);
    else this.zoom(from, to);
  }
  // Shows these blocks, at least eight.
  zoom(from, to) {
    const { blocks } = this.data;
    const least = Math.min(blocks, 8);
    const more = Math.max(0, least - (to - from)) / 2;
    const first = Math.max(0, Math.min(Math.floor(from - more), blocks - least));
    this.range = [first, Math.min(blocks, Math.max(Math.ceil(to + more), first + least))];
    this.draw();
  }
  // Moves the view to a token that is outside it.
  show(token) {
    const block = Math.floor(token / this.data.window);
    const [from, to] = this.range;
    if (block < from || block >= to) this.zoom(block - (to - from) / 2, block + (to - from) / 2);
  }
  tell(text) {
    document.getElementById("readout").textContent = text;
  }
  draw() {
    if (!this.shade || !this.map.quantity || this.plots.clientWidth === 0) return;
    this.chart.draw(this.shade);
    this.map.draw();
    this.markFound(this.found);
    this.markSeen(...this.seen);
    document.getElementById("whole").disabled = this.range[1] - this.range[0] === this.data.blocks;
  }
  // Marks the tokens that the text below shows.
  markSeen(first, last) {
    this.seen = [first, last];
    const { data, width } = this;
    const [from, to] = this.range;
    const here = document.getElementById("here");
    const place = (token) => width * Math.min(1, Math.max(0, (token / data.window - from) / (to - from)));
    const [left, right] = [place(first), place(last + 1)];
    here.style.left = `${AXIS + Math.min(left, width - 3)}px`;
    here.style.width = `${Math.max(3, right - left)}px`;
    here.hidden = last < from * data.window || first >= to * data.window;
  }
  // Marks the tokens that a search found.
  markFound(tokens) {
    this.found = tokens;
    const [from, to] = this.range;
    const canvas = document.getElementById("found");
    const context = this.fit(canvas, 7);
    context.fillStyle = color("--c1");
    for (const token of tokens) {
      const x = ((token / this.data.window - from) / (to - from)) * canvas.width;
      context.fillRect(x, 0, 2 * devicePixelRatio, canvas.height);
    }
  }
  // Makes a canvas as wide as the chart.
  fit(canvas, height) {
    canvas.width = Math.round(this.width * devicePixelRatio);
    canvas.height = Math.round(height * devicePixelRatio);
    Object.assign(canvas.style, { width: `${this.width}px`, height: `${height}px`, marginLeft: `${AXIS}px` });
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    return context;
  }
}
