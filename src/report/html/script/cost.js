// What a variant took against its score, and the front of those that no cheaper one beats.

const COSTS = [["training FLOPs", 3], ["tokens trained on", 0], ["weights trained", 1], ["weights of the model", 2]];

function startCost() {
  const column = columnOf(data.on, data.rule);
  const amount = (i, which) => data.variants[i].cost?.[which] ?? 0;
  // A measure that is the same for all says nothing.
  const useful = COSTS.filter(([, which]) => new Set(data.order.map((i) => amount(i, which)).filter((v) => v > 0)).size > 1);
  if (useful.length === 0 || column < 0) return;
  byId("cost").hidden = false;
  let which = useful[0][1];
  const place = byId("cost-figure");
  const redraw = figure(place, (width) => costFigure(place, { width, column, which, amount, name: COSTS.find((c) => c[1] === which)[0] }));
  if (useful.length > 1) byId("cost-tools").append(choice("Cost", useful.map(([name, at]) => [at, name]), which, (value) => { which = value; redraw(); }));
  onChange(redraw);
}

function costFigure(place, { width, column, which, amount, name }) {
  const [height, box] = [Math.min(440, Math.max(320, width * 0.5)), { left: 44, right: 18, top: 28, bottom: 40 }];
  const all = data.order.map((i) => ({ i, cost: amount(i, which), e: estimate(data.on, i, column) })).filter(({ cost, e }) => cost > 0 && e);
  const base = data.baseline === null ? null : estimate(data.on, data.baseline, column);
  const costs = all.map(({ cost }) => cost);
  const isLog = Math.max(...costs) / Math.min(...costs) > 5;
  const [low, high] = isLog ? [Math.min(...costs) / 1.15, Math.max(...costs) * 1.15] : extent(costs);
  const whiskers = all.length <= 60;
  const range = extent([...all.flatMap(({ e }) => (whiskers ? [e.score, e.low, e.high] : [e.score])), base?.score].filter((v) => v !== null && v !== undefined).map((v) => v / 1000));
  const x = scale(low, high, box.left, width - box.right, isLog);
  const y = scale(range[0], range[1], height - box.bottom, box.top);
  const front = [];
  for (const point of [...all].sort((a, b) => a.cost - b.cost || b.e.score - a.e.score)) {
    if (point.e.score > (front.at(-1)?.e.score ?? -Infinity)) front.push(point);
  }
  const steps = front.flatMap((p, at) => [...(at ? [[x(p.cost), y(front[at - 1].e.score / 1000)]] : []), [x(p.cost), y(p.e.score / 1000)]]);
  if (front.length) steps.push([width - box.right, steps.at(-1)[1]]);
  const onFront = new Set(front.map(({ i }) => i));
  const marks = [...all].sort((a, b) => a.cost - b.cost || a.e.score - b.e.score).map(({ i, cost, e }) => ({
    i, x: x(cost), y: y(e.score / 1000), e, title: label(i),
    facts: [[name, brief(cost)], [`${data.on} ${data.ruleTitle}`, points(e.score)], e.low !== null && ["95 % interval", `${points(e.low)} to ${points(e.high)}`],
      onFront.has(i) && ["front", "no cheaper variant is better"]],
  }));
  const shown = new Set(marks.filter(({ i }) => isShown(i)).map(({ i }) => i));
  const svg = draw("svg", { width, height },
    frame(width, height, box,
      { scale: x, ticks: isLog ? logTicks(low, high) : ticks(low, high, width / 110), text: brief, name: isLog ? `${name}, logarithmic` : name },
      { scale: y, ticks: ticks(range[0], range[1], 6), text: (v) => v.toFixed(1), name: `${data.on} ${data.ruleTitle}, points` }),
    base && draw("line", { class: "dashed", x1: box.left, x2: width - box.right, y1: y(base.score / 1000), y2: y(base.score / 1000) }),
    base && draw("text", { class: "halo", x: box.left + 6, y: y(base.score / 1000) - 6 }, `${data.compared ? "the first" : "base"} ${points(base.score)}`),
    draw("path", { d: line(steps), fill: "none", style: { stroke: "var(--orange)", "stroke-width": "1.75", opacity: ".8" } }),
    whiskers && marks.filter(({ e }) => e.low !== null).map((m) => draw("line", { x1: m.x, x2: m.x, y1: y(m.e.low / 1000), y2: y(m.e.high / 1000), class: shown.has(m.i) ? null : "out", style: { stroke: KIND_COLOR[data.variants[m.i].kind], opacity: shown.has(m.i) ? ".28" : ".06" } })),
    marks.map((m) => mark(data.variants[m.i].kind, m.x, m.y, onFront.has(m.i) ? 5 : 4, { class: shown.has(m.i) ? null : "out", style: { stroke: "var(--card)", "stroke-width": "1", "fill-opacity": onFront.has(m.i) ? "1" : ".75" } })),
    marks.filter(({ i }) => i === data.chosen).map((m) => [
      draw("circle", { cx: m.x, cy: m.y, r: 9, fill: "none", style: { stroke: "var(--orange)", "stroke-width": "2.5" } }),
      draw("text", { class: "strong halo", x: m.x > width * 0.7 ? m.x - 14 : m.x + 14, y: m.y - 8, "text-anchor": m.x > width * 0.7 ? "end" : "start" }, "chosen"),
    ]));
  walk(svg, marks, `${name} against score.`);
  const kinds = [...new Set(marks.map(({ i }) => data.variants[i].kind))];
  const key = (kind) => make("span", {}, draw("svg", { viewBox: "0 0 16 14", "aria-hidden": "true" }, mark(kind, 8, 7, 4.5)), KINDS[kind]);
  place.replaceChildren(svg, make("p", { class: "keys" }, kinds.map(key), make("span", {}, "Orange line: the Pareto front"), whiskers && make("span", {}, "Upright lines: 95 % intervals")));
}
