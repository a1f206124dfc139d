// Dev score by α, a panel a search.

function startAlpha() {
  if (data.searches.length === 0) return;
  byId("alpha").hidden = false;
  const all = data.searches.flatMap((s) => s.points.flatMap((p) => p.slice(1)));
  const range = extent(all.filter((v) => v !== null).map((v) => v / 1000));
  if (!range) return;
  const scoreAt = (s) => s.points.find((p) => p[0] === s.chosen)?.[1] ?? -Infinity;
  const order = [...data.searches].sort((a, b) => scoreAt(b) - scoreAt(a));
  const place = byId("alpha-panels");
  const show = (many) => {
    place.replaceChildren(...order.slice(0, many).map(() => make("figure")));
    order.slice(0, many).forEach((s, i) => figure(place.children[i], (width) => alphaPanel(place.children[i], s, range, width)));
    if (order.length > many) place.append(make("p", { class: "hint" }, `The best ${many} of ${order.length}. `, make("button", { type: "button", onclick: () => show(order.length) }, "Show all")));
  };
  show(9);
}

function alphaPanel(place, s, range, width) {
  const [height, box] = [216, { left: 40, right: 12, top: 26, bottom: 38 }];
  const x = scale(0, 1, box.left, width - box.right);
  const y = scale(range[0], range[1], height - box.bottom, box.top);
  const known = s.points.filter((p) => p[1] !== null);
  const banded = known.filter((p) => p[2] !== null && p[3] !== null);
  const at = (p, i) => [x(p[0]), y(p[i] / 1000)];
  const chosen = known.find((p) => p[0] === s.chosen);
  const rule = columnOf("test", data.rule);
  const test = s.variant === null || rule < 0 ? null : estimate("test", s.variant, rule);
  const svg = draw("svg", { width, height },
    frame(width, height, box,
      { scale: x, ticks: [0, 0.25, 0.5, 0.75, 1], text: (v) => String(v), name: "α, the weight of the second" },
      { scale: y, ticks: ticks(range[0], range[1], 5), text: (v) => v.toFixed(1), name: `dev ${data.ruleTitle}, points` }),
    draw("path", { d: banded.length ? `${line([...banded.map((p) => at(p, 3)), ...[...banded].reverse().map((p) => at(p, 2))])}Z` : "", style: { fill: "var(--band)" } }),
    draw("path", { d: line(known.map((p) => at(p, 1))), fill: "none", style: { stroke: "var(--blue)", "stroke-width": "2" } }),
    known.map((p) => draw("circle", { cx: at(p, 1)[0], cy: at(p, 1)[1], r: 3, style: { fill: "var(--blue)" } })),
    chosen && draw("circle", { cx: at(chosen, 1)[0], cy: at(chosen, 1)[1], r: 7, fill: "none", style: { stroke: "var(--orange)", "stroke-width": "2.5" } }));
  walk(svg, known.map((p) => ({
    x: at(p, 1)[0], y: at(p, 1)[1], title: `α = ${Number(p[0].toFixed(3))}${p[0] === s.chosen ? ", chosen" : ""}`,
    facts: [[`dev ${data.ruleTitle}`, points(p[1])], p[2] !== null && ["95 % interval", `${points(p[2])} to ${points(p[3])}`]],
  })), `Dev score by α from ${s.first} to ${s.second}.`);
  const told = [`α = ${s.chosen.toFixed(3)}`, `dev ${points(chosen?.[1])}`];
  if (test) told.push(`test ${points(test.score)}${test.low === null ? "" : ` (${points(test.low)} to ${points(test.high)})`}`);
  place.replaceChildren(
    make("figcaption", {}, s.first, make("span", {}, " → "), s.second),
    make("p", { class: "hint" }, told.join(" · ")),
    svg);
}
