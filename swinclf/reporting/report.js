// Behaviour of the report: sorting, the images of a confusion matrix cell, the filters of the
// gallery, the colour theme.
// Everything is readable without it.
"use strict";
const root = document.documentElement;
root.classList.add("js");

// Colour theme: that of the system until the button is used.
const theme = document.getElementById("theme");
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";
const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
prefersDark.addEventListener("change", nameTheme);
nameTheme();
theme.hidden = false;

// Tables: a click on a header sorts by its column, another click reverses the order. Numbers are
// sorted by data-value, largest first; rows without a number are last.
const collator = new Intl.Collator(undefined, { numeric: true });
const sortTable = (table, header) => {
  const column = header.cellIndex;
  const isNumber = header.classList.contains("num");
  const first = isNumber ? "descending" : "ascending";
  const second = isNumber ? "ascending" : "descending";
  const order = header.getAttribute("aria-sort") === first ? second : first;
  const sign = order === "ascending" ? 1 : -1;
  const compare = (one, other) => {
    const [a, b] = [one.cells[column], other.cells[column]];
    if (!isNumber) return sign * collator.compare(a.textContent, b.textContent);
    const [x, y] = [a.dataset.value, b.dataset.value];
    if (!x || !y) return (x ? 0 : 1) - (y ? 0 : 1);
    return sign * (x - y);
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort(compare));
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
};
for (const table of document.querySelectorAll("table.sortable")) {
  for (const header of table.tHead.rows[0].cells) {
    if (!header.textContent) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortTable(table, header));
    header.append(button);
  }
}

// Confusion matrix: a cell is a link to its images, which are shown below without scrolling.
const links = [...document.querySelectorAll("a[data-pair]")];
const showPair = (id) => {
  for (const panel of document.querySelectorAll(".pair.shown")) panel.classList.remove("shown");
  const panel = document.getElementById(id);
  panel.classList.add("shown");
  for (const link of links) {
    if (link.dataset.pair === id) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  return panel;
};
for (const link of links) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    const panel = showPair(link.dataset.pair);
    panel.focus({ preventScroll: true });
    panel.scrollIntoView({ block: "nearest" });
  });
}
const wanted = document.getElementById(location.hash.slice(1));
if (wanted?.classList.contains("pair")) showPair(wanted.id);
else if (links.length) showPair(document.querySelector(".pair").id);

// Gallery: an image is shown if it passes all three filters.
const filters = document.querySelector(".filters");
if (filters) {
  const [ofClass, ofResult, ofConfidence] = filters.querySelectorAll("select");
  const figures = [...document.querySelectorAll("#gallery figure")];
  const isShown = ({ dataset }) => {
    const [low, high] = (ofConfidence.value || "0 2").split(" ");
    return (!ofClass.value || dataset.class === ofClass.value)
      && (!ofResult.value || dataset.result === ofResult.value)
      && +dataset.confidence >= +low && +dataset.confidence < +high;
  };
  const filter = () => {
    for (const figure of figures) figure.hidden = !isShown(figure);
    const shown = figures.filter((figure) => !figure.hidden).length;
    filters.querySelector("output").textContent = `${shown} of ${figures.length} images`;
  };
  filters.addEventListener("change", filter);
  filters.hidden = false;
  filter();
}
