/* What is told of the chosen trial: figures, scores, knobs, and what it keeps of each layer. */
function showDetail(detail) {
  const place = document.getElementById("detail");
  const [low, high] = report.frame;
  const at = (value) => `${Math.min(Math.max((100 * (value - low)) / (high - low), 0), 100)}%`;
  const parts = [];
  if (detail.retention !== null) {
    const sure = detail.low !== null ? `retention, ${detail.low.toFixed(3)} to ${detail.high.toFixed(3)}` : "retention, unconfirmed";
    parts.push(make("p", { className: "big" }, make("strong", {}, detail.retention.toFixed(3)), make("small", {}, sure)));
    const gauge = make("div", { className: "gauge", "aria-hidden": "true" });
    if (detail.low !== null) {
      const width = parseFloat(at(detail.high)) - parseFloat(at(detail.low));
      gauge.append(make("i", { style: `left:${at(detail.low)};width:${width}%` }));
    }
    gauge.append(make("b", { style: `left:${at(detail.retention)}` }));
    parts.push(gauge);
  }
  parts.push(make("p", { className: "verdict" }, detail.verdict[0].toUpperCase() + detail.verdict.slice(1)));
  if (detail.command) {
    const copy = make("button", { type: "button", className: "copy", "data-copy": detail.command }, "Copy");
    parts.push(make("div", { className: "line" }, make("code", {}, detail.command), copy));
  }
  parts.push(facts(detail.facts));
  if (detail.capabilities.length > 1) parts.push(make("h3", {}, "Kept of each capability"), scores(detail.capabilities));
  if (detail.scores.length) parts.push(make("h3", {}, detail.scores.some((row) => row.dense !== null) ? "Scores by task, and the dense model's mark" : "Scores by task"), scores(detail.scores));
  if (detail.knobs.length) {
    parts.push(make("details", {}, make("summary", {}, `Knobs `, make("small", {}, String(detail.knobs.length))), facts(detail.knobs)));
  }
  place.replaceChildren(...parts);
  showKeep(detail);
}

function facts(rows) {
  return make("dl", { className: "facts" }, ...rows.map((row) => make("div", {}, make("dt", {}, row.name), make("dd", {}, row.value))));
}

function scores(rows) {
  return make("ul", { className: "score-bars" }, ...rows.map((row) => {
    const track = make("span", { className: "track", "aria-hidden": "true" }, make("i", { style: `width:${100 * Math.min(Math.max(row.value, 0), 1)}%` }));
    if (row.dense !== null) track.append(make("b", { style: `left:${100 * row.dense}%` }));
    const said = row.dense !== null ? `${row.value.toFixed(3)} of the dense model's ${row.dense.toFixed(3)}` : row.value.toFixed(3);
    const figure = make("span", { "aria-label": said, role: "img", title: said }, row.value.toFixed(3));
    return make("li", {}, make("span", {}, row.task.replaceAll("_", " ")), track, figure);
  }));
}

function showKeep(detail) {
  const place = document.getElementById("keep");
  if (!place) return;
  if (!detail.keep) {
    place.replaceChildren(make("p", { className: "empty" }, `What trial ${detail.trial} keeps of each layer was not noted.`));
    return;
  }
  const keep = detail.keep;
  const layers = keep.heads.length;
  const kinds = [
    ["Attention heads", keep.heads, keep.dense_heads],
    ["MLP channels", keep.channels, keep.dense_channels],
  ];
  const parts = [make("h3", {}, `What trial ${detail.trial} keeps of each layer`)];
  for (const [what, kept, dense] of kinds) {
    const sum = (values) => values.reduce((a, b) => a + b, 0);
    const of = sum(dense);
    parts.push(make("p", { className: "what" }, make("span", {}, what), make("span", {}, `${sum(kept).toLocaleString("en")} of ${of.toLocaleString("en")}`)));
    const row = make("div", { className: "row", role: "img", "aria-label": `${what} kept, by layer: ${kept.join(", ")}; of ${dense.join(", ")}` });
    kept.forEach((count, layer) => {
      const share = dense[layer] ? count / dense[layer] : 0;
      const bar = make("i", { className: count ? "" : "gone", style: `--s:${share}`, title: `layer ${layer}: ${count} of ${dense[layer]}` });
      if (layers <= 16) bar.append(make("b", {}, make("span", {}, count ? String(count) : "×")));
      row.append(bar);
    });
    parts.push(row);
  }
  const every = layers <= 16 ? 1 : layers <= 48 ? 4 : 8;
  const numbers = make("div", { className: "numbers", "aria-hidden": "true" });
  for (let layer = 0; layer < layers; layer += 1) numbers.append(make("span", {}, layer % every ? "" : String(layer)));
  parts.push(numbers, make("p", { className: "axis-title" }, "layer of the dense backbone; × or hatched is gone"));
  parts.push(keepTable(keep));
  place.replaceChildren(...parts);
}

function keepTable(keep) {
  const head = ["Layer", "Attention heads", "MLP channels"].map((text) => make("th", { scope: "col" }, text));
  const rows = keep.heads.map((heads, layer) => make("tr", {},
    make("th", { scope: "row" }, String(layer)),
    make("td", {}, `${heads} of ${keep.dense_heads[layer]}`),
    make("td", {}, `${keep.channels[layer]} of ${keep.dense_channels[layer]}`)));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
  return make("details", {}, make("summary", {}, "The same as a table"), make("div", { className: "scroll", tabIndex: 0 }, table));
}
