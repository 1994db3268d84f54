// Classifies images in the page. `ort` is ONNX Runtime Web, defined above in the same script.
const [status, files, results, save, clear] = ["status", "files", "results", "save", "clear"].map(find);
const card = JSON.parse(find("card").textContent);
const SHOWN = 5;
const rows = [];  // of the CSV file

const fromBase64 = (text) => {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let index = 0; index < bytes.length; index += 1) bytes[index] = binary.charCodeAt(index);
  return bytes;
};

// Data of the page: base64 of gzip, removed from it as it takes memory.
const unpack = async (id) => {
  const bytes = fromBase64(find(id).textContent);
  find(id).remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

const load = async () => {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = (await unpack("wasm")).buffer;
  return ort.InferenceSession.create(await unpack("model"), { executionProviders: ["wasm"] });
};

// Decodes a file upright, without colour management and over white, as `swinclf predict` does.
const decode = async (file) => {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const pixels = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < pixels.length; from += 4) {
    pixels[to++] = data[from];
    pixels[to++] = data[from + 1];
    pixels[to++] = data[from + 2];
  }
  return new ort.Tensor("uint8", pixels, [1, height, width, 3]);
};

const classify = async (session, file) => {
  const images = await decode(file);
  const outputs = await session.run({ images }, card.outputs);
  const probabilities = outputs.probabilities.data;
  const order = [...probabilities.keys()].sort((one, other) => probabilities[other] - probabilities[one]);
  const top = order.slice(0, SHOWN).map((index) => ({
    label: card.classes[index], probability: probabilities[index],
  }));
  return { top, isAccepted: outputs.accepted ? Boolean(outputs.accepted.data[0]) : true };
};

const show = (item, file, { top, isAccepted }) => {
  const [{ label, probability }] = top;
  item.classList.toggle("unsure", !isAccepted);
  item.querySelector("h2").textContent = isAccepted ? label : "not sure";
  item.querySelector("p").textContent = file.name;
  addScores(item, top);
  rows.push([file.name, isAccepted ? label : "unknown", probability, ""]);
};

const classifyAll = async (session, images) => {
  const items = images.map((file) => {
    const item = add(results, "li");
    const image = add(item, "img");
    image.alt = "";
    image.loading = "lazy";
    image.src = URL.createObjectURL(file);
    add(item, "h2", "…");
    add(item, "p", file.name);
    return item;
  });
  let failed = 0;
  for (const [number, file] of images.entries()) {
    status.textContent = `Classifying image ${number + 1} of ${images.length} …`;
    await new Promise((resume) => setTimeout(resume));  // lets the page be drawn
    try {
      show(items[number], file, await classify(session, file));
    } catch (error) {
      failed += 1;
      items[number].querySelector("h2").textContent = "cannot be read";
      items[number].querySelector("p").textContent = `${file.name}: ${error.message}`;
      rows.push([file.name, "", "", error.message]);
    }
  }
  const note = failed ? `, ${failed} could not be read` : "";
  status.textContent = `${images.length - failed} of ${images.length} classified${note}.`;
  save.hidden = clear.hidden = false;
};

const cell = (value) => /[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value;
save.addEventListener("click", () => {
  const lines = [["path", "label", "probability", "error"], ...rows].map((row) => row.map(cell).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  link.download = "predictions.csv";
  link.click();
});
clear.addEventListener("click", () => {
  for (const image of results.querySelectorAll("img")) URL.revokeObjectURL(image.src);
  results.replaceChildren();
  rows.length = 0;
  save.hidden = clear.hidden = true;
  status.textContent = "Ready.";
  files.focus();
});

// Files that are dropped before the model has been loaded wait for it.
const session = load();
const fail = (error) => {
  status.textContent = `The model cannot be loaded by this browser: ${error.message}`;
};
let queue = session.then(() => {
  files.disabled = false;
  status.textContent = "Ready.";
}, fail);
onFiles((chosen) => {
  queue = queue.then(() => session).then((model) => classifyAll(model, chosen), fail);
});
