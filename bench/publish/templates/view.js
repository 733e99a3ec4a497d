// The view is in the address after #, so that a link shows the same view: board, filter, family, sort (with a - before
// it, the largest value is first), reference, row.
function viewLink() {
  const own = boards[state.board]?.reference ?? state.reference, parts = new URLSearchParams({ board: state.board });
  if (state.filter) parts.set("filter", state.filter);
  if (state.family) parts.set("family", state.family);
  if (state.sort) parts.set("sort", (state.down ? "-" : "") + state.sort);
  if (state.reference !== own) parts.set("reference", state.reference);
  if (state.row) parts.set("row", state.row);
  return `#${parts}`;
}

let waiting = 0;
function keepView() {
  $("link").href = viewLink();
  clearTimeout(waiting); // browsers do not allow the address to change with every key
  waiting = setTimeout(() => { if (location.hash !== viewLink()) history.replaceState(null, "", viewLink()); }, 150);
}

function readView() {
  const text = location.hash.slice(1);
  if ($(text)) return; // a part of the page
  clearTimeout(waiting); // the address is newer than the shown view
  const asked = new URLSearchParams(text.includes("=") ? text : { board: text });
  const names = [...$("board").options].map((option) => option.value), name = asked.get("board");
  const sort = asked.get("sort") ?? "";
  Object.assign(state, {
    filter: asked.get("filter") ?? "", family: asked.get("family") ?? "", row: asked.get("row") ?? "",
    asked: asked.get("reference"), sort: sort.replace(/^-/, ""), down: sort.startsWith("-"),
  });
  $("filter").value = state.filter;
  $("not-here").textContent = name && !names.includes(name) ? `There is no board ${name} here.` : "";
  $("board").value = names.includes(name) ? name : names[0];
  choose($("board").value);
}

// A change of the board is a new entry of the history; the rest of the view stays.
function changeBoard(name) {
  clearTimeout(waiting);
  Object.assign(state, { board: name, row: "", reference: boards[name]?.reference ?? state.reference });
  location.hash = viewLink();
}

// The table of all runs is loaded on demand.
function equibenchRuns({ name, fields, rows, records }) {
  if (name !== state.board) return;
  const head = make("tr"), table = $("runs-table");
  head.append(...fields.map((f) => make("th", f.name, { scope: "col", class: f.type === "string" ? "text" : "", title: f.description })));
  table.tHead.replaceChildren(head);
  const cell = (field, value, record) => {
    const text = value === null ? "" : String(value), kind = { class: field.type === "string" ? "text" : "" };
    if (field.name === "model") return make("th", text, { scope: "row", class: "text stick" });
    if (field.name !== "run") return make("td", text, kind);
    const linked = make("td", null, kind);
    linked.append(make("a", text, { href: `runs/${encodeURIComponent(name)}/${encodeURIComponent(record)}` }));
    return linked;
  };
  table.tBodies[0].replaceChildren(...rows.map((row, i) => {
    const line = make("tr");
    line.append(...row.map((value, k) => cell(fields[k], value, records[i])));
    return line;
  }));
  const meanings = fields.flatMap((f) => [make("dt", f.name), make("dd", `${f.description}${f.unit ? ` (${f.unit})` : ""}`)]);
  $("runs-schema").replaceChildren(...meanings);
  $("runs-table").dataset.board = name;
}

function loadRuns() {
  if (!$("runs").open || $("runs-table").dataset.board === state.board) return;
  $("runs-table").tBodies[0].replaceChildren();
  document.head.append(make("script", null, { src: `boards/${encodeURIComponent(state.board)}.runs.js` }));
}

function repeat(board) {
  $("commands").textContent = board.commands.join("\n");
  $("cautions").textContent = board.cautions.join(" ");
  $("cite").textContent = board.cite;
  const suites = board.downloads.filter((path) => path.startsWith("suites/"));
  $("suites").replaceChildren(...suites.flatMap((path, i) => [i ? ", " : "", make("a", path.slice(7), { href: path, download: "" })]));
  for (const [id, ending] of [["runs-csv", ".runs.csv"], ["runs-json", ".runs.schema.json"]]) $(id).href = `tables/${encodeURIComponent(board.name)}${ending}`;
  loadRuns();
}
