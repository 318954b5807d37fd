"use strict";
// Tables of the report: a button in each header sorts by its column, numbers as numbers, blanks last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "descending"
        || (head.getAttribute("aria-sort") === "none" && !head.classList.contains("number"));
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "ascending" : "descending");
      sortRows(table.tBodies[0], column, down ? 1 : -1);
    });
  });
}

function sortRows(body, column, sign) {
  const keyed = [...body.rows].map((row) => {
    const cell = row.cells[column];
    const number = cell.dataset.value === undefined ? NaN : Number(cell.dataset.value);
    return { row, number, text: cell.textContent.trim() };
  });
  const blank = (entry) => entry.text === "" || entry.text === "-";
  keyed.sort((a, b) => {
    if (blank(a) || blank(b)) return blank(a) - blank(b);
    if (!Number.isNaN(a.number) && !Number.isNaN(b.number)) return sign * (a.number - b.number);
    return sign * a.text.localeCompare(b.text, undefined, { numeric: true });
  });
  body.append(...keyed.map((entry) => entry.row));
}
