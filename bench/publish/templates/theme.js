"use strict";
// Light and dark, on every page.
// Figures come in both themes.
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
document.getElementById("theme").addEventListener("click", () => { chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark"; theme(chosen); });
