"use strict";
// Parts of every page: light and dark themes, texts to copy. All text is inserted as text, never as markup.
const $ = (id) => document.getElementById(id);

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// Figures exist in both themes.
function paint() {
  const dark = document.documentElement.dataset.theme === "dark";
  for (const image of document.querySelectorAll("img[data-base]")) image.src = `${image.dataset.base}${dark ? ".dark" : ""}.svg`;
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  paint();
}

const system = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
theme(system.matches ? "dark" : "light");
system.addEventListener("change", () => { if (!chosen) theme(system.matches ? "dark" : "light"); });
$("theme").addEventListener("click", () => { chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark"; theme(chosen); });

// Some browsers do not allow a page from disk to use the clipboard; a selection can always be copied.
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.addEventListener("click", () => {
    getSelection().selectAllChildren($(button.dataset.copy));
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
