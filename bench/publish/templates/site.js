const boards = {};
// Marks that make the values of a row doubtful.
const GRAVE = new Set(["status", "incomplete", "diverged", "collapsed", "broken", "stale"]);
const state = { board: "", sort: "", down: true, filter: "", family: "", reference: "", asked: null, row: "", on: {}, open: new Set() };

// Every data file calls this function with its board.
function equibench(board) {
  const position = Object.fromEntries(board.columns.map((c, i) => [c.key, i]));
  board.get = (row, key) => board.rows[row][position[key]];
  board.columns.push(
    { key: "difference", label: "difference", on: true, digits: 2, scale: 1 },
    { key: "p_holm", label: "p (Holm)", on: true, digits: null, scale: 1 },
    { key: "p_signs", label: "p (signs)", on: true, digits: null, scale: 1 },
  );
  boards[board.name] = board;
  if (board.name === state.board) show();
}

function choose(name) {
  if (state.board !== name) state.open.clear();
  state.board = name;
  if (boards[name]) return show();
  const script = make("script", null, { src: `boards/${encodeURIComponent(name)}.js` });
  script.onerror = () => { $("heading").textContent = `boards/${name}.js cannot be read`; };
  document.head.append(script);
}

function show() {
  const board = boards[state.board];
  const models = board.rows.map((_, i) => board.get(i, "model"));
  state.reference = state.asked === "" || models.includes(state.asked) ? state.asked : board.reference;
  state.asked = null;
  if (!board.columns.some((c) => c.key === state.sort)) state.sort = "";
  const families = [...new Set(board.rows.map((_, i) => board.get(i, "family") || "other"))].sort();
  options($("family"), ["", ...families], "all", families.includes(state.family) ? state.family : "");
  state.family = $("family").value;
  options($("reference"), ["", ...[...models].sort()], "none", state.reference);
  $("heading").textContent = board.heading;
  $("notes").replaceChildren(...board.notes.map((note) => make("li", note)));
  $("downloads").replaceChildren(...board.downloads.map((path) => {
    const item = make("li");
    item.append(make("a", path, { href: path, download: "" }));
    return item;
  }));
  columnChoice(board);
  figures(board);
  reported(board);
  repeat(board);
  compare(board);
  draw();
  if (state.row) showRow(state.row);
}

function options(select, values, empty, chosen) {
  select.replaceChildren(...values.map((value) => make("option", value || empty, { value })));
  select.value = chosen;
}

function columnChoice(board) {
  const set = $("columns").querySelector("fieldset");
  const boxes = board.columns.filter((c) => c.key !== "model").map((c) => {
    const label = make("label"), box = make("input", null, { type: "checkbox", value: c.key });
    box.checked = state.on[c.key] ?? c.on;
    box.addEventListener("change", () => { state.on[c.key] = box.checked; draw(); });
    label.append(box, c.label);
    return label;
  });
  set.replaceChildren(make("legend", "Columns of the table"), ...boxes);
}

// Differences to the chosen reference, and Holm's correction over them.
function compare(board) {
  const count = board.rows.length, pairs = board.pairs;
  const reference = board.rows.findIndex((_, i) => board.get(i, "model") === state.reference);
  board.compared = board.rows.map((_, i) => {
    if (reference < 0 || i === reference) return null;
    const [a, b, sign] = i < reference ? [i, reference, 1] : [reference, i, -1];
    const k = a * (2 * count - a - 1) / 2 + b - a - 1;
    if (pairs.difference[k] === null) return null;
    return { difference: sign * pairs.difference[k], half: pairs.half[k], p: pairs.p[k], signs: pairs.signs[k], holm: null };
  });
  const family = board.compared.filter((c) => c && c.p !== null).sort((x, y) => x.p - y.p);
  let highest = 0;
  family.forEach((c, i) => { highest = Math.max(highest, Math.min(1, (family.length - i) * c.p)); c.holm = highest; });
}

function value(board, row, key) {
  if (key === "difference") return board.compared[row]?.difference ?? null;
  if (key === "p_holm") return board.compared[row]?.holm ?? null;
  if (key === "p_signs") return board.compared[row]?.signs ?? null;
  return board.get(row, key);
}

// The text of a cell with the signs of its marks; the column of marks has their words.
const text = (board, row, column) => plain(board, row, column) + board.marks[row].filter((m) => m[2].includes(column.key)).map((m) => m[3]).join("");

function plain(board, row, column) {
  const v = value(board, row, column.key);
  if (v === null || v === "") return "";
  if (column.key === "rank_low") { // the possible ranks
    const high = board.get(row, "rank_high");
    return high === v ? `${v}` : `${v}–${high}`;
  }
  if (column.key === "test_acc_mean_pct") {
    const half = board.get(row, "test_acc_ci95_pct");
    if (board.values[row]) return board.values[row].map((x) => x.toFixed(2)).join(", ");
    return half === null ? v.toFixed(2) : `${v.toFixed(2)} ± ${half.toFixed(2)}`;
  }
  if (column.key === "difference") {
    const half = board.compared[row].half;
    return `${v > 0 ? "+" : ""}${v.toFixed(2)}${half === null ? "" : ` ± ${half.toFixed(2)}`}`;
  }
  if (column.key === "p_holm" || column.key === "p_signs") return pText(v);
  if (typeof v !== "number") return String(v);
  if (column.key.startsWith("eq_")) return errorText(v);
  if (column.digits !== null) return (v * column.scale).toLocaleString("en", { minimumFractionDigits: column.digits, maximumFractionDigits: column.digits });
  if (Number.isInteger(v)) return v.toLocaleString("en");
  return Math.abs(v) < 1e-3 ? v.toExponential(0) : String(Number(v.toPrecision(4)));
}

// An equivariance error in the format of all other outputs.
function errorText(v) {
  if (Number.isInteger(16 * v)) v = toEven(1e3 * v) / 1e3; // only these are exactly between two numbers of three digits
  return v >= 1e-3 ? v.toFixed(3) : v === 0 ? "0" : v.toExponential(0).replace(/e-(\d)$/, "e-0$1");
}

// The nearest whole number; of two, the even one, as in all other outputs.
function toEven(x) {
  return Math.abs(x % 1 - 0.5) < 1e-9 ? 2 * Math.round(x / 2) : Math.round(x);
}

// A p in the format of all other outputs: two digits, with ties rounded to even, because 0.0625 (five seeds) is a tie.
function pText(p) {
  if (p < 1e-4) return "<0.0001";
  const digits = p < 0.0995 ? 1 - Math.floor(Math.log10(p)) : 2, whole = toEven(p * 10 ** digits);
  return p < 0.0995 ? String(Number((whole / 10 ** digits).toFixed(digits))) : (whole / 10 ** digits).toFixed(digits);
}

const isText = (board, key) => board.rows.every((_, i) => { const v = value(board, i, key); return v === null || typeof v === "string"; });

function visible(board) {
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = board.rows.map((_, i) => i).filter((i) => {
    if (state.family && (board.get(i, "family") || "other") !== state.family) return false;
    const all = ["model", "family", "group", "claim", "status", "stale", "marks", "treatment", "reason"].map((k) => board.get(i, k) ?? "").join(" ").toLowerCase();
    return words.every((word) => all.includes(word));
  });
  if (!state.sort) return rows;
  const order = (a, b) => {
    const x = value(board, a, state.sort), y = value(board, b, state.sort);
    const emptyX = x === null || x === "", emptyY = y === null || y === "";
    if (emptyX || emptyY) return emptyX - emptyY; // missing values stay at the bottom
    const smaller = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
    return state.down ? -smaller : smaller;
  };
  return rows.sort(order);
}

function draw() {
  const board = boards[state.board];
  const compared = board.compared.some(Boolean); // otherwise these columns would be empty
  const columns = board.columns.filter((c) => c.key === "model" || ((state.on[c.key] ?? c.on) && (compared || !["difference", "p_holm", "p_signs"].includes(c.key))));
  const after = columns.findIndex((c) => c.key === "test_acc_mean_pct");
  for (const key of ["p_signs", "p_holm", "difference"]) { // next to the accuracy
    const at = columns.findIndex((c) => c.key === key);
    if (at >= 0 && after >= 0) columns.splice(after + 1, 0, ...columns.splice(at, 1));
  }
  const textual = Object.fromEntries(columns.map((c) => [c.key, isText(board, c.key)]));
  const head = make("tr");
  for (const c of columns) {
    const cell = make("th", null, { scope: "col", class: classes(c, textual) });
    if (c.key === state.sort) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    const button = make("button", c.label, { type: "button", "data-key": c.key });
    button.addEventListener("click", () => sortBy(c.key, textual[c.key]));
    cell.append(button);
    head.append(cell);
  }
  $("table").tHead.replaceChildren(head);
  const rows = visible(board), body = document.createDocumentFragment();
  for (const i of rows) {
    body.append(line(board, i, columns, textual));
    if (state.open.has(i)) body.append(detail(board, i, columns.length));
  }
  $("table").tBodies[0].replaceChildren(body);
  $("count").textContent = `${rows.length} of ${board.rows.length} models`;
  keepView();
}

// Show the row of a model; if the filters hide it, reset them.
function showRow(model) {
  const board = boards[state.board], i = board.rows.findIndex((_, k) => board.get(k, "model") === model);
  if (!visible(board).includes(i)) {
    state.filter = state.family = $("filter").value = $("family").value = "";
  }
  state.row = model;
  draw();
  goToRow(model);
}

const classes = (c, textual) => [textual[c.key] ? "text" : "", c.key === "model" ? "stick" : "", c.key === "test_acc_mean_pct" ? "accuracy" : "", ["status", "marks"].includes(c.key) ? "status" : ""].join(" ").trim();

function line(board, i, columns, textual) {
  const model = board.get(i, "model"), row = make("tr", null, { "data-model": model });
  if (model === state.row) row.classList.add("chosen");
  if (model === state.reference) row.classList.add("reference");
  if (board.get(i, "rank_low") === 1) row.classList.add("best");
  if (board.marks[i].some(([kind]) => GRAVE.has(kind))) row.classList.add("bad");
  for (const c of columns) {
    const cell = make("td", c.key === "model" ? null : text(board, i, c), { class: classes(c, textual) });
    if (c.key === "model") {
      const button = make("button", model, { type: "button", "aria-expanded": String(state.open.has(i)), title: model });
      button.addEventListener("click", () => toggle(i));
      cell.append(make("span", null, { class: "dot", "data-family": board.get(i, "family") || "", "aria-hidden": "true" }), button);
    }
    row.append(cell);
  }
  return row;
}

function toggle(i) {
  const name = boards[state.board].get(i, "model");
  if (!state.open.delete(i)) state.open.add(i);
  state.row = state.open.has(i) ? name : "";
  draw();
  [...$("table").querySelectorAll("td.stick button")].find((b) => b.textContent === name)?.focus();
}

function sortBy(key, textual) {
  if (state.sort === key) state.down = !state.down;
  else [state.sort, state.down] = [key, !textual && !["rank_low", "p_holm", "p_signs"].includes(key)];
  draw();
  $("table").querySelector(`thead button[data-key="${key}"]`).focus();
}

function detail(board, i, width) {
  const row = make("tr", null, { class: "detail" }), cell = make("td", null, { colspan: width });
  const inside = make("div", null, { class: "inside" });
  const facts = ["marks", "source", "group", "claim", "parameter_class", "batch_norm", "recipe", "profile", "reason", "stale"];
  const about = Object.fromEntries(facts.map((k) => [k.replaceAll("_", " "), board.get(i, k)]));
  inside.append(block("Model and provenance", list({ ...about, ...board.provenance[i] })));
  const runs = make("ul", null, { class: "runs" });
  for (const [seed, status, accuracy, file, stale, reason] of board.runs[i]) {
    const item = make("li", `seed ${seed}: `);
    item.append(accuracy === null ? status : `${accuracy.toFixed(2)} % `, status === "ok" || accuracy === null ? "" : `(${status}) `, stale ? `(stale: ${stale}) ` : "", " ");
    const run = file.split(".").slice(0, 2).join("."); // the id of the run, for commands
    item.append(make("a", `run ${run}`, { href: `runs/${encodeURIComponent(board.name)}/${encodeURIComponent(file)}` }), reason ? ` ${reason}` : "");
    runs.append(item);
  }
  inside.append(block("Runs", runs));
  cell.append(inside);
  row.append(cell);
  return row;
}

function block(title, content) {
  const part = make("div");
  part.append(make("h3", title), content);
  return part;
}

function list(entries) {
  const dl = make("dl");
  for (const [key, content] of Object.entries(entries)) if (content) dl.append(make("dt", key), make("dd", String(content)));
  return dl;
}

function figures(board) {
  $("figures").replaceChildren(...board.figures.map(({ stem, title, kinds, size, points }) => {
    const base = `figures/${encodeURIComponent(board.name)}/${stem}`;
    const figure = make("figure"), caption = make("figcaption");
    caption.append(make("strong", title));
    for (const kind of kinds.split(" ")) caption.append(make("a", kind.toUpperCase(), { href: `${base}.${kind}`, download: "" }));
    const whole = make("a", null, { href: `${base}.svg`, "aria-label": `${title}: open the figure alone` }); // to enlarge it on a phone
    whole.append(make("img", null, { alt: title, loading: "lazy", "data-base": base, width: size[0], height: size[1] }));
    const plot = make("div", null, { class: "plot" });
    plot.append(whole);
    addPoints(plot, title, points, showRow);
    figure.append(caption, plot);
    return figure;
  }));
  $("left-out").textContent = board.left_out;
  paint();
}

function reported(board) {
  const section = $("reported"), rows = board.reported;
  section.hidden = !rows.length;
  if (!rows.length) return;
  const keys = Object.keys(rows[0]), table = section.querySelector("table"), head = make("tr");
  head.append(...keys.map((key) => make("th", key, { scope: "col", class: "text" })));
  table.tHead.replaceChildren(head);
  table.tBodies[0].replaceChildren(...rows.map((row) => {
    const line = make("tr");
    line.append(...keys.map((key) => make("td", row[key], { class: "text" })));
    return line;
  }));
}

$("controls").addEventListener("submit", (event) => event.preventDefault());
$("board").addEventListener("change", (event) => changeBoard(event.target.value));
$("filter").addEventListener("input", (event) => { state.filter = event.target.value; draw(); });
$("family").addEventListener("change", (event) => { state.family = event.target.value; draw(); });
$("reference").addEventListener("change", (event) => { state.reference = event.target.value; compare(boards[state.board]); draw(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") $("columns").open = false; });
$("runs").addEventListener("toggle", loadRuns);
addEventListener("popstate", () => clearTimeout(waiting)); // comes with the new address, before any timer
addEventListener("hashchange", readView);
readView();
