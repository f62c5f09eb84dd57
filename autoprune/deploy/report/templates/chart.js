/* The chart: choosing a point by hand, key or list, and what is shown of it. */
const marks = all(".plot .mark");
const steppers = ["front", "tied", "baseline", "below", "dominated"];

function shownChart() {
  return all(".chart").find((chart) => !chart.hidden);
}

function ordered(kinds) {
  const chart = shownChart();
  if (!chart) return [];
  return all(".mark", chart.querySelector(".plot"))
    .filter((mark) => mark.getClientRects().length && (!kinds || kinds.includes(mark.dataset.kind)))
    .sort((a, b) => parseFloat(a.style.left) - parseFloat(b.style.left));
}

/* The marks that the steps go through: the confirmed ones, or all before there are any. */
function path(everything) {
  const confirmed = everything ? [] : ordered(steppers);
  return confirmed.length ? confirmed : ordered();
}

function choose(trial, { focus = false, tip = false } = {}) {
  const detail = report.details[trial];
  if (!detail) return;
  report.chosen = Number(trial);
  for (const mark of marks) {
    const own = Number(mark.dataset.trial);
    mark.setAttribute("aria-pressed", String(own === report.chosen));
    mark.classList.toggle("tie", detail.ties.includes(own));
    mark.tabIndex = own === report.chosen ? 0 : -1;
    if (focus && own === report.chosen && mark.getClientRects().length) mark.focus();
  }
  if (!ordered().some((mark) => mark.tabIndex === 0) && ordered().length) ordered()[0].tabIndex = 0;
  for (const map of all(".map")) {
    map.setAttribute("aria-pressed", String(Number(map.dataset.trial) === report.chosen));
  }
  for (const row of all("tr[data-row]")) row.classList.toggle("on", Number(row.dataset.row) === report.chosen);
  const list = document.getElementById("choose");
  if (list) list.value = String(trial);
  showDetail(detail);
  if (tip) showTip(ordered().find((mark) => Number(mark.dataset.trial) === report.chosen));
  placeLabels();
}

function step(by, everything = false) {
  const marks = path(everything);
  if (!marks.length) return null;
  const at = marks.findIndex((mark) => Number(mark.dataset.trial) === report.chosen);
  const next = at < 0 ? 0 : Math.min(Math.max(at + by, 0), marks.length - 1);
  return marks[next].dataset.trial;
}

function showTip(mark) {
  const chart = shownChart();
  if (!chart) return;
  const tip = chart.querySelector(".tip");
  tip.hidden = !mark;
  if (!mark) return;
  const text = mark.getAttribute("aria-label");
  tip.textContent = text[0].toUpperCase() + text.slice(1);
  const plot = chart.querySelector(".plot").getBoundingClientRect();
  const at = mark.getBoundingClientRect();
  const x = at.left + at.width / 2 - plot.left;
  const y = at.top - plot.top;
  tip.style.left = `${Math.min(Math.max(x - tip.offsetWidth / 2, 0), plot.width - tip.offsetWidth)}px`;
  tip.style.top = `${y > tip.offsetHeight + 24 ? y - tip.offsetHeight - 18 : y + at.height + 16}px`;
}

/* Each label goes to the first side where it hides neither a mark nor another label, or goes. */
function placeLabels() {
  const chart = shownChart();
  if (!chart) return;
  const frame = chart.querySelector(".plot").getBoundingClientRect();
  const box = (element) => element.getBoundingClientRect();
  const hits = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const core = (mark) => {
    const r = box(mark);
    return { left: r.left + 7, right: r.right - 7, top: r.top + 7, bottom: r.bottom - 7 };
  };
  const seen = ordered();
  const taken = all(".budget-text, .dense b, .err:not([hidden])", chart).map(box);
  const bodies = seen.filter((mark) => steppers.includes(mark.dataset.kind)).map((mark) => [mark, core(mark)]);
  const first = (mark) => (mark.getAttribute("aria-pressed") === "true" ? 0 : steppers.indexOf(mark.dataset.kind) + 1);
  for (const mark of seen.sort((a, b) => first(a) - first(b))) {
    const label = mark.querySelector(".label");
    if (!label) continue;
    const free = ["", "rising", "falling", "left"].some((side) => {
      label.className = `label ${side}`;
      const r = box(label);
      const inside = r.left >= frame.left - 4 && r.right <= frame.right + 8 && r.top >= frame.top - 12;
      return inside && !taken.some((other) => hits(r, other)) && !bodies.some(([own, other]) => own !== mark && hits(r, other));
    });
    if (free) taken.push(box(label));
    else label.className = "label off";
  }
}

for (const mark of marks) {
  mark.addEventListener("click", () => choose(mark.dataset.trial, { tip: true }));
  mark.addEventListener("pointerenter", () => showTip(mark));
  mark.addEventListener("pointerleave", () => showTip(null));
  mark.addEventListener("focus", () => showTip(mark));
  mark.addEventListener("blur", () => showTip(null));
}
for (const plot of all(".plot")) {
  plot.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1], ArrowRight: [1], ArrowDown: [-1, true], ArrowUp: [1, true] };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    const trial = step(...move);
    if (trial !== null) choose(trial, { focus: true });
  });
}
for (const button of all("[data-step]")) {
  button.addEventListener("click", () => {
    const trial = step(Number(button.dataset.step));
    if (trial !== null) choose(trial);
  });
}
document.getElementById("choose")?.addEventListener("change", (event) => choose(event.target.value));
for (const button of all(".map, .link[data-trial]")) {
  button.addEventListener("click", () => {
    choose(button.dataset.trial);
    if (button.matches(".map")) document.getElementById("keep").scrollIntoView({ block: "center" });
    else document.getElementById("front").scrollIntoView();
  });
}
for (const button of all("[data-unit]")) {
  button.addEventListener("click", () => {
    for (const chart of all(".chart")) chart.hidden = chart.dataset.chart !== button.dataset.unit;
    for (const other of all("[data-unit]")) other.setAttribute("aria-pressed", String(other === button));
    choose(report.chosen);
  });
}
for (const button of all("[data-hide]")) {
  button.addEventListener("click", () => {
    const show = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(show));
    for (const part of all(`.plot .${button.dataset.hide}`)) part.hidden = !show;
    placeLabels();
  });
}
addEventListener("resize", placeLabels);
