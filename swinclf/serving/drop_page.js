// Sends images to the server of the page, a few at a time, and shows its answers.
const AT_A_TIME = 4; // requests; the server computes them in one batch
const THUMBNAIL_PX = 480;
let token = new URLSearchParams(location.hash.slice(1)).get("token");
let done = 0, all = 0, running = 0;
const waiting = [];

// --- the server ---------------------------------------------------------------------------------

function ask(path, options = {}) {
  // A header is a string of bytes: those of the token in UTF-8.
  const bytes = String.fromCharCode(...new TextEncoder().encode(token ?? ""));
  const headers = token ? {Authorization: `Bearer ${bytes}`} : {};
  return fetch(path, {...options, headers});
}

async function describe() {
  const response = await ask("model").catch(() => null);
  if (!response) return say("The server does not answer.");
  find("access").hidden = response.status !== 401;
  if (response.status === 401) {
    find("token").focus();
    return say(token ? "The token is not that of this server." : "");
  }
  const model = await response.json().catch(() => ({error: `The server answered ${response.status}.`}));
  if (model.error) return say(model.error);
  const classes = model.classes.length;
  find("model").textContent = `${model.model}, ${classes} ${classes === 1 ? "class" : "classes"}. `
    + "Images go to the server of this page, and nowhere else.";
  say("");
}

async function predict(file) {
  const form = new FormData();
  form.append("file", file, file.name);
  const response = await ask("predict", {method: "POST", body: form}).catch(() => null);
  if (!response) return {error: "the server does not answer"};
  if (response.status === 401) describe();
  return response.json().catch(() => ({error: `the server answered ${response.status}`}));
}

// --- the cards ----------------------------------------------------------------------------------

async function draw(file, parent) {
  try {
    const whole = await createImageBitmap(file);
    const scale = Math.min(1, THUMBNAIL_PX / Math.max(whole.width, whole.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(whole.width * scale));
    canvas.height = Math.max(1, Math.round(whole.height * scale));
    canvas.getContext("2d").drawImage(whole, 0, 0, canvas.width, canvas.height);
    whole.close();
    parent.replaceChildren(canvas);
  } catch {
    parent.textContent = "no preview";
  }
}

function show(row, card) {
  const heading = card.querySelector("h2");
  card.dataset.state = row.error ? "error" : row.withheld_label ? "unsure" : "done";
  if (row.error) {
    heading.textContent = "Not predicted";
    add(card, "p", row.error);
    return;
  }
  heading.textContent = row.withheld_label ? "Not sure" : row.label;
  addScores(card, row.top);
}

function say(text) {
  find("status").textContent = text;
}

async function work() {
  while (waiting.length) {
    const {file, card, picture} = waiting.shift();
    await draw(file, picture);
    show(await predict(file), card);
    done += 1;
    say(`${done} of ${all} ${all === 1 ? "image" : "images"} done`);
  }
  running -= 1;
}

function take(files) {
  const cards = document.createDocumentFragment();
  for (const file of files) {
    const card = add(cards, "li");
    const picture = add(card, "div");
    picture.className = "picture";
    add(card, "h2", "…");
    add(card, "p", file.name).className = "file";
    waiting.push({file, card, picture});
  }
  all += files.length;
  find("cards").prepend(cards);
  while (running < AT_A_TIME && waiting.length) {
    running += 1;
    work();
  }
}

// --- what people do -----------------------------------------------------------------------------

onFiles(take);
find("access").addEventListener("submit", event => {
  event.preventDefault();
  token = find("token").value;
  describe();
});
describe();
