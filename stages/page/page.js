// Tables with class "sortable": a heading's button sorts by its column, a second press turns the order round.
"use strict";
const announcement = document.getElementById("announcement");

function valueOf(row, column) {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a.localeCompare(b, "en", { numeric: true });
}

function sortBy(table, heading) {
  const column = heading.cellIndex;
  const first = table.tBodies[0].rows[0];
  const numeric = first && "value" in first.cells[column].dataset;
  const before = heading.getAttribute("aria-sort");
  const down = before === "none" ? numeric : before === "ascending";
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => (down ? -1 : 1) * compare(valueOf(a, column), valueOf(b, column)));
  table.tBodies[0].append(...rows);
  announcement.textContent = `Sorted by ${heading.textContent}, ${down ? "descending" : "ascending"}`;
}

for (const table of document.querySelectorAll("table.sortable"))
  for (const heading of table.tHead.rows[0].cells)
    heading.querySelector("button").addEventListener("click", () => sortBy(table, heading));

// Folded parts are unfolded for printing, and folded again.
const folded = () => document.querySelectorAll("details:not([open])");
let opened = [];
addEventListener("beforeprint", () => { opened = [...folded()]; for (const each of opened) each.open = true; });
addEventListener("afterprint", () => { for (const each of opened) each.open = false; });
