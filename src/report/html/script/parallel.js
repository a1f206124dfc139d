// Parallel coordinates: an axis a setting, and one for the score on each side.

function startParallel() {
  const variants = data.order.filter((i) => data.variants[i].at.some((at) => at !== null));
  const axes = data.axes.map((axis, at) => ({ axis, at })).filter(({ axis }) => axis.values.length > 1);
  const column = columnOf(data.on, data.rule);
  if (variants.length < 2 || axes.length === 0 || column < 0) return;
  byId("axes").hidden = false;
  const place = byId("axes-figure");
  onChange(figure(place, (width) => parallelFigure(place, width, variants, axes)));
}

/** A colour between the lowest and the highest score. */
const shade = (share) => `color-mix(in oklab, var(--high) ${Math.round(100 * clamp(share, 0, 1))}%, var(--low))`;

function parallelFigure(place, width, variants, axes) {
  const scoreSides = [data.on, data.on === "dev" ? "test" : null].filter((side) => side && columnOf(side, data.rule) >= 0);
  const count = axes.length + scoreSides.length;
  const most = Math.max(...axes.map(({ axis }) => axis.values.length));
  const [height, top, bottom] = [Math.max(300, Math.min(560, 60 + 34 * most)), 40, 14];
  // On a narrow screen the figure is wider than its place and scrolls.
  const wide = Math.max(width, count * 92);
  const cut = (text) => (text.length > 16 ? `${text.slice(0, 15)}…` : text);
  const left = 22 + 6.4 * Math.max(4, ...axes[0].axis.values.map((text) => cut(text).length));
  const right = 56;
  const x = (at) => left + (at * (wide - left - right)) / Math.max(1, count - 1);
  const score = (side, i) => estimate(side, i, columnOf(side, data.rule))?.score ?? null;
  const scales = scoreSides.map((side) => {
    const range = extent(variants.map((i) => score(side, i)), 0.03);
    return range && scale(range[0], range[1], height - bottom, top);
  });
  const own = extent(variants.map((i) => score(data.on, i)), 0);
  const share = (i) => (score(data.on, i) === null ? 0 : (score(data.on, i) - own[0]) / (own[1] - own[0] || 1));
  // "None" stands at the foot of an axis that not all variants have.
  const lacking = axes.map(({ at }) => variants.some((i) => data.variants[i].at[at] === null));
  const slots = axes.map(({ axis }, a) => axis.values.length + (lacking[a] ? 1 : 0));
  const room = (a) => (height - top - bottom) / slots[a];
  const slotOf = (a, i) => { const at = data.variants[i].at[axes[a].at]; return at === null ? slots[a] - 1 : at; };
  const middle = (a, slot) => top + room(a) * (slot + 0.5);
  // Lines of one value are spread a little, the best on top, so that they can be told apart.
  const places = axes.map((_, a) => {
    const by = new Map();
    for (const i of variants) by.set(slotOf(a, i), [...(by.get(slotOf(a, i)) ?? []), i]);
    const out = new Map();
    for (const [slot, list] of by) {
      list.sort((p, q) => (score(data.on, q) ?? -Infinity) - (score(data.on, p) ?? -Infinity));
      const spread = Math.min(room(a) * 0.55, 5 * list.length);
      list.forEach((i, k) => out.set(i, middle(a, slot) + (list.length > 1 ? spread * (k / (list.length - 1) - 0.5) : 0)));
    }
    return out;
  });
  const at = (i) => [...axes.map((_, a) => [x(a), places[a].get(i)]), ...scoreSides.map((side, s) => (score(side, i) === null || !scales[s] ? null : [x(axes.length + s), scales[s](score(side, i))]))].filter(Boolean);
  const curve = (list) => list.map(([px, py], k) => {
    if (k === 0) return `M${px.toFixed(1)} ${py.toFixed(1)}`;
    const [ox, oy] = list[k - 1];
    const bend = (px - ox) * 0.42;
    return `C${(ox + bend).toFixed(1)} ${oy.toFixed(1)} ${(px - bend).toFixed(1)} ${py.toFixed(1)} ${px.toFixed(1)} ${py.toFixed(1)}`;
  }).join("");
  const shown = variants.filter(isShown);
  const isIn = new Set(shown);
  const dense = clamp(14 / Math.sqrt(Math.max(1, shown.length)), 0.9, 2.4);
  const drawn = [...variants].sort((p, q) => isIn.has(p) - isIn.has(q) || (p === data.chosen) - (q === data.chosen) || share(p) - share(q));
  const lines = new Map();
  for (const i of drawn) {
    const isChosen = i === data.chosen;
    const color = isChosen ? "var(--orange)" : shade(share(i));
    lines.set(i, draw("path", { d: curve(at(i)), fill: "none", class: isIn.has(i) ? null : "out",
      style: { stroke: color, "stroke-width": isChosen ? 3 : dense, "stroke-opacity": isChosen ? 1 : 0.8, "pointer-events": "none" } }));
  }
  const values = axes.flatMap(({ axis, at: place }, a) => {
    const texts = [...axis.values, ...(lacking[a] ? ["none"] : [])];
    return texts.map((text, slot) => {
      const value = slot < axis.values.length ? slot : -1;
      const isOn = state.axes[place] === value;
      const act = () => { state.axes[place] = isOn ? null : value; changed(); };
      const long = 6.4 * cut(text).length + 8;
      return draw("g", { role: "button", tabindex: 0, "aria-pressed": String(isOn), "aria-label": `${axis.key} = ${text}`, style: { cursor: "pointer" }, onclick: act,
        onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(); } } },
        draw("title", {}, `${axis.key} = ${text}`),
        draw("rect", { x: x(a) - 6 - long, y: middle(a, slot) - 9, width: long, height: 18, rx: 4, style: { fill: isOn ? "var(--accent)" : "var(--card)", "fill-opacity": isOn ? "1" : ".86" } }),
        draw("text", { class: "value", x: x(a) - 10, y: middle(a, slot) + 4, "text-anchor": "end", style: { fill: isOn ? "var(--card)" : "var(--ink)" } }, cut(text)));
    });
  });
  const svg = draw("svg", { width: wide, height, role: "group", "aria-label": "Settings and scores of all variants" },
    axes.map(({ axis }, a) => [draw("line", { class: "axis", x1: x(a), x2: x(a), y1: top, y2: height - bottom }), draw("text", { class: "strong", x: x(a), y: 18, "text-anchor": "middle" }, axisName(axis))]),
    scoreSides.map((side, s) => [
      draw("line", { class: "axis", x1: x(axes.length + s), x2: x(axes.length + s), y1: top, y2: height - bottom }),
      draw("text", { class: "strong", x: x(axes.length + s), y: 18, "text-anchor": "middle" }, `${side}, points`),
    ]),
    [...lines.values()],
    values,
    scoreSides.map((side, s) => scales[s] && ticks(scales[s].invert(height - bottom) / 1000, scales[s].invert(top) / 1000, 7).map((v) => draw("text", { class: "halo", x: x(axes.length + s) + 8, y: scales[s](v * 1000) + 4 }, v.toFixed(1)))));
  scoreSides.forEach((side, s) => { if (scales[s]) svg.append(brush(svg, side, scales[s], x(axes.length + s), [top, height - bottom])); });
  // The line nearest to the pointer stands out.
  let lit = null;
  const dim = () => { if (lit !== null) lines.get(lit).style.setProperty("stroke-width", lit === data.chosen ? 3 : dense); lit = null; hideTip(); };
  svg.addEventListener("pointermove", (event) => {
    const edge = svg.getBoundingClientRect();
    const [px, py] = [event.clientX - edge.left, event.clientY - edge.top];
    let [best, least] = [null, 14];
    for (const i of shown) {
      const list = at(i);
      const k = list.findIndex(([ax]) => ax >= px);
      if (k <= 0) continue;
      const [[ax, ay], [bx, by]] = [list[k - 1], list[k]];
      const t = (px - ax) / (bx - ax);
      // The height of the curve there: Bézier weights of its four levels, for a bend that is nearly even in x.
      const y = ay * (1 - t) ** 2 * (1 + 2 * t) + by * t ** 2 * (3 - 2 * t);
      if (Math.abs(y - py) < least) [best, least] = [i, Math.abs(y - py)];
    }
    if (best !== lit) dim();
    if (best === null) return;
    lit = best;
    lines.get(best).style.setProperty("stroke-width", 4);
    showTip(event, label(best), [...axes.map(({ axis, at: place }) => (settingOf(best, place) === null ? null : [axis.key, settingOf(best, place)])),
      ...scoreSides.map((side) => { const e = estimate(side, best, columnOf(side, data.rule)); return e && [`${side} ${data.ruleTitle}`, e.low === null ? points(e.score) : `${points(e.score)} (${points(e.low)} to ${points(e.high)})`]; })]);
  });
  svg.addEventListener("pointerleave", dim);
  const scroller = make("div", { style: { "overflow-x": wide > width ? "auto" : "visible" } }, svg);
  const clear = isFiltered() && make("button", { type: "button", onclick: clearFilters }, `Show all again (${shown.length} of ${variants.length} shown)`);
  place.replaceChildren(scroller, make("p", { class: "keys" }, data.chosen !== null && make("span", {}, "Orange: the chosen"), clear));
}

/** A stretch of a score's axis, drawn with the pointer, as a filter. */
function brush(svg, side, y, x, [top, bottom]) {
  const area = draw("rect", { x: x - 14, y: top, width: 28, height: bottom - top, fill: "transparent", style: { cursor: "ns-resize", "touch-action": "none" } });
  const box = draw("rect", { x: x - 9, width: 18, rx: 3, style: { fill: "var(--band)", stroke: "var(--accent)", "pointer-events": "none" } });
  const set = (a, b) => fill(box, { y: Math.min(a, b), height: Math.abs(a - b) }, []);
  if (state.range?.side === side) set(y(state.range.low), y(state.range.high));
  else set(0, 0);
  const place = (event) => clamp(event.clientY - svg.getBoundingClientRect().top, top, bottom);
  area.addEventListener("pointerdown", (down) => {
    const from = place(down);
    area.setPointerCapture(down.pointerId);
    const move = (event) => set(from, place(event));
    const up = (event) => {
      area.removeEventListener("pointermove", move);
      const to = place(event);
      const ends = [y.invert(from), y.invert(to)].sort((a, b) => a - b);
      // A click without a stretch takes the filter back.
      state.range = Math.abs(to - from) < 4 ? null : { side, low: Math.floor(ends[0]), high: Math.ceil(ends[1]) };
      changed();
    };
    area.addEventListener("pointermove", move);
    area.addEventListener("pointerup", up, { once: true });
    down.preventDefault();
  });
  return draw("g", {}, area, box);
}
