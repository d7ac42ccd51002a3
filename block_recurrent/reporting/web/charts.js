// Line charts by uPlot: axes with units, and lines that differ in colour, dashes and markers.

const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]];
const FONT = "12px system-ui, sans-serif";
const COUNT = new Intl.NumberFormat("en", { maximumFractionDigits: 3 });

function plainAxis(label, more = {}) {
  const stroke = () => color("--line");
  return {
    label,
    labelSize: 20,
    labelGap: 0,
    labelFont: FONT,
    font: FONT,
    stroke: () => color("--soft"),
    grid: { stroke, width: 0.5 },
    ticks: { stroke, width: 1, size: 4 },
    ...more,
  };
}

function lineStyle(style) {
  return {
    stroke: () => color(`--c${style % 8}`),
    dash: DASHES[(Math.floor(style / 8) + style) % 4],
    width: 1.8,
  };
}

// Markers: circle, square, triangle, diamond, centred on (x, y).
function addShape(path, shape, x, y, r) {
  if (shape % 4 === 0) {
    path.moveTo(x + r, y);
    path.arc(x, y, r, 0, 2 * Math.PI);
    return;
  }
  const corners = [
    [
      [-1, -1],
      [1, -1],
      [1, 1],
      [-1, 1],
    ],
    [
      [0, -1.2],
      [1.2, 1],
      [-1.2, 1],
    ],
    [
      [0, -1.4],
      [1.4, 0],
      [0, 1.4],
      [-1.4, 0],
    ],
  ];
  corners[(shape % 4) - 1].forEach(([dx, dy], index) =>
    path[index ? "lineTo" : "moveTo"](x + r * dx, y + r * dy),
  );
  path.closePath();
}

function markers(line) {
  if (line.marker === null) return { show: false };
  const fill = () => color(`--c${line.style % 8}`);
  const paths = (chart, series) => {
    const path = new Path2D();
    const [x, y] = [chart.data[0], chart.data[series]];
    y.forEach((value, index) => {
      if (value != null)
        addShape(
          path,
          line.marker,
          chart.valToPos(x[index], "x", true),
          chart.valToPos(value, "y", true),
          3.2 * devicePixelRatio,
        );
    });
    return { fill: path, stroke: path };
  };
  return { show: true, paths, fill, stroke: fill, width: 1 };
}

// 1024 as 1k, 2²⁰ as 1M.
function thousands(value) {
  const [size, unit] = value >= 2 ** 20 ? [2 ** 20, "M"] : value >= 2 ** 10 ? [2 ** 10, "k"] : [1, ""];
  return `${+(value / size).toPrecision(3)}${unit}`;
}

// The keys of a chart: a sample of each line, its value under the pointer, and a button that hides it.
function drawKeys(list, chart, lines) {
  list.replaceChildren(
    ...lines.map((line, index) => {
      const button = element("button", { type: "button", title: "Show or hide" });
      button.append(sample(line), line.label, element("output", {}));
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        const show = !chart.series[index + 1].show;
        button.setAttribute("aria-pressed", `${show}`);
        chart.setSeries(index + 1, { show });
      });
      return element("li", {}, button);
    }),
  );
}

function sample(line) {
  const name = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(name, "svg");
  const add = (kind, attributes) => {
    const made = svg.appendChild(document.createElementNS(name, kind));
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  };
  const paint = `var(--c${line.style % 8})`;
  for (const [key, value] of Object.entries({ width: 32, height: 12, "aria-hidden": "true" }))
    svg.setAttribute(key, value);
  add("line", {
    x1: 0,
    x2: 32,
    y1: 6,
    y2: 6,
    "stroke-width": 2,
    stroke: paint,
    "stroke-dasharray": lineStyle(line.style).dash.join(" "),
  });
  if (line.marker != null) {
    const corner = {
      path: "",
      moveTo(x, y) {
        this.path += `M${x} ${y}`;
      },
      lineTo(x, y) {
        this.path += `L${x} ${y}`;
      },
      arc(x, y, r) {
        this.path += `a${r} ${r} 0 1 1 ${-2 * r} 0a${r} ${r} 0 1 1 ${2 * r} 0`;
      },
      closePath() {
        this.path += "Z";
      },
    };
    addShape(corner, line.marker, 16, 6, 4);
    add("path", { d: corner.path, fill: paint });
  }
  return svg;
}

// Shows the values under the pointer in the keys. Lines may have no value at this x.
function showValues(list, chart) {
  const index = chart.cursor.left < 0 ? null : chart.cursor.idx;
  [...list.children].forEach((item, k) => {
    const value = index === null ? null : chart.data[k + 1][index];
    item.querySelector("output").textContent = value == null ? "" : value.toPrecision(4);
  });
  return index === null ? null : chart.data[0][index];
}

function drawMarks(chart, marks) {
  const {
    ctx: context,
    bbox: { left, top, width, height },
  } = chart;
  const ratio = devicePixelRatio;
  context.save();
  Object.assign(context, {
    strokeStyle: color("--soft"),
    fillStyle: color("--soft"),
    lineWidth: ratio,
    font: `${11 * ratio}px system-ui, sans-serif`,
  });
  context.setLineDash([2 * ratio, 3 * ratio]);
  for (const [name, position] of Object.entries(marks)) {
    const x = chart.valToPos(position, "x", true);
    if (x < left || x > left + width) continue;
    context.beginPath();
    context.moveTo(x, top);
    context.lineTo(x, top + height);
    context.stroke();
    context.fillText(name, x + 4 * ratio, top + 11 * ratio);
  }
  context.restore();
}

function drawChart(figure) {
  const { caption, x_label, y_label, lines, is_log, is_stepped, marks } = JSON.parse(figure.dataset.chart);
  const keys = element("ul", { className: "keys" });
  const place = element("div", {});
  const where = element("output", { className: "where" });
  figure.prepend(keys, place, where);
  const style = (line) => ({
    label: line.label,
    ...lineStyle(line.style),
    points: markers(line),
    ...(is_stepped && { paths: uPlot.paths.stepped({ align: 1 }) }),
  });
  const ticks = is_log
    ? {
        values: (_, all) => all.map((tick) => (Math.log2(tick) % 2 === 0 ? thousands(tick) : "")),
        grid: { show: false },
      }
    : { values: (_, all) => all.map((tick) => COUNT.format(tick)) };
  const options = {
    width: figure.clientWidth,
    height: 300,
    legend: { show: false },
    padding: [10, 16, 0, 0],
    scales: { x: { time: false, ...(is_log && { distr: 3, log: 2 }) } },
    axes: [plainAxis(x_label, { size: 34, ...ticks }), plainAxis(y_label, { size: 52 })],
    series: [{}, ...lines.map(style)],
    cursor: { y: false, points: { show: !is_stepped } },
    hooks: {
      draw: [(chart) => drawMarks(chart, marks)],
      setCursor: [
        (chart) => {
          const x = showValues(keys, chart);
          where.textContent = x === null ? "" : `${x_label}: ${COUNT.format(x)}`;
        },
      ],
    },
  };
  const chart = new uPlot(options, uPlot.join(lines.map(({ x, y }) => [x, y])), place);
  chart.over.setAttribute("role", "img");
  chart.over.setAttribute("aria-label", caption);
  drawKeys(keys, chart, lines);
  document.addEventListener("theme", () => chart.redraw());
  new ResizeObserver(() => chart.setSize({ width: figure.clientWidth, height: 300 })).observe(figure);
}

document.querySelectorAll("[data-chart]").forEach(drawChart);
