// Runs the exported models on a dropped image. All files are beside this one. Nothing is sent anywhere.
import * as ort from "./ort.wasm.min.mjs";
import { resizedShape, resizeBilinear } from "./resize.js";

const COLORS = ["#e43c3c", "#3c8ce6", "#46b450", "#f0a01e", "#a05ac8", "#00b4b4", "#dc6eb4"];
const get = (id) => document.getElementById(id);
const views = [];
let image = null;

ort.env.wasm.numThreads = 1; // several need headers that a static server rarely sends
ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;

async function load() {
  const models = await (await fetch("models.json")).json();
  get("threshold").min = Math.max(0, ...models.map((m) => m.metadata.score_threshold));
  for (const model of models) {
    const session = await ort.InferenceSession.create(model.file, { executionProviders: ["wasm"] });
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    figure.append(caption, document.createElement("canvas"));
    get("views").append(figure);
    views.push({ ...model, session, figure, found: null });
    caption.textContent = model.title;
  }
  say("Ready.");
}

async function pixelsOf(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let i = 0, j = 0; i < rgba.length; i += 4) for (let k = 0; k < 3; k++) rgb[j++] = rgba[i + k];
  return { rgb, width: bitmap.width, height: bitmap.height, bitmap };
}

async function find(view, { rgb, width, height }) {
  const rule = view.metadata.resize;
  const [h, w] = resizedShape(height, width, rule.shorter, rule.longer);
  const fixed = view.metadata.fixed_size;
  if (fixed && (fixed[0] !== h || fixed[1] !== w)) throw new Error(`the model takes only ${fixed[1]} x ${fixed[0]} pixels`);
  const resized = resizeBilinear(rgb, height, width, h, w);
  const inputs = {
    image: new ort.Tensor("uint8", resized, [h, w, 3]),
    size: new ort.Tensor("int64", BigInt64Array.from([BigInt(height), BigInt(width)]), [2]),
  };
  const outputs = await view.session.run(inputs);
  const found = { boxes: [], labels: outputs.label_map ? Array.from(outputs.label_map.data, Number) : null };
  const names = view.metadata.classes;
  for (let i = 0; outputs.scores && i < outputs.scores.data.length; i++) {
    const number = Number(outputs.classes.data[i]);
    const box = Array.from(outputs.boxes.data.slice(4 * i, 4 * i + 4));
    found.boxes.push({ box, score: outputs.scores.data[i], number, name: names[number][1] });
  }
  return found;
}

function draw() {
  const least = Number(get("threshold").value);
  get("value").textContent = least.toFixed(2);
  for (const view of image ? views : []) {
    const canvas = view.figure.querySelector("canvas");
    [canvas.width, canvas.height] = [image.width, image.height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image.bitmap, 0, 0);
    if (view.found.labels) overlay(context, view.found.labels);
    const size = Math.max(10, image.width / 60);
    context.font = `${size}px sans-serif`;
    context.lineWidth = Math.max(1, image.width / 400);
    const shown = view.found.boxes.filter((x) => x.score >= least);
    for (const { box: [x0, y0, x1, y1], score, number, name } of shown) {
      const label = `${name} ${score.toFixed(2)}`;
      context.strokeStyle = context.fillStyle = COLORS[number % COLORS.length];
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      context.fillRect(x0, Math.max(0, y0 - size * 1.2), context.measureText(label).width + 4, size * 1.2);
      context.fillStyle = "#fff";
      context.fillText(label, x0 + 2, Math.max(size, y0 - size * 0.25));
    }
    view.figure.querySelector("figcaption").textContent = `${view.title}: ${shown.length} objects`;
  }
}

function overlay(context, labels) {
  const pixels = context.getImageData(0, 0, image.width, image.height);
  for (let i = 0; i < labels.length; i++) {
    const color = COLORS[labels[i] % COLORS.length];
    for (let k = 0; k < 3; k++) {
      const value = parseInt(color.slice(1 + 2 * k, 3 + 2 * k), 16);
      pixels.data[4 * i + k] = (pixels.data[4 * i + k] + value) / 2;
    }
  }
  context.putImageData(pixels, 0, 0);
}

async function show(file) {
  say("The models predict ...");
  image = null;
  const next = await pixelsOf(file);
  const start = performance.now();
  for (const view of views) view.found = await find(view, next);
  image = next;
  draw();
  say(`${file.name}: ${next.width} x ${next.height} pixels, ${Math.round(performance.now() - start)} ms.`);
  return views.map(({ title, found }) => ({ title, ...found }));
}

function say(text, error = false) {
  get("status").textContent = text;
  get("status").className = error ? "error" : "";
}

const failed = (e) => {
  say(`This did not work: ${e.message ?? e}`, true);
  throw e;
};
const ready = load().catch(failed);
// the last predictions, for programs that drive the page
const take = (file) => file && (window.found = ready.then(() => show(file)).catch(failed));

get("file").addEventListener("change", (e) => take(e.target.files[0]));
get("threshold").addEventListener("input", draw);
const drop = get("drop");
for (const name of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(name, (e) => {
    e.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") take(e.dataTransfer.files[0]);
  });
}
