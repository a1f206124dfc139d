// What the reader chose: one state for the table and every figure.

const sides = ["test", "dev"].filter((side) => data.sides[side].columns.length > 0);
const state = {
  side: sides[0],
  columns: "types",
  deltas: false,
  onTheWay: false,
  text: "",
  kind: "",
  /** By axis: null for any, else the place of the value; -1 for variants that do not have the setting. */
  axes: data.axes.map(() => null),
  /** { side, low, high } of the rule's score. */
  range: null,
  sort: null,
  pinned: [],
};

const listeners = [];
/** Calls `act` whenever which variants are shown may have changed. */
const onChange = (act) => listeners.push(act);
const changed = () => listeners.forEach((act) => act());

/** Whether a variant passes all filters. */
function isShown(i) {
  const v = data.variants[i];
  if (v.onTheWay && !state.onTheWay && i !== data.chosen) return false;
  if (state.kind && kindOf(i) !== state.kind) return false;
  if (state.axes.some((at, axis) => at !== null && (v.at[axis] ?? -1) !== at)) return false;
  if (state.range) {
    const found = estimate(state.range.side, i, columnOf(state.range.side, data.rule));
    if (!found || found.score < state.range.low || found.score > state.range.high) return false;
  }
  if (state.text) {
    const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
    const all = [v.label, kindOf(i), ...data.axes.map((axis, at) => `${axis.key}=${settingOf(i, at) ?? ""}`)].join(" ").toLowerCase();
    if (!words.every((word) => all.includes(word))) return false;
  }
  return true;
}

/** Whether anything but the switch for checkpoints narrows what is shown. */
const isFiltered = () => Boolean(state.text || state.kind || state.range || state.axes.some((at) => at !== null));

function clearFilters() {
  Object.assign(state, { text: "", kind: "", range: null, axes: data.axes.map(() => null) });
  changed();
}
