// The points of figures: pointing, a key or a tap shows the meaning of a point; a click or a second tap shows its row.
const WAY = { mouse: "Click to show its row", pen: "Click to show its row", touch: "Tap again to show its row", key: "Press Enter to show its row" };
const REACH = { mouse: 14, pen: 14, touch: 26 }; // pixels around a point that belong to it
const tip = make("div", null, { class: "tip", "aria-hidden": "true" }); // the labels of the buttons have the same text for screen readers
let told = null; // the button of the shown tip

function showTip(button, kind) {
  if (told === button) return;
  hideTip();
  told = button;
  button.classList.add("told");
  const [model, ...says] = JSON.parse(button.dataset.says);
  tip.replaceChildren(make("strong", model), ...says.map((line) => make("span", line)), make("small", WAY[kind] ?? WAY.mouse));
  const plot = button.closest(".plot");
  plot.append(tip);
  const at = button.offsetLeft + button.offsetWidth / 2, half = tip.offsetWidth / 2;
  tip.style.left = `${Math.max(0, Math.min(plot.clientWidth - tip.offsetWidth, at - half))}px`;
  const above = button.offsetTop - tip.offsetHeight - 8;
  tip.style.top = `${above > -button.closest("figure").offsetHeight / 8 ? above : button.offsetTop + button.offsetHeight + 8}px`;
}

function hideTip() {
  told?.classList.remove("told");
  told = null;
  tip.remove();
}

function nearest(plot, event, kind) {
  let found = null, least = REACH[kind] ?? REACH.mouse;
  for (const button of plot.querySelectorAll(".point")) {
    const box = button.getBoundingClientRect();
    const distance = Math.hypot(Math.max(box.left - event.clientX, 0, event.clientX - box.right), Math.max(box.top - event.clientY, 0, event.clientY - box.bottom));
    // If two points cover the pointer, the one with the nearer centre is chosen.
    const middle = Math.hypot((box.left + box.right) / 2 - event.clientX, (box.top + box.bottom) / 2 - event.clientY) / 1e3;
    if (distance + middle < least) [found, least] = [button, distance + middle];
  }
  return found;
}

// Buttons over the points of a figure, at their boxes in the figure. Tab reaches one of them, arrow keys the others.
function addPoints(plot, title, points, show = goToRow) {
  if (!points.length) return;
  const group = make("div", null, { class: "points", role: "group", "aria-label": `Points of ${title}; use the arrow keys to move between points` });
  const buttons = points.map(({ model, says, box: [x, y, width, height] }, i) => {
    const words = { "aria-label": `${model}: ${says.join("; ")}`, "data-says": JSON.stringify([model, ...says]) };
    const button = make("button", null, { type: "button", class: "point", tabindex: i ? "-1" : "0", "data-model": model, ...words });
    const size = { left: x, top: y, width, height };
    for (const [side, share] of Object.entries(size)) button.style[side] = `${100 * share}%`;
    button.addEventListener("focus", () => { if (button.matches(":focus-visible")) showTip(button, "key"); });
    button.addEventListener("blur", hideTip);
    return button;
  });
  group.append(...buttons);
  plot.append(group);
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const at = buttons.indexOf(document.activeElement), next = Math.max(0, Math.min(buttons.length - 1, at + step));
    buttons[at].tabIndex = -1;
    buttons[next].tabIndex = 0;
    buttons[next].focus();
  });
  let kind = "mouse", before = null;
  plot.addEventListener("pointerdown", (event) => { [kind, before] = [event.pointerType, told]; });
  plot.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch" || tip.contains(event.target)) return;
    const button = nearest(plot, event, event.pointerType);
    plot.classList.toggle("on-point", button !== null);
    if (button) showTip(button, event.pointerType);
    else hideTip();
  });
  plot.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hideTip(); });
  plot.addEventListener("click", (event) => {
    if (tip.contains(event.target)) return;
    const button = event.detail ? nearest(plot, event, kind) : event.target.closest(".point"); // a click by a key has no position
    if (!button) return;
    event.preventDefault(); // otherwise the link to the figure opens
    if (event.detail && kind === "touch" && before !== button) return showTip(button, kind);
    hideTip();
    show(button.dataset.model);
  });
}

// Mark the row of a model and scroll to it. A page with filters must first make sure that the row is shown.
function goToRow(model) {
  for (const row of $("table").tBodies[0].rows) row.classList.toggle("chosen", row.dataset.model === model);
  const row = $("table").querySelector("tr.chosen");
  (row?.querySelector("button") ?? row?.cells[0])?.focus({ preventScroll: true });
  row?.scrollIntoView({ block: "center" });
}

document.addEventListener("pointerdown", (event) => { if (!event.target.closest(".plot")) hideTip(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
for (const plot of document.querySelectorAll(".plot[data-points]")) addPoints(plot, plot.dataset.title, JSON.parse(plot.dataset.points));
