// The table of all variants: columns, order, rows, tips and keys.

/** Rows that are drawn at once; the rest is drawn when it is asked for. */
const ROWS = 200;
let rowsDrawn = ROWS;

/** Columns as they stand now: { key, name, full, side, column, group } for scores, { key, name, text } for words. */
function tableColumns() {
  const words = [{ key: "kind", name: data.compared ? "From" : "Kind", text: kindOf }];
  data.axes.forEach((axis, at) => words.push({ key: `axis ${at}`, name: axisName(axis), full: axis.key, text: (i) => settingOf(i, at), axis: at }));
  const scores = [];
  for (const side of ["dev", "test"]) {
    const { columns } = data.sides[side];
    columns.forEach((c, column) => {
      if (c.group === "mean" || c.rule === data.rule) scores.push({ key: `${side} ${c.rule}`, name: c.title, side, column, group: side });
    });
  }
  const { columns } = data.sides[state.side] ?? { columns: [] };
  const wanted = state.columns === "tasks" || !columns.some((c) => c.group === "type") ? "task" : "type";
  columns.forEach((c, column) => {
    if (c.group === wanted) {
      // Long names may break before a capital.
      const name = c.title.replace(/([a-z])([A-Z])/g, "$1\u200b$2");
      scores.push({ key: `${state.side} ${c.rule}`, name, full: c.title, side: state.side, column, group: `${wanted}s on ${state.side}` });
    }
  });
  // The rule's column may be a task that stands in both places.
  const seen = new Set();
  return [...words, ...scores.filter(({ key }) => !seen.has(key) && seen.add(key))];
}

/** What a cell shows of a score: itself, or its difference to the base. */
function shownIn(i, c) {
  if (!state.deltas || data.baseline === null) {
    const e = estimate(c.side, i, c.column);
    return e && { text: points(e.score), value: e.score, low: e.low, high: e.high };
  }
  const d = i === data.baseline ? null : difference(c.side, i, data.baseline, c.column);
  return d && { text: signed(d.value), value: d.value, low: d.low, high: d.high };
}

function compare(a, b) {
  const missing = (v) => v === null || v === undefined;
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  if (typeof a === "number" && typeof b === "number") return a - b;
  const [x, y] = [Number(a), Number(b)];
  return Number.isFinite(x) && Number.isFinite(y) ? x - y : String(a).localeCompare(String(b));
}

function orderedRows(columns) {
  const rows = data.variants.map((_, i) => i).filter(isShown);
  const { key, down } = state.sort;
  const c = columns.find((column) => column.key === key);
  const value = key === "name" ? label : c === undefined ? () => null : c.text ?? ((i) => shownIn(i, c)?.value ?? null);
  const known = new Map(rows.map((i) => [i, value(i)]));
  const absent = (i) => known.get(i) === null || known.get(i) === undefined;
  // What has no value stands last, whichever way the rest is turned.
  return rows.sort((a, b) => absent(a) - absent(b) || (down ? -1 : 1) * compare(known.get(a), known.get(b)) || a - b);
}

function heading(c, columns) {
  const sorted = state.sort.key === c.key;
  const act = () => {
    const isScore = c.column !== undefined;
    state.sort = { key: c.key, down: sorted ? !state.sort.down : isScore };
    renderTable();
    byId("table").querySelector(`th[data-key="${CSS.escape(c.key)}"] button`)?.focus();
  };
  const start = c.group && columns[columns.indexOf(c) - 1]?.group !== c.group;
  const classes = [c.text && "word", c.group && "number", start && "start"].filter(Boolean).join(" ");
  return make("th", { scope: "col", class: classes || null, "data-key": c.key, "aria-sort": sorted ? (state.sort.down ? "descending" : "ascending") : null },
    make("button", { type: "button", title: c.full ?? null, onclick: act }, c.name, make("span", { class: "arrow", "aria-hidden": "true" }, sorted ? (state.sort.down ? "▼" : "▲") : "")));
}

function renderTable() {
  const columns = tableColumns();
  if (!columns.some((c) => c.key === state.sort.key) && state.sort.key !== "name") state.sort = firstSort();
  const rows = orderedRows(columns);
  const scores = columns.filter((c) => c.group);
  const groups = [];
  for (const c of scores) {
    if (groups.at(-1)?.name === c.group) groups.at(-1).span += 1;
    else groups.push({ name: c.group, span: 1 });
  }
  const capital = (text) => (text === "dev" || text === "test" ? `On ${text}` : text[0].toUpperCase() + text.slice(1));
  const head = make("thead", {},
    make("tr", { class: "groups" }, make("th", { colspan: 1 }), make("th", { class: "word", colspan: columns.length - scores.length }),
      groups.map((g) => make("th", { colspan: g.span, scope: "colgroup", class: "start" }, capital(g.name)))),
    make("tr", { class: "heads" }, heading({ key: "name", name: "Variant" }, columns), columns.map((c) => heading(c, columns))));
  // The bar under a number runs over all variants that could be shown, so filtering does not move it.
  for (const c of scores) {
    const all = data.order.map((i) => shownIn(i, c)).filter(Boolean);
    c.range = extent(all.flatMap((s) => [s.low ?? s.value, s.high ?? s.value]), 0);
    c.best = Math.max(...all.map((s) => Number(points(s.value))));
  }
  const body = make("tbody", {}, rows.slice(0, rowsDrawn).map((i) => tableRow(i, columns)));
  if (rows.length > rowsDrawn) {
    body.append(make("tr", {}, make("td", { class: "more", colspan: columns.length + 1 },
      make("button", { type: "button", onclick: () => { rowsDrawn = Infinity; renderTable(); } }, `Show all ${rows.length}`))));
  }
  if (rows.length === 0) {
    body.append(make("tr", {}, make("td", { class: "more", colspan: columns.length + 1 },
      "No variant passes the filters. ", make("button", { type: "button", onclick: clearFilters }, "Show all"))));
  }
  byId("table").replaceChildren(make("caption", { class: "unseen" }, "Scores of all variants in points"), head, body);
  const all = data.variants.filter((v, i) => !v.onTheWay || state.onTheWay || i === data.chosen).length;
  byId("count").textContent = rows.length === all ? `${all} ${data.compared ? "models" : "variants"}` : `${rows.length} of ${all}`;
}

function tableRow(i, columns) {
  const pin = state.pinned.indexOf(i);
  const name = make("th", { scope: "row", "data-row": i },
    make("button", { type: "button", "aria-pressed": String(pin >= 0) }, label(i),
      i === data.chosen && make("span", { class: "badge" }, "chosen"),
      pin >= 0 && make("span", { class: pin ? "badge pin second" : "badge pin" }, "AB"[pin])));
  const cells = columns.map((c, at) => {
    if (c.text) return make("td", { class: c.text(i) === null ? "word absent" : "word", "data-row": i }, c.text(i) ?? "–");
    const s = shownIn(i, c);
    const start = columns[at - 1]?.group !== c.group;
    const place = { "data-row": i, "data-column": at };
    if (!s) return make("td", { class: start ? "number absent start" : "number absent", ...place }, "–");
    const on = (v) => 100 * ((v - c.range[0]) / (c.range[1] - c.range[0] || 1));
    const best = !state.deltas && data.order.length > 1 && Number(points(s.value)) === c.best;
    return make("td", { class: `number${start ? " start" : ""}${best ? " best" : ""}`, ...place }, s.text, make("span", { class: "bar" },
      s.low !== null && make("i", { style: { left: `${on(s.low)}%`, width: `${Math.max(1, on(s.high) - on(s.low))}%` } }),
      make("i", { class: "dot", style: { left: `calc(${on(s.value)}% - 1.5px)` } })));
  });
  const classes = [i === data.chosen && "chosen", i === data.baseline && !data.compared && "base"].filter(Boolean).join(" ");
  return make("tr", { class: classes || null }, name, cells);
}

/** What the tip says of a cell. */
function cellTip(cell) {
  if (cell.dataset.column === undefined) {
    if (cell.dataset.row === undefined) return hideTip();
    const i = Number(cell.dataset.row);
    return showTip(cell, label(i), [...factsOf(i), ["click", state.pinned.includes(i) ? "unpins it" : "compares it"]]);
  }
  const [i, c] = [Number(cell.dataset.row), tableColumns()[Number(cell.dataset.column)]];
  const column = data.sides[c.side].columns[c.column];
  const e = estimate(c.side, i, c.column);
  const d = data.baseline === null || i === data.baseline ? null : difference(c.side, i, data.baseline, c.column);
  const rows = data.sides[c.side].oddRows[`${i},${c.column}`] ?? column.rows;
  showTip(cell, `${column.title} on ${c.side}`, e ? [
    ["variant", label(i)],
    [column.metric || "score", `${points(e.score)} points`],
    e.low === null ? ["95 % interval", "not known"] : ["95 % interval", `${points(e.low)} to ${points(e.high)}`],
    d && [`against ${data.compared ? label(data.baseline) : "the base"}`, said(d)],
    ["rows", column.group === "task" ? grouped(rows) : `${grouped(rows)} in all its tasks`],
    ["protocol seeds", column.seeds > 1 ? `mean over ${column.seeds}` : c.side === "test" ? "mteb's own" : "1"],
  ] : [["variant", label(i)], ["score", data.compared ? "not there" : "none: a task of it was not scored on this side"]]);
}

/** Before the reader chose: best first by the rule of the choice. */
const firstSort = () => ({ key: `${data.on} ${data.rule}`, down: true });

function tools() {
  const filter = make("input", { type: "search", placeholder: "label or setting", oninput: (event) => { state.text = event.target.value; changed(); } });
  const select = (name, options, get, set) => {
    const node = make("select", { onchange: (event) => { set(event.target.value); changed(); } }, options.map(([value, text]) => make("option", { value }, text)));
    onChange(() => { node.value = get(); });
    return make("label", {}, name, node);
  };
  const kinds = [...new Set(data.variants.map((_, i) => kindOf(i)))];
  const hasTypes = sides.some((side) => data.sides[side].columns.some((c) => c.group === "type"));
  const redraw = (key) => (value) => { state[key] = value; renderTable(); renderCompare(); };
  byId("tools").append(...[
    sides.length > 1 && choice("Details on", sides.map((side) => [side, side]), state.side, redraw("side")),
    hasTypes && choice("Columns", [["types", "task types"], ["tasks", "tasks"]], state.columns, redraw("columns")),
    data.baseline !== null && choice("Show", [[false, "scores"], [true, data.compared ? "against the first" : "against the base"]], state.deltas, redraw("deltas")),
    make("label", {}, "Filter", filter),
    kinds.length > 1 && select(data.compared ? "From" : "Kind", [["", "all"], ...kinds.map((k) => [k, k])], () => state.kind, (value) => { state.kind = value; }),
    ...data.axes.map((axis, at) => select(axisName(axis), [["", "any"], ...axis.values.map((v, place) => [String(place), v]), ["-1", "none"]],
      () => (state.axes[at] === null ? "" : String(state.axes[at])), (value) => { state.axes[at] = value === "" ? null : Number(value); })),
    data.variants.some((v) => v.onTheWay) && make("label", { class: "check" }, make("input", { type: "checkbox", onchange: (event) => { state.onTheWay = event.target.checked; changed(); } }), "checkpoints on the way"),
    make("span", { class: "count", id: "count", role: "status" }),
  ].filter(Boolean));
  onChange(() => { if (filter.value !== state.text) filter.value = state.text; });
}

/** A button for every filter that a figure set, to take it back. */
function renderBrushed() {
  const items = [];
  const item = (text, undo) => items.push(make("button", { type: "button", "aria-label": `Remove the filter ${text}`, onclick: () => { undo(); changed(); } }, `${text} ✕`));
  state.axes.forEach((at, axis) => {
    if (at !== null) item(`${axisName(data.axes[axis])} = ${at < 0 ? "none" : data.axes[axis].values[at]}`, () => { state.axes[axis] = null; });
  });
  if (state.range) item(`${state.range.side} ${points(state.range.low)} to ${points(state.range.high)}`, () => { state.range = null; });
  byId("brushed").replaceChildren(...items);
  byId("brushed").hidden = items.length === 0;
}

function startTable() {
  state.sort = firstSort();
  tools();
  const table = byId("table");
  const cellOf = (event) => event.target.closest("td, th");
  table.addEventListener("pointerover", (event) => { const cell = cellOf(event); if (cell && moved(event)) cellTip(cell); });
  table.addEventListener("pointerleave", (event) => { if (moved(event)) hideTip(); });
  table.addEventListener("focusin", (event) => { const cell = cellOf(event); if (cell?.dataset.row !== undefined && event.target.matches(":focus-visible")) { cellTip(cell); tell(); } });
  table.addEventListener("focusout", hideTip);
  table.addEventListener("click", (event) => {
    const row = cellOf(event)?.closest("tbody tr")?.querySelector("th[data-row]");
    // Marking text is no click on the row.
    if (row && String(getSelection()) === "") pin(Number(row.dataset.row), event.target.closest("button") !== null);
  });
  table.addEventListener("keydown", (event) => {
    const cell = cellOf(event);
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!cell) return;
    if (event.key === "Enter" && event.target === cell && cell.dataset.row !== undefined) return pin(Number(cell.dataset.row), false);
    if (!move) return;
    const rows = [...table.tBodies[0].rows];
    const at = rows.indexOf(cell.parentElement);
    const next = at < 0 ? (move[0] > 0 ? rows[0]?.cells[cell.cellIndex] : null) : rows[at + move[0]]?.cells[cell.cellIndex + move[1]];
    if (!next) return;
    event.preventDefault();
    const to = next.querySelector("button") ?? next;
    if (to === next) next.tabIndex = -1;
    to.focus();
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
  byId("table-hint").textContent = "Click a heading to sort, two rows to compare them. The bar under a number is its 95 % interval. " +
    "Bold: the best of a column. Arrow keys walk from cell to cell.";
  onChange(() => { renderTable(); renderBrushed(); });
  byId("scores").hidden = false;
}

/** Pins a row, or takes it back; of three the second gives way. */
function pin(i, wasButton) {
  const at = state.pinned.indexOf(i);
  if (at >= 0) state.pinned.splice(at, 1);
  else state.pinned = [...state.pinned.slice(0, 1), i];
  hideTip();
  renderTable();
  renderCompare();
  if (wasButton) byId("table").querySelector(`th[data-row="${i}"] button`)?.focus({ preventScroll: true });
}
