// Figures as SVG: scales, axes, marks, and stepping over the marks with the arrow keys.

const COLORS = ["blue", "orange", "green", "pink", "yellow", "sky", "grey", "brown"].map((name) => `var(--${name})`);
const KIND_COLOR = { base: "var(--grey)", trained: "var(--blue)", merged: "var(--pink)", averaged: "var(--green)" };

/** Draws into a place at its width, and again when that changes. */
function figure(place, render) {
  let width = 0;
  const again = () => {
    // Without the padding of the place.
    const style = getComputedStyle(place);
    const inner = Math.floor(place.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
    if (inner > 0 && inner !== width) {
      width = inner;
      render(width);
    }
  };
  new ResizeObserver(again).observe(place);
  again();
  return () => { if (width > 0) render(width); };
}

/** A scale from [low, high] to [from, to]; logarithmic where asked. */
function scale(low, high, from, to, isLog = false) {
  const map = isLog ? Math.log10 : (value) => value;
  const [a, b] = [map(low), map(high)];
  const at = (value) => from + ((map(value) - a) / (b - a || 1)) * (to - from);
  at.invert = (place) => a + ((place - from) / (to - from || 1)) * (b - a);
  return at;
}

/** Round numbers between low and high, about `count`. */
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough) ?? power;
  const out = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) out.push(Math.abs(v) < step * 1e-9 ? 0 : v);
  return out;
}

/** Marks of a logarithmic axis: powers of ten, with 2 and 5 between where there are few. */
function logTicks(low, high) {
  const out = [];
  const wide = Math.log10(high / low) > 3;
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p += 1) {
    for (const m of wide ? [1] : [1, 2, 5]) {
      const v = m * 10 ** p;
      if (v >= low * 0.999 && v <= high * 1.001) out.push(v);
    }
  }
  return out;
}

/** Low and high with some air; null without values. */
function extent(values, air = 0.06) {
  const known = values.filter((v) => v !== null && v !== undefined && Number.isFinite(v));
  if (known.length === 0) return null;
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const more = Math.max((high - low) * air, Math.abs(high) * 0.002, 1e-6);
  return [low - more, high + more];
}

const line = (pairs) => pairs.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

/** The frame of a chart with two axes: lines, numbers and names. `x` and `y` are { scale, ticks, name, text }. */
function frame(width, height, box, x, y) {
  const out = [];
  for (const v of y.ticks) {
    const at = y.scale(v);
    out.push(draw("line", { class: "rule", x1: box.left, x2: width - box.right, y1: at, y2: at }));
    out.push(draw("text", { x: box.left - 7, y: at + 4, "text-anchor": "end" }, y.text(v)));
  }
  let end = -Infinity;
  for (const v of x.ticks) {
    const [at, text] = [x.scale(v), x.text(v)];
    out.push(draw("line", { class: "axis", x1: at, x2: at, y1: height - box.bottom, y2: height - box.bottom + 4 }));
    // Numbers that would run into one another are left out.
    if (at - text.length * 3.4 > end) {
      out.push(draw("text", { x: at, y: height - box.bottom + 17, "text-anchor": "middle" }, text));
      end = at + text.length * 3.4 + 4;
    }
  }
  out.push(draw("line", { class: "axis", x1: box.left, x2: width - box.right, y1: height - box.bottom, y2: height - box.bottom }));
  out.push(draw("text", { x: (box.left + width - box.right) / 2, y: height - 3, "text-anchor": "middle" }, x.name));
  out.push(draw("text", { x: 0, y: box.top - 9 }, y.name));
  return out;
}

/** A mark by the kind of a variant, so that colour is not all that tells them apart. */
function mark(kind, x, y, size, attributes = {}) {
  const color = { fill: KIND_COLOR[kind] ?? COLORS[0], ...(attributes.style ?? {}) };
  const rest = { ...attributes, style: color };
  const path = {
    base: `M${x - size} ${y - size}h${2 * size}v${2 * size}h${-2 * size}z`,
    merged: `M${x} ${y - size * 1.35}l${size * 1.35} ${size * 1.35}l${-size * 1.35} ${size * 1.35}l${-size * 1.35} ${-size * 1.35}z`,
    averaged: `M${x} ${y - size * 1.25}l${size * 1.3} ${size * 2.2}h${-2.6 * size}z`,
  }[kind];
  return path ? draw("path", { d: path, ...rest }) : draw("circle", { cx: x, cy: y, r: size, ...rest });
}

/**
 * Lets the pointer and the arrow keys step over the marks of a chart. `marks` are { x, y, title, facts, node }, from left to
 * right for the keys; `act` is called with the mark that the reader is on, or null.
 */
function walk(svg, marks, name, act = () => {}) {
  if (marks.length === 0) return svg;
  let at = -1;
  const ring = draw("circle", { r: 8, fill: "none", style: { stroke: "var(--ink)", "stroke-width": "1.5", "pointer-events": "none" }, visibility: "hidden" });
  svg.append(ring);
  fill(svg, { tabindex: 0, role: "img", "aria-label": `${name} Arrow keys step over the points.` }, []);
  const off = () => { ring.setAttribute("visibility", "hidden"); hideTip(); act(null); };
  const on = (next) => {
    const m = marks[next];
    at = next;
    fill(ring, { cx: m.x, cy: m.y, visibility: "visible" }, []);
    act(m);
    showTip(ring, m.title, m.facts);
  };
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [best, least] = [-1, 34 ** 2];
    marks.forEach((m, i) => {
      const far = (m.x - x) ** 2 + (m.y - y) ** 2;
      if (far < least) [best, least] = [i, far];
    });
    return best;
  };
  svg.addEventListener("pointermove", (event) => { const next = nearest(event); if (next >= 0) on(next); else off(); });
  svg.addEventListener("pointerleave", off);
  svg.addEventListener("blur", off);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step === undefined && event.key !== "Home" && event.key !== "End") return;
    event.preventDefault();
    on(event.key === "Home" ? 0 : event.key === "End" ? marks.length - 1 : at < 0 ? 0 : clamp(at + step, 0, marks.length - 1));
    tell();
  });
  return svg;
}
