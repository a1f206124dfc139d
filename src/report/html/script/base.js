// The numbers, elements, words and the tip: what all parts of the page use.

/** What the report's program wrote: see data.rs. */
const data = JSON.parse(document.getElementById("data").textContent);

const byId = (id) => document.getElementById(id);

/** Makes an element. Words go in as text, never as markup: labels come from a config that anyone may have written. */
function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** Makes an SVG element. */
function draw(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "style") for (const [name, to] of Object.entries(value)) node.style.setProperty(name, to);
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

// Scores and differences are whole thousandths of a point.
const points = (value) => (value === null || value === undefined ? "–" : (value / 1000).toFixed(1));
function signed(value) {
  if (value === null || value === undefined) return "–";
  const text = (Math.abs(value) / 1000).toFixed(1);
  return (value < 0 ? "−" : "+") + text;
}
const grouped = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");

/** A large number in few letters: 12.3M, 4.5e15. */
function brief(n) {
  if (n === 0) return "0";
  if (n >= 1e15) return n.toExponential(n >= 9.95e15 && n < 1e16 ? 0 : 1).replace("+", "");
  for (const [unit, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (n >= unit) return String(Number((n / unit).toPrecision(3))) + letter;
  }
  return String(Number(n.toPrecision(3)));
}

const KINDS = { base: "base", trained: "trained", merged: "merged", averaged: "averaged" };
const kindOf = (i) => data.variants[i].source ?? KINDS[data.variants[i].kind];
const label = (i) => data.variants[i].label;
/** `adapter.rank` is known by its last part wherever no other axis shares it. */
const axisName = (axis) => {
  const last = axis.key.split(".").pop();
  return data.axes.filter((other) => other.key.split(".").pop() === last).length > 1 ? axis.key : last;
};
const settingOf = (i, axis) => {
  const at = data.variants[i].at[axis];
  return at === null ? null : data.axes[axis].values[at];
};

/** A score with the ends of its interval, or null. */
function estimate(side, variant, column) {
  const { score, down, up } = data.sides[side];
  const value = score[variant][column];
  if (value === null || value === undefined) return null;
  const [below, above] = [down[variant][column], up[variant][column]];
  const known = below !== null && below !== undefined && above !== null && above !== undefined;
  return { score: value, low: known ? value - below : null, high: known ? value + above : null };
}
const columnOf = (side, rule) => data.sides[side].columns.findIndex((column) => column.rule === rule);

/** First minus second with its paired interval where that is known, else the plain difference; null without scores. */
function difference(side, first, second, column) {
  for (const [a, b, sign] of [[first, second, 1], [second, first, -1]]) {
    const found = (data.pairs[side][`${a},${b}`] ?? []).find((entry) => entry[0] === column);
    if (found) {
      const ends = [sign * found[2], sign * found[3]].sort((x, y) => x - y);
      return { value: sign * found[1], low: ends[0], high: ends[1] };
    }
  }
  const [a, b] = [estimate(side, first, column), estimate(side, second, column)];
  return a && b ? { value: a.score - b.score, low: null, high: null } : null;
}
const said = (d) => (d.low === null ? signed(d.value) : `${signed(d.value)} (${signed(d.low)} to ${signed(d.high)})`);

// The tip: a title and pairs of name and value, beside what the pointer or the keyboard is on.
const tip = byId("tip");
let tipAt = null;
function showTip(at, title, facts = []) {
  const rows = facts.filter(Boolean).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
  tip.replaceChildren(make("strong", {}, title), rows.length ? make("dl", {}, rows) : "");
  tip.hidden = false;
  tipAt = at;
  placeTip();
}
function placeTip() {
  const box = tipAt instanceof Element ? tipAt.getBoundingClientRect() : { left: tipAt.clientX, right: tipAt.clientX, top: tipAt.clientY, bottom: tipAt.clientY };
  const { offsetWidth: width, offsetHeight: height } = tip;
  const beside = box.right + 14 + width < innerWidth ? box.right + 14 : Math.max(8, box.left - width - 14);
  tip.style.left = `${clamp(beside, 8, Math.max(8, innerWidth - width - 8))}px`;
  tip.style.top = `${clamp((box.top + box.bottom - height) / 2, 8, Math.max(8, innerHeight - height - 8))}px`;
}
const hideTip = () => { tip.hidden = true; };
/** Tells a screen reader what a sighted reader sees in the tip. */
const tell = () => { byId("told").textContent = [...tip.querySelectorAll("strong, dt, dd")].map((node) => node.textContent).join(", "); };
// What the keyboard is on takes its tip along; what the pointer was on is somewhere else now.
addEventListener("scroll", () => {
  if (tipAt instanceof Element && tipAt.contains(document.activeElement)) placeTip();
  else hideTip();
}, { passive: true, capture: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

// A page that scrolls under a pointer at rest sends events, too; they are not the reader's.
let pointerAt = "";
function moved(event) {
  const at = `${event.screenX},${event.screenY}`;
  const is = at !== pointerAt;
  pointerAt = at;
  return is;
}

/** What the tip says of a variant. */
function factsOf(i) {
  const v = data.variants[i];
  const cost = v.cost ?? [];
  return [
    [data.compared ? "from" : "kind", kindOf(i)],
    ...(v.facts ?? []),
    ...data.axes.map((axis, at) => (settingOf(i, at) === null ? null : [axis.key, settingOf(i, at)])),
    ...Object.entries(v.more ?? {}),
    cost[0] ? ["tokens trained on", brief(cost[0])] : null,
    cost[1] ? ["weights trained", brief(cost[1])] : null,
    cost[3] ? ["training FLOPs", brief(cost[3])] : null,
  ];
}

/** A row of buttons of which one is pressed. */
function choice(name, options, pressed, act) {
  const buttons = options.map(([value, text]) =>
    make("button", { type: "button", "aria-pressed": String(value === pressed), onclick: () => {
      buttons.forEach((b, i) => b.setAttribute("aria-pressed", String(options[i][0] === value)));
      act(value);
    } }, text));
  return make("fieldset", {}, make("legend", {}, name), make("span", { class: "choice" }, buttons));
}
