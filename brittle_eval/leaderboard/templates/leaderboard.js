"use strict";
const tables = [...document.querySelectorAll("main table")];
const said = document.getElementById("said");
const key = (text) => {
  const number = parseFloat(text.replace("<", "").replaceAll(",", ""));
  return text.trim() === "" || text.trim() === "–" ? null : Number.isNaN(number) ? text.toLowerCase() : number;
};
const compare = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
const groupsOf = (body) => {
  const groups = [];
  for (const row of body.rows) {
    if (row.className === "c" && groups.length) groups.at(-1).push(row);
    else groups.push([row]);
  }
  return groups;
};
for (const table of tables) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, at) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const groups = groupsOf(body).map((rows) => [key(rows[0].cells[at].textContent), rows]);
      groups.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : up ? compare(a, b) : compare(b, a)));
      body.append(...groups.flatMap(([, rows]) => rows));
      said.textContent = `sorted by ${button.textContent}, ${up ? "smallest" : "largest"} value before others`;
    });
  });
}
let waiting = 0;
document.getElementById("filter").addEventListener("input", (event) => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const wanted = event.target.value.toLowerCase();
    let shown = 0;
    for (const table of tables)
      for (const rows of groupsOf(table.tBodies[0])) {
        const hit = !wanted || rows.some((row) => row.textContent.toLowerCase().includes(wanted));
        for (const row of rows) row.hidden = !hit;
        shown += hit ? rows.length : 0;
      }
    said.textContent = `${shown} rows shown`;
  }, 150);
});
