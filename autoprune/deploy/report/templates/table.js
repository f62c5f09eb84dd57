/* Tables sort by a click on a heading: numbers where all are, text else. */
for (const table of all("table.sortable")) {
  all("thead th", table).forEach((head, column) => {
    const button = make("button", { type: "button" }, ...head.childNodes);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
      const rows = [...body.rows];
      const numeric = rows.every((row) => value(row) === "" || value(row) === "None" || !Number.isNaN(Number(value(row))));
      const number = (row) => (["", "None"].includes(value(row)) ? -Infinity : Number(value(row)));
      rows.sort((a, b) => (numeric ? number(a) - number(b) : value(a).localeCompare(value(b))));
      if (down) rows.reverse();
      body.append(...rows);
    });
  });
}
if (report.chosen !== null) choose(report.chosen);
