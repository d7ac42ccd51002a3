// Everything about one token: its loss, what was predicted, the states it reads, and their writes.

class Details {
  // events: { go(token), written(block or null) }
  constructor(data, events) {
    Object.assign(this, { data, events, box: document.getElementById("token"), strong: {} });
    this.clear();
  }
  clear() {
    this.box.replaceChildren(
      element("p", {
        textContent: "No token is chosen yet. Point at one in the text, or click it to hold it.",
      }),
    );
  }
  // How large a change of each state in one block is that counts as a write: its upper tenth.
  thresholds(layer) {
    return (this.strong[layer] ??= (() => {
      const change = this.data.arrays[`change_${layer}`];
      return Array.from({ length: change.columns }, (_, state) =>
        percentile(change.rows, (block) => change.at(block, state), 0.9),
      );
    })());
  }
  // The last strong write of a state before a block, and the share of it that the gates kept since.
  lastWrite(layer, state, block) {
    const change = this.data.arrays[`change_${layer}`];
    const keep = this.data.arrays[`keep_${layer}`];
    const least = this.thresholds(layer)[state];
    let kept = 1;
    for (let earlier = block - 1; earlier >= 0; earlier--) {
      const size = change.at(earlier, state);
      if (size > 0 && size >= least) return { block: earlier, size, kept };
      kept *= keep.at(earlier, state);
    }
    return null;
  }
  show(token, layer) {
    const { data } = this;
    const block = Math.floor(token / data.window);
    this.box.replaceChildren(
      element("h2", { textContent: visible(data.piece(token)) || data.label(data.arrays.tokens.q[token]) }),
      element("p", {
        textContent: `token ${COUNT.format(token + 1)} of ${COUNT.format(data.count)}, block ${COUNT.format(block + 1)}`,
      }),
      element("h3", { textContent: "Loss" }),
      this.losses(token),
      element("h3", { textContent: "Predicted, with memory" }),
      this.predicted(token),
      element("h3", { textContent: `States it reads, layer ${layer}` }),
      this.states(token, layer, block),
    );
  }
  losses(token) {
    const { arrays } = this.data;
    const loss = arrays.carried.at(token);
    const names = { carried: "with memory", cleared: "without memory", swapped: "another's memory" };
    const rows = Object.entries(names)
      .filter(([name]) => name in arrays)
      .map(([name, label]) => {
        const bits = arrays[name].at(token);
        const saved = bits - loss;
        const cells = [
          label,
          bits.toFixed(3),
          percent(2 ** -bits),
          name === "carried" ? "" : signed(saved, 3),
        ];
        return row("td", cells);
      });
    return element("table", {}, row("th", ["", "bits", "probability", "saved"]), ...rows);
  }
  predicted(token) {
    const { tokens, carried, predicted, probabilities } = this.data.arrays;
    const actual = tokens.q[token];
    const own = [actual, 2 ** -carried.at(token)];
    const list = Array.from({ length: predicted.columns }, (_, k) => {
      const id = predicted.q[token * predicted.columns + k];
      return id === actual ? own : [id, probabilities.at(token, k)];
    });
    if (!list.includes(own)) list.push(own);
    return element(
      "table",
      { className: "bars" },
      ...list.map(([id, probability]) => {
        const label = element("code", { textContent: visible(this.data.label(id)) });
        const made = row("td", [label, meter(probability, list[0][1]), percent(probability)]);
        if (id === actual) {
          made.className = "actual";
          label.after(" ✓");
          made.cells[0].title = "the token of the text";
        }
        return made;
      }),
    );
  }
  states(token, layer, block) {
    const { arrays } = this.data;
    const states = arrays[`states_${layer}`];
    const weights = arrays[`weights_${layer}`];
    const items = Array.from({ length: states.columns }, (_, k) => {
      const state = states.q[token * states.columns + k];
      const weight = weights.at(token, k);
      const head = element(
        "div",
        {},
        `state ${state}`,
        element("span", {}, meter(weight, weights.at(token, 0))),
        percent(weight),
      );
      return element("li", {}, head, this.write(this.lastWrite(layer, state, block), token));
    });
    const count = arrays[`change_${layer}`].columns;
    const about =
      `Attention, mean over heads; evenly spread it would be ${percent(1 / count)} for each of ${count} states. ` +
      "Below each state: the last block that changed it strongly (among the upper tenth of its changes).";
    return element("div", {}, element("p", { textContent: about }), element("ul", {}, ...items));
  }
  write(found, token) {
    if (!found) return element("p", { textContent: "no strong write before this block" });
    const { data, events } = this;
    const first = found.block * data.window;
    const button = element(
      "button",
      { type: "button" },
      `block ${COUNT.format(found.block + 1)}, ${COUNT.format(token - first)} tokens back · change ${found.size.toFixed(2)} · ${percent(found.kept)} kept since`,
      element("code", { textContent: data.excerpt(found.block) }),
    );
    button.addEventListener("click", () => events.go(first));
    for (const [type, block] of [
      ["pointerenter", found.block],
      ["focus", found.block],
      ["pointerleave", null],
      ["blur", null],
    ]) {
      button.addEventListener(type, () => events.written(block));
    }
    return button;
  }
  spoken(token) {
    const {
      data,
      data: { arrays },
    } = this;
    const saved = arrays.cleared.at(token) - arrays.carried.at(token);
    return (
      `${visible(data.piece(token)) || data.label(arrays.tokens.q[token])}, token ${token + 1}: ${arrays.carried.at(token).toFixed(2)} bits, ` +
      `memory saves ${saved.toFixed(2)}; most likely ${visible(data.label(arrays.predicted.q[token * arrays.predicted.columns]))}, ${percent(arrays.probabilities.at(token, 0))}`
    );
  }
}

function row(tag, cells) {
  return element("tr", {}, ...cells.map((cell) => element(tag, {}, cell)));
}

function meter(value, most) {
  const bar = element("div", { className: "meter" });
  bar.style.width = `${(100 * value) / Math.max(most, 1e-9)}%`;
  return bar;
}
