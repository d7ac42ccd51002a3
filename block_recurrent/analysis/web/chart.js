// The chart along the text: the loss with each memory, or what memory saves.

const CHART_HEIGHT = 118;
const MAX_POINTS = 300; // of a line; each is a mean over blocks
const LOSSES = [
  { label: "with memory", memory: "carried", style: 0 },
  { label: "without memory", memory: "cleared", style: 1 },
  { label: "another document's memory", memory: "swapped", style: 2 },
];
const SAVINGS = [
  { label: "saved over no memory", memory: "cleared", style: 0 },
  { label: "saved over another document's memory", memory: "swapped", style: 2 },
];

class MemoryChart {
  constructor(overview) {
    this.overview = overview;
    this.keys = document.getElementById("chart-keys");
  }
  lines(shade) {
    const curves = shade.name === "loss" ? LOSSES : SAVINGS;
    return curves.filter(({ memory }) => memory in this.overview.data.arrays);
  }
  values(lines, shade) {
    const { data, range } = this.overview;
    const [from, to] = range;
    const size = Math.max(1, Math.ceil((to - from) / MAX_POINTS));
    const x = [];
    const rows = lines.map(() => []);
    for (let block = from; block < to; block += size) {
      const first = block * data.window;
      const end = Math.min(Math.min(block + size, to) * data.window, data.count);
      const loss = shade.name === "loss" ? 0 : data.meanOf("carried", first, end);
      x.push((first + end) / 2);
      lines.forEach(({ memory }, index) => rows[index].push(data.meanOf(memory, first, end) - loss));
    }
    return [x, ...rows];
  }
  options(lines, label, isPoint) {
    const { data, range, width } = this.overview;
    const [first, end] = range.map((block) => block * data.window);
    const fits = (token) => token <= end - 0.04 * (end - first);
    const values = (_, ticks) => ticks.map((token) => (fits(token) ? COUNT.format(token) : ""));
    const style = (line) => ({ label: line.label, ...lineStyle(line.style), points: { show: isPoint } });
    return {
      width: width + AXIS,
      height: CHART_HEIGHT,
      padding: [6, 0, 0, 0],
      legend: { show: false },
      scales: { x: { time: false, range: () => [first, end] } },
      axes: [
        plainAxis("", { size: 24, labelSize: 0, values }),
        plainAxis(label, { size: AXIS - 20, space: 28 }),
      ],
      series: [{}, ...lines.map(style)],
      cursor: { y: false, drag: { x: true, y: false, setScale: false }, points: { show: false } },
      hooks: { setSelect: [() => this.selected()], setCursor: [() => this.follow()] },
    };
  }
  draw(shade) {
    const lines = this.lines(shade);
    const values = this.values(lines, shade);
    const label = shade.name === "loss" ? "bits per token" : "bits saved";
    this.plot?.destroy();
    const options = this.options(lines, label, values[0].length < 2);
    this.plot = new uPlot(options, values, document.getElementById("chart"));
    const { over } = this.plot;
    over.setAttribute("role", "img");
    over.setAttribute("aria-label", `${label} along the text, ${lines.map((line) => line.label).join(", ")}`);
    over.addEventListener("click", (event) => {
      if (!this.dragged) this.overview.events.go(Math.floor(this.plot.posToVal(event.offsetX, "x")));
      this.dragged = false;
    });
    drawKeys(this.keys, this.plot, lines);
  }
  selected() {
    const { left, width } = this.plot.select;
    if (width < 4) return;
    this.dragged = true;
    const { overview, plot } = this;
    const blocks = [left, left + width].map((x) => plot.posToVal(x, "x") / overview.data.window);
    setTimeout(() => {
      // after the click that ends the drag
      overview.zoom(...blocks);
      this.dragged = false;
    });
  }
  follow() {
    if (!this.plot) return;
    const token = showValues(this.keys, this.plot);
    this.overview.tell(token === null ? "" : `around token ${COUNT.format(Math.round(token))}`);
  }
}
