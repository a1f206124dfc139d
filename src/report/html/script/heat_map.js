// Differences to the base, a row a variant, a column a task.

function startHeatMap() {
  const rows = data.heat.filter((i) => i !== data.baseline);
  if (data.baseline === null || rows.length === 0 || sides.length === 0) return;
  byId("tasks").hidden = false;
  if (data.compared) document.querySelector("#tasks .reference").textContent = label(data.baseline);
  let side = sides[0];
  const show = () => renderHeatMap(rows, side);
  if (sides.length > 1) byId("tasks-tools").append(choice("On", sides.map((s) => [s, s]), side, (value) => { side = value; show(); }));
  onChange(show);
  const frameOf = byId("tasks-frame");
  frameOf.addEventListener("pointerover", (event) => { const cell = event.target.closest("[data-row]"); if (!moved(event)) return; if (cell) heatTip(cell, side); else hideTip(); });
  frameOf.addEventListener("pointerleave", (event) => { if (moved(event)) hideTip(); });
  frameOf.addEventListener("focusin", (event) => { const cell = event.target.closest("[data-row]"); if (cell && event.target.matches(":focus-visible")) { heatTip(cell, side); tell(); } });
  frameOf.addEventListener("focusout", hideTip);
  frameOf.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!move) return;
    const body = [...frameOf.querySelectorAll("tbody tr")];
    const cell = event.target.closest("[data-row]");
    const next = cell ? body[body.indexOf(cell.parentElement) + move[0]]?.cells[cell.cellIndex + move[1]] : body[0]?.cells[1];
    if (!next) return;
    event.preventDefault();
    next.tabIndex = -1;
    next.focus();
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}

function heatTip(cell, side) {
  const [i, column] = [Number(cell.dataset.row), Number(cell.dataset.column)];
  if (Number.isNaN(column)) return showTip(cell, label(i), factsOf(i));
  const d = difference(side, i, data.baseline, column);
  const [a, b] = [estimate(side, i, column), estimate(side, data.baseline, column)];
  const reference = data.compared ? label(data.baseline) : "base";
  showTip(cell, `${data.sides[side].columns[column].title} on ${side}`, [
    ["variant", label(i)], ["score", points(a?.score)], [reference, points(b?.score)],
    d && ["difference", signed(d.value)], d && d.low !== null && ["95 % interval", `${signed(d.low)} to ${signed(d.high)}`],
  ]);
}

function renderHeatMap(rows, side) {
  const columns = data.sides[side].columns.map((c, column) => ({ c, column })).filter(({ c }) => c.group === "task");
  const shown = rows.filter(isShown);
  const of = (i, column) => difference(side, i, data.baseline, column);
  const largest = Math.max(1000, ...rows.flatMap((i) => columns.map(({ column }) => Math.abs(of(i, column)?.value ?? 0))));
  const head = make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Variant"), columns.map(({ c }) => make("th", { scope: "col", title: `${c.title} (${c.type})` }, make("span", {}, c.title)))));
  const body = make("tbody", {}, shown.map((i) => make("tr", {},
    make("th", { scope: "row", "data-row": i }, label(i), i === data.chosen && make("span", { class: "badge" }, "chosen")),
    columns.map(({ column }) => {
      const d = of(i, column);
      if (!d) return make("td", { class: "absent", "data-row": i, "data-column": column }, "–");
      const share = Math.abs(d.value) / largest;
      const strength = share === 0 ? 0 : 0.06 + 0.72 * share ** 0.75;
      const sure = d.low !== null && (d.low > 0 || d.high < 0);
      return make("td", { class: sure ? "sure" : null, "data-row": i, "data-column": column,
        style: { background: `rgba(var(--${d.value < 0 ? "below" : "above"}), ${strength.toFixed(3)})` } }, signed(d.value));
    }))));
  byId("tasks-frame").replaceChildren(make("table", {}, make("caption", { class: "unseen" }, `Differences on ${side} in points`), head, body));
  const ramp = make("span", { class: "ramp", style: { background: "linear-gradient(90deg, rgba(var(--below), .78), transparent 50%, rgba(var(--above), .78))" } });
  byId("tasks-legend").replaceChildren(signed(-largest), ramp, `${signed(largest)} points on ${side}. Bold: the 95 % interval of the difference holds no zero.`,
    data.order.length - 1 > rows.length ? ` The best ${rows.length} of ${data.order.length - 1} variants by the rule of the choice.` : "");
}
