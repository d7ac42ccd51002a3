// The page of a text that is in the page.

unpack(document.getElementById("data").textContent).then((content) => {
  new MemoryPage(new TextDocument(content));
  root.dataset.ready = "true";
});
