// Starts the parts, and what belongs to none of them: theme, contents, unfinished trials, notes, settings.

function startTheme() {
  const button = byId("theme");
  const store = (act) => { try { return act(); } catch { return null; } };
  const prefers = matchMedia("(prefers-color-scheme: dark)");
  const stored = store(() => localStorage.getItem("embeval-theme"));
  let theme = stored ?? (prefers.matches ? "dark" : "light");
  const show = () => {
    document.documentElement.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Change to ${theme === "dark" ? "light" : "dark"} colours`);
  };
  button.addEventListener("click", () => {
    theme = theme === "dark" ? "light" : "dark";
    store(() => localStorage.setItem("embeval-theme", theme));
    show();
  });
  if (stored === null) prefers.addEventListener("change", (event) => { theme = event.matches ? "dark" : "light"; show(); });
  button.hidden = false;
  show();
}

function startUnfinished() {
  if (data.unfinished.length === 0) return;
  byId("unfinished").hidden = false;
  const head = ["Trial", "State", "Step", "Dev score there", "Why"];
  byId("unfinished-table").append(
    make("thead", {}, make("tr", {}, head.map((text, i) => make("th", { scope: "col", class: i === 2 || i === 3 ? "number" : null }, text)))),
    make("tbody", {}, data.unfinished.map((u) => make("tr", { onpointerenter: (event) => showTip(event, u.label, Object.entries(u.settings)), onpointerleave: hideTip },
      make("th", { scope: "row" }, u.label), make("td", {}, u.state), make("td", { class: "number" }, u.step === null ? "–" : grouped(u.step)),
      make("td", { class: "number" }, u.score === null ? "–" : u.score.toFixed(4)), make("td", { class: "long" }, u.reason)))));
}

function startAbout() {
  byId("about").hidden = false;
  const notes = data.compared ? [] : [
    "dev is a task's validation split, or where it has none a fixed slice of its training split. Variants, checkpoints and α are chosen on dev; test is only reported.",
  ];
  notes.push(
    "Scores are in points, a hundredth of the whole. Mean (Task) is over all tasks, Mean (TaskType) over the means of the task types.",
    "Intervals (95 %) say how a score would move with other test rows of the same kind, not with another seed of training. Differences are paired: both variants are resampled alike. README.md beside this page says how they are made, and corrects comparisons for their number; this page does not.",
    ...(data.limits.length ? [`Limited to ${data.limits.join(", ")}: the scores do not compare with published ones.`] : []),
    ...(data.protocol ? [`Protocol: mteb's, with the draws of ${data.protocol}.`] : []),
    ...data.notes.map((note) => (/[.!?]$/.test(note) ? note : `${note}.`)),
  );
  byId("notes").append(...notes.map((note) => make("li", {}, note)));
  const settings = [...data.data.map(([name, rows]) => [name, `${grouped(rows)} rows`]), ...Object.entries(data.settings)];
  byId("settings-title").hidden = settings.length === 0;
  byId("settings").append(...settings.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function startContents() {
  const nav = byId("contents");
  for (const section of document.querySelectorAll("main > section:not([hidden])")) {
    nav.append(make("a", { href: `#${section.id}` }, section.querySelector("h2").textContent));
  }
  nav.hidden = false;
}

startTheme();
startTable();
startAlpha();
startCost();
startParallel();
startHeatMap();
startCurves();
startUnfinished();
startAbout();
startContents();
changed();
