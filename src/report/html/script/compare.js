// Two variants against each other: every column's difference, with its paired interval where that is known.

function renderCompare() {
  const place = byId("compare");
  let [first, second] = state.pinned;
  if (first === undefined) {
    place.hidden = true;
    return;
  }
  const alone = second === undefined;
  if (alone) second = [data.baseline, data.chosen].find((i) => i !== null && i !== first);
  if (second === undefined) {
    place.hidden = true;
    return;
  }
  const side = state.side;
  const rows = data.sides[side].columns.map((c, column) => ({ c, column, a: estimate(side, first, column), b: estimate(side, second, column), d: difference(side, first, second, column) })).filter((row) => row.d);
  const reach = Math.max(1, ...rows.flatMap(({ d }) => [d.value, d.low ?? 0, d.high ?? 0]).map(Math.abs)) * 1.06;
  const picture = ({ d }) => {
    // In a box of 200 that is stretched to the place; dots are drawn as lines of no length, which stay round.
    const x = (v) => 100 + (98 * v) / reach;
    const color = d.low === null || (d.low <= 0 && d.high >= 0) ? "var(--grey)" : d.value > 0 ? "var(--blue)" : "var(--orange)";
    const stroke = (width) => ({ stroke: color, "stroke-width": width, "stroke-linecap": "round", "vector-effect": "non-scaling-stroke" });
    return draw("svg", { viewBox: "0 0 200 18", preserveAspectRatio: "none", "aria-hidden": "true" },
      draw("line", { class: "axis", x1: 100, x2: 100, y1: 0, y2: 18, "vector-effect": "non-scaling-stroke" }),
      d.low !== null && draw("line", { x1: x(d.low), x2: x(d.high), y1: 9, y2: 9, style: { ...stroke(2), opacity: ".6" } }),
      draw("line", { x1: x(d.value), x2: x(d.value), y1: 9, y2: 9, style: stroke(8) }),
      d.low === null && draw("line", { x1: x(d.value), x2: x(d.value), y1: 9, y2: 9, style: { ...stroke(4), stroke: "var(--card)" } }));
  };
  const grid = make("div", { class: "grid" },
    ["", "A", "B", "A − B", `points on ${side}, 95 %`].map((text, i) => make("span", { class: `headed${i === 1 || i === 2 ? " right" : i === 3 ? " picture" : i === 4 ? " difference" : ""}` }, text)),
    rows.map((row) => {
      const strong = row.c.group === "task" ? "" : " mean";
      return [
        make("span", { class: strong }, row.c.title),
        make("span", { class: `right${strong}` }, points(row.a.score)),
        make("span", { class: `right${strong}` }, points(row.b.score)),
        make("span", { class: "picture" }, picture(row)),
        make("span", { class: `difference${strong}` }, signed(row.d.value), make("span", {}, row.d.low === null ? "" : ` (${signed(row.d.low)} to ${signed(row.d.high)})`)),
      ];
    }));
  const unknown = rows.some(({ d }) => d.low === null);
  const name = (letter, i, note) => [make("span", { class: letter === "A" ? "badge pin" : "badge pin second" }, letter), label(i), note && ` (${note})`];
  place.replaceChildren(
    make("header", {}, make("h3", {}, name("A", first), make("br"), name("B", second, alone && (second === data.baseline ? "until a second row is pinned" : null))),
      make("button", { type: "button", onclick: () => { state.pinned = []; renderTable(); renderCompare(); } }, "Close")),
    grid,
    make("p", { class: "hint" }, "Blue: A is better by more than its interval, orange: B is. Not corrected for how many pairs one looks at.",
      unknown && " A ring instead of a dot: the paired interval of these two is not stored here, or they were not scored on the same rows."));
  place.hidden = false;
}
