// The text, shaded token by token. Only the lines in view are in the page.

const LINE = 24; // pixels, as in the style sheet
const GUTTER = 100;
const OVERSCAN = 4; // lines above and below the view

function widthOf(code) {
  if (code === 9) return 4;
  const wide =
    (code >= 0x1100 && code < 0x1160) ||
    (code >= 0x2e80 && code < 0xa4d0) ||
    (code >= 0xac00 && code < 0xd7a4) ||
    (code >= 0xf900 && code < 0xfb00) ||
    (code >= 0xd800 && code < 0xdc00) ||
    (code >= 0xfe30 && code < 0xfe70) ||
    (code >= 0xff00 && code < 0xff61);
  return wide ? 2 : code >= 0xdc00 && code < 0xe000 ? 0 : 1;
}

class TextView {
  // events: { point(token or null), choose(token), scroll() }
  constructor(data, events) {
    this.data = data;
    this.events = events;
    this.box = document.getElementById("text");
    this.lines = document.getElementById("lines");
    this.chosen = this.written = null;
    this.matches = { starts: [], length: 0 };
    const tokenOf = (event) => event.target.dataset?.token;
    this.box.addEventListener("scroll", () => {
      this.render();
      events.scroll();
    });
    this.box.addEventListener("pointerover", (event) =>
      events.point(tokenOf(event) ? +tokenOf(event) : null),
    );
    this.box.addEventListener("pointerleave", () => events.point(null));
    this.box.addEventListener("click", (event) => {
      if (tokenOf(event)) events.choose(+tokenOf(event));
    });
    this.box.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.layout()).observe(this.box);
  }
  // Shows a text that has changed.
  update() {
    this.columns = null;
    this.layout();
  }
  layout() {
    const probe = this.lines.appendChild(element("span", { textContent: "0".repeat(50) }));
    const columns = Math.max(
      20,
      Math.floor((this.box.clientWidth - GUTTER) / (probe.getBoundingClientRect().width / 50)),
    );
    probe.remove();
    if (columns !== this.columns) {
      const top = this.lineStarts?.[this.topLine()];
      this.columns = columns;
      this.lineStarts = this.breakLines();
      this.lines.style.height = `${this.lineStarts.length * LINE}px`;
      if (top) this.box.scrollTop = this.lineOf(top) * LINE;
    }
    this.render();
  }
  // Where lines begin: after every line feed, and where a line is full, if possible after a space.
  breakLines() {
    const text = this.data.text;
    const starts = [0];
    let width = 0;
    let space = 0;
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      const own = widthOf(code);
      if (width + own > this.columns && code !== 10) {
        const start = starts[starts.length - 1];
        const next = space > start + (i - start) / 2 ? space : i;
        starts.push(next);
        width = 0;
        for (let k = next; k < i; k++) width += widthOf(text.charCodeAt(k));
      }
      width += own;
      if (code === 32) space = i + 1;
      if (code === 10 && i + 1 < text.length) {
        starts.push(i + 1);
        width = 0;
      }
    }
    return starts;
  }
  lineOf(letter) {
    return firstAbove(this.lineStarts, letter) - 1;
  }
  topLine() {
    return Math.floor(this.box.scrollTop / LINE);
  }
  // The first and the last token in view.
  range() {
    const { lineStarts, data } = this;
    const last = Math.min(lineStarts.length, this.topLine() + Math.ceil(this.box.clientHeight / LINE));
    return [
      data.tokenAt(lineStarts[this.topLine()] ?? 0),
      data.tokenAt((lineStarts[last] ?? data.text.length) - 1),
    ];
  }
  render() {
    if (!this.lineStarts) return;
    const first = Math.max(0, this.topLine() - OVERSCAN);
    const last = Math.min(
      this.lineStarts.length,
      first + Math.ceil(this.box.clientHeight / LINE) + 2 * OVERSCAN,
    );
    const made = [];
    for (let line = first; line < last; line++) made.push(this.line(line));
    this.lines.replaceChildren(...made);
  }
  line(index) {
    const { data } = this;
    const from = this.lineStarts[index];
    const to = this.lineStarts[index + 1] ?? data.text.length;
    const made = element("div", { className: "line" });
    made.style.top = `${index * LINE}px`;
    let token = data.tokenAt(from);
    made.append(element("i", { textContent: COUNT.format(token + 1) }));
    for (; token < data.count && data.starts[token] < to; token++) {
      const start = Math.max(from, data.starts[token]);
      const end = Math.min(to, data.starts[token + 1]);
      if (start < end) made.append(this.span(token, start, end));
    }
    return made;
  }
  span(token, start, end) {
    const { data } = this;
    const text = data.text.slice(start, end);
    const classes = [data.shadeClass(this.shade, token)];
    if (text.endsWith("\n")) classes.push("end");
    if (token % data.window === 0) classes.push("first");
    if (token === this.chosen) classes.push("chosen");
    if (this.written !== null && Math.floor(token / data.window) === this.written) classes.push("written");
    if (this.isFound(start, end)) classes.push("found");
    const made = element("span", { className: classes.join(" "), textContent: text.replaceAll("\n", "↵") });
    made.dataset.token = token;
    return made;
  }
  isFound(start, end) {
    const { starts, length } = this.matches;
    const before = firstAbove(starts, end - 1) - 1;
    return before >= 0 && starts[before] + length > start;
  }
  // Brings a token into view, in the middle unless it is there already.
  show(token) {
    const top = this.lineOf(this.data.starts[token]) * LINE;
    const height = this.box.clientHeight;
    if (top < this.box.scrollTop || top + LINE > this.box.scrollTop + height) {
      this.box.scrollTop = top - Math.floor(height / LINE / 2) * LINE;
    }
    this.render();
  }
  key(event) {
    const { data, lineStarts } = this;
    const token = this.chosen ?? this.range()[0];
    const page = Math.max(1, Math.floor(this.box.clientHeight / LINE) - 2);
    const moved = (lines) => {
      const line = this.lineOf(data.starts[token]);
      const next = Math.min(lineStarts.length - 1, Math.max(0, line + lines));
      const column = data.starts[token] - lineStarts[line];
      return data.tokenAt(
        Math.min(lineStarts[next] + column, (lineStarts[next + 1] ?? data.text.length) - 1),
      );
    };
    const step = this.chosen === null ? 0 : 1;
    const to = {
      ArrowRight: () => token + step,
      ArrowLeft: () => token - step,
      ArrowDown: () => moved(step),
      ArrowUp: () => moved(-step),
      PageDown: () => moved(page),
      PageUp: () => moved(-page),
      Home: () => 0,
      End: () => data.count - 1,
    }[event.key];
    if (!to || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.events.choose(Math.min(data.count - 1, Math.max(0, to())), true);
  }
}
