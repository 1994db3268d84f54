// Filters and orders the thumbnails. Without it all of them are shown, in the order of the page.
"use strict";
const form = document.getElementById("filter");
const gallery = document.getElementById("gallery");
const [label, low, high, order] = ["label", "low", "high", "order"].map(
  (id) => document.getElementById(id));
const figures = [...(gallery?.children ?? [])];
const collator = new Intl.Collator(undefined, { numeric: true });
const confidence = (figure) => Number(figure.dataset.confidence);
const path = (figure) => figure.querySelector(".path").textContent;
const orders = {
  value: null,
  doubt: (one, other) => confidence(one) - confidence(other),
  confidence: (one, other) => confidence(other) - confidence(one),
  path: (one, other) => collator.compare(path(one), path(other)),
};

const filter = () => {
  let shown = 0;
  for (const figure of figures) {
    const percent = Number((100 * confidence(figure)).toFixed(1));  // as shown
    const isLabel = !label.value || figure.dataset.label === label.value;
    figure.hidden = !(isLabel && percent >= Number(low.value) && percent <= Number(high.value));
    shown += !figure.hidden;
  }
  document.getElementById("count").textContent =
    `${shown.toLocaleString()} of ${figures.length.toLocaleString()} images`;
};
const sort = () => {
  const compare = orders[order.value];
  gallery.append(...(compare ? [...figures].sort(compare) : figures));
};
if (figures.length) {
  form.addEventListener("input", filter);
  order.addEventListener("input", sort);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.classList.add("ready");
  filter();
}
