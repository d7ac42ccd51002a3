// The document: its tokens, where they stand in the text, and how they are shaded.

const SHADES = 12; // steps of a scale, on each side of zero

function firstAbove(sorted, value) {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] > value) high = middle;
    else low = middle + 1;
  }
  return low;
}

function percentile(count, value, share) {
  const step = Math.max(1, Math.floor(count / 20000));
  const sample = [];
  for (let i = 0; i < count; i += step) sample.push(value(i));
  return sample.sort((a, b) => a - b)[Math.floor(share * (sample.length - 1))] ?? 0;
}

class TextDocument {
  // The content is what `unpack` returns.
  constructor(content) {
    this.starts = new Uint32Array(1); // of each token, in the text
    this.begin(content);
    this.shades = [
      { name: "loss", label: "Loss", unit: "bits", diverging: false },
      { name: "cleared", label: "Saved by memory", unit: "bits saved", diverging: true },
      { name: "swapped", label: "Saved over another's", unit: "bits saved", diverging: true },
    ].filter(({ name }) => name === "loss" || name in this.arrays);
  }
  // Takes another text of the same model.
  begin({ about, text, arrays }) {
    Object.assign(this, about, { text, arrays });
    this.measure(0);
  }
  // Replaces the text from a token on, the first of a block.
  put(first, { about, text, arrays }) {
    Object.assign(this.labels, about.labels);
    this.text = this.text.slice(0, this.starts[first]) + text;
    for (const [name, values] of Object.entries(arrays)) {
      const isByBlock = QUANTITIES.some((quantity) => name.startsWith(`${quantity.name}_`));
      this.arrays[name].put(isByBlock ? first / this.window : first, values);
    }
    this.measure(first);
  }
  measure(first) {
    const { lengths } = this.arrays;
    this.count = lengths.rows;
    this.blocks = Math.ceil(this.count / this.window);
    const starts = new Uint32Array(this.count + 1);
    starts.set(this.starts.subarray(0, first + 1));
    for (let t = first; t < this.count; t++) starts[t + 1] = starts[t] + lengths.q[t];
    this.starts = starts;
  }
  // Fits the scales of the shades to all that has been read.
  fitShades() {
    for (const shade of this.shades) {
      const size = (t) => Math.abs(this.value(shade.name, t));
      shade.most = Math.max(percentile(this.count, size, 0.98), 0.01);
    }
  }
  // The value that a token is shaded by, in bits.
  value(shade, token) {
    const loss = this.arrays.carried.at(token);
    return shade === "loss" ? loss : this.arrays[shade].at(token) - loss;
  }
  // The mean loss of the tokens from … to − 1 with a memory.
  meanOf(memory, from, to) {
    let sum = 0;
    for (let t = from; t < to; t++) sum += this.arrays[memory].at(t);
    return sum / Math.max(1, to - from);
  }
  // The class of the token's colour: s1 … s12, m1 … m12 below zero, or none.
  shadeClass(shade, token) {
    const step = Math.round((SHADES * this.value(shade.name, token)) / shade.most);
    if (!step) return "";
    return (step < 0 ? "m" : shade.diverging ? "p" : "s") + Math.min(SHADES, Math.abs(step));
  }
  // The token that holds a letter of the text; letters belong to the token that completes them.
  tokenAt(letter) {
    return Math.min(this.count - 1, firstAbove(this.starts, letter) - 1);
  }
  piece(token) {
    return this.text.slice(this.starts[token], this.starts[token + 1]);
  }
  excerpt(block, length = 60) {
    const from = this.starts[block * this.window];
    return visible(this.text.slice(from, from + length));
  }
  label(id) {
    return this.labels[id] ?? `#${id}`;
  }
}

// White space and control characters as signs that can be seen.
function visible(text) {
  return text
    .replaceAll("\n", "↵")
    .replaceAll("\t", "⇥")
    .replace(/^ | $/g, "␣")
    .replace(/[\u0000-\u001f\u007f]/g, "·");
}

const signed = (value, digits) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
const percent = (value) => `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)}%`;
