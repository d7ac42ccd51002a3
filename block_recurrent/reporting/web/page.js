// The switch between light and dark, and the colours of the page for what is drawn on a canvas.

const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");

function stored(value) {
  try {
    // a page that is opened as a file may have no storage
    if (value) localStorage.setItem("theme", value);
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}

function setTheme(theme) {
  root.dataset.theme = theme;
  document.getElementById("theme").textContent = theme === "dark" ? "Light" : "Dark";
  document.dispatchEvent(new Event("theme"));
}

function color(name) {
  return getComputedStyle(root).getPropertyValue(name).trim();
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

document.getElementById("theme").addEventListener("click", () => {
  const theme = root.dataset.theme === "dark" ? "light" : "dark";
  stored(theme);
  setTheme(theme);
});
dark.addEventListener("change", () => {
  if (!stored()) setTheme(dark.matches ? "dark" : "light");
});
setTheme(stored() || (dark.matches ? "dark" : "light"));
