// Images that are dropped on a page, and a card with the answer for each.
"use strict";
const find = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;

const add = (parent, tag, text = "") => {
  const child = document.createElement(tag);
  child.textContent = text;
  if (text) child.dir = "auto";
  parent.append(child);
  return child;
};

// The most probable classes, each with its probability and a bar.
const addScores = (card, top) => {
  const scores = add(card, "dl");
  for (const { label, probability } of top) {
    add(scores, "dt", label);
    add(scores, "dd", percent(probability));
    const meter = add(scores, "meter");
    meter.value = probability;
    meter.setAttribute("aria-hidden", "true");  // the number is next to it
  }
};

// Calls `take` with the files that are chosen, pasted, or dropped anywhere on the page.
const onFiles = (take) => {
  const start = (files) => { if (files.length) take([...files]); };
  const drag = (event, isOver) => {
    event.preventDefault();
    document.body.classList.toggle("dragged", isOver);
  };
  find("files").addEventListener("change", ({ target }) => {
    start(target.files);
    target.value = "";  // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => start(event.clipboardData.files));
  document.addEventListener("dragover", (event) => drag(event, true));
  document.addEventListener("dragleave", (event) => drag(event, false));
  document.addEventListener("drop", (event) => {
    drag(event, false);
    start(event.dataTransfer.files);
  });
};
