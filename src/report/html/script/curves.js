// Training loss and dev score by step.

/** Curves that are coloured and named; the rest are drawn grey. */
const NAMED = 12;

function startCurves() {
  if (data.curves.length === 0) return;
  const place = (curve) => { const at = data.order.indexOf(curve.variant); return at < 0 ? Infinity : at; };
  const named = [...data.curves].sort((a, b) => place(a) - place(b)).slice(0, NAMED);
  const shownTogether = [...data.curves.filter((c) => !named.includes(c)), ...[...named].reverse()];
  const style = new Map(named.map((c, i) => [c, { stroke: COLORS[i % COLORS.length], dash: i < COLORS.length ? null : "7 3" }]));
  const charts = [];
  let lit = null;
  const light = (curve) => { lit = curve; charts.forEach((redraw) => redraw()); };
  const add = (id, title, unit, lines) => {
    const known = shownTogether.flatMap((curve) => lines(curve).map((l) => ({ curve, ...l }))).filter(({ series }) => series[0].length > 0);
    if (known.length === 0 || !known.some(({ series }) => series[0].length > 1)) {
      byId(id).hidden = true;
      return;
    }
    charts.push(figure(byId(id), (width) => curveFigure(byId(id), width, { title, unit, known, style, lit: () => lit })));
  };
  byId("training").hidden = false;
  add("loss-figure", "Loss: training (smoothed), and dev (dots, dashed)", "loss", (c) => [{ series: c.loss }, { series: c.devLoss, dev: true }]);
  add("dev-figure", "Dev rows: mean reciprocal rank of the positive", "MRR", (c) => [{ series: c.devScore, dev: true, solid: true }]);
  byId("training").hidden = charts.length === 0;
  byId("training-names").append(...named.map((curve) => make("button", { type: "button", onpointerenter: () => light(curve), onpointerleave: () => light(null), onfocus: () => light(curve), onblur: () => light(null) },
    make("i", { style: { background: style.get(curve).dash ? `repeating-linear-gradient(90deg, ${style.get(curve).stroke} 0 6px, transparent 6px 9px)` : style.get(curve).stroke } }), curve.label)),
    data.curves.length > NAMED ? make("span", {}, `and ${data.curves.length - NAMED} more, grey`) : "");
  onChange(() => charts.forEach((redraw) => redraw()));
}

function curveFigure(place, width, { title, unit, known, style, lit }) {
  const [height, box] = [Math.min(340, Math.max(240, width * 0.55)), { left: 46, right: 12, top: 26, bottom: 38 }];
  const range = extent(known.flatMap(({ series }) => series[1]));
  const last = Math.max(1, ...known.flatMap(({ series }) => series[0].slice(-1)));
  const x = scale(0, last, box.left, width - box.right);
  const y = scale(range[0], range[1], height - box.bottom, box.top);
  const small = range[1] - range[0] < 0.5;
  const isOut = (curve) => (lit() ? curve !== lit() : curve.variant !== null && isFiltered() && !isShown(curve.variant));
  const one = ({ curve, series, dev, solid }) => {
    const at = series[0].map((step, i) => (series[1][i] === null ? null : [x(step), y(series[1][i])])).filter(Boolean);
    const own = style.get(curve);
    const stroke = own?.stroke ?? "var(--faint)";
    const opacity = own ? 0.9 : 0.35;
    const dash = dev && !solid ? "4 3" : own?.dash ?? "none";
    return draw("g", { class: isOut(curve) ? "out" : null },
      draw("path", { d: line(at), fill: "none", style: { stroke, "stroke-width": dev && !solid ? 1.25 : own ? 1.75 : 1, "stroke-dasharray": dash, "stroke-opacity": opacity } }),
      dev && own && at.map(([px, py]) => draw("circle", { cx: px, cy: py, r: 3, style: { fill: stroke } })));
  };
  const svg = draw("svg", { width, height },
    frame(width, height, box,
      { scale: x, ticks: ticks(0, last, width / 80).filter((v) => Number.isInteger(v)), text: (v) => grouped(v), name: "optimizer step" },
      { scale: y, ticks: ticks(range[0], range[1], 6), text: (v) => v.toFixed(small ? 3 : 2), name: unit }),
    known.map(one));
  const marks = known.filter(({ curve }) => style.has(curve) && !isOut(curve)).flatMap(({ curve, series, dev }) => series[0].map((step, i) => ({
    x: x(step), y: y(series[1][i]), step, title: curve.label, facts: [["step", grouped(step)], [dev ? `dev ${unit}` : unit, series[1][i]?.toFixed(4) ?? "–"]],
  })));
  walk(svg, marks.filter((m) => Number.isFinite(m.y)), `${title}.`);
  place.replaceChildren(make("figcaption", {}, title), svg);
}
