// The page of a server: asks it to read a text or to go on with it, and shows what comes.

const REDRAW = 200; // milliseconds between two drawings of a text that is being read
const by = (id) => document.getElementById(id);

// The events of an answer, one by one.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the server has ended its answer too early");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const each of events) {
      const content = each.slice("data: ".length);
      if (content === "[DONE]") return;
      yield JSON.parse(content);
    }
  }
}

class LivePage {
  constructor() {
    this.data = this.page = this.source = this.asking = this.drawing = null;
    this.follows = true; // whether the view stays at the end of the text: until one goes elsewhere
    this.isNew = true; // whether the text that comes is another one than the one that is shown
    by("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.run(this.wholeText());
    });
    by("go-on").addEventListener("click", () => {
      if (by("ask").reportValidity()) this.run({ ...this.textSoFar(), ...this.options() });
    });
    by("stop").addEventListener("click", () => this.asking.abort());
    by("file").addEventListener("change", async ({ target }) => {
      const [file] = target.files;
      if (file) by("given").value = await file.text();
    });
    for (const type of ["wheel", "touchmove", "pointerdown", "keydown"]) {
      const stay = () => (this.follows = false);
      for (const id of ["text", "plots", "token", "search"]) {
        by(id).addEventListener(type, stay, { passive: true });
      }
    }
    by("unlock")?.addEventListener("submit", (event) => event.preventDefault());
  }
  wholeText() {
    this.source = by("given").value;
    this.isNew = true;
    return { prompt: this.source.toWellFormed() };
  }
  // The tokens that have been read, or the text of the box if it is another one.
  textSoFar() {
    if (this.isNew || by("given").value !== this.source) return this.wholeText();
    return { prompt: Array.from(this.data.arrays.tokens.q), known: this.data.count };
  }
  options() {
    const options = {};
    for (const id of ["max_tokens", "temperature", "top_p", "seed"]) {
      if (by(id).value !== "") options[id] = by(id).valueAsNumber;
    }
    return options;
  }
  async run(body) {
    this.asking = new AbortController();
    this.follows = true;
    this.setBusy(true);
    this.say("");
    const [message, isError] = await this.follow(body, this.asking.signal).then(
      (last) => [last, false],
      (error) => (error.name === "AbortError" ? ["stopped", false] : [error.message, true]),
    );
    this.draw();
    this.setBusy(false);
    this.say(message, isError);
  }
  // Shows what the server answers. Returns what there is to say at the end.
  async follow(body, signal) {
    const headers = { "Content-Type": "application/json" };
    if (by("key")) headers.Authorization = `Bearer ${by("key").value}`;
    const request = { method: "POST", headers, body: JSON.stringify(body), signal };
    const response = await fetch("/v1/readings", request).catch((error) => {
      throw error.name === "AbortError" ? error : new Error("the server cannot be reached");
    });
    if (!response.ok) {
      const { error } = await response.json().catch(() => ({})); // a proxy may answer otherwise
      throw new Error(error?.message ?? `the server's answer has the status ${response.status}`);
    }
    let message = "";
    for await (const event of eventsOf(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.part) this.put(event.first, await unpack(event.part));
      Object.assign(by("progress"), { max: event.tokens, value: event.read });
      message = `${COUNT.format(event.read)} of ${COUNT.format(event.tokens)} tokens read`;
      if (event.end === "stop") message = "the model has ended the document";
      this.say(message);
    }
    return message;
  }
  put(first, content) {
    if (this.isNew) this.begin(content);
    else this.data.put(first, content);
    this.drawing ??= setTimeout(() => this.draw(), REDRAW);
  }
  begin(content) {
    this.isNew = by("source").open = false;
    if (!this.data) this.data = new TextDocument(content);
    else {
      this.data.begin(content);
      this.page.begin();
    }
  }
  draw() {
    clearTimeout(this.drawing);
    this.drawing = null;
    if (!this.data) return;
    root.dataset.ready = "true";
    this.page ??= new MemoryPage(this.data);
    const { text } = this.page;
    this.page.update();
    // The chart takes its place only now.
    if (this.follows) requestAnimationFrame(() => text.box.scrollTo(0, text.box.scrollHeight));
  }
  setBusy(isBusy) {
    by("progress").hidden = !isBusy;
    by("progress").removeAttribute("value");
    by("read").disabled = by("go-on").disabled = isBusy;
    by("stop").disabled = !isBusy;
    by("status").ariaLive = isBusy ? "off" : "polite"; // screen readers tell only how it ended
  }
  say(text, isError = false) {
    by("status").textContent = text;
    by("status").classList.toggle("failed", isError);
  }
}

const live = new LivePage();
