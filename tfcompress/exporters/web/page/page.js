// The page around model.js: a form for one sample, or the samples of a file.
import { loadModel } from "./model.js";

const MOST_VALUES = 20;
const SCALES = { "0 to 1": (p) => p / 255, "-1 to 1": (p) => p / 127.5 - 1, "0 to 255": (p) => p };
const byId = (id) => document.getElementById(id);
const sizeOf = (shape) => shape.reduce((product, axis) => product * axis, 1);

function add(parent, tag, properties = {}, text = "") {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(text);
  parent.append(element);
  return element;
}

function box(parent, name, note) {
  const found = add(parent, "section", { className: "tensor" });
  add(add(found, "h2", {}, name), "span", { className: "note" }, note);
  return found;
}

// A file picker whose pixels become the numbers of an input.
function addPicture(parent, [, height, width, channels], area) {
  const row = add(parent, "div", { className: "picture" });
  const canvas = add(row, "canvas", { width, height });
  const file = add(row, "input", { type: "file", accept: "image/*", ariaLabel: "picture" });
  const scale = add(add(row, "label", {}, "values "), "select");
  for (const name of Object.keys(SCALES)) add(scale, "option", {}, name);
  async function read() {
    if (!file.files.length) return;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(await createImageBitmap(file.files[0]), 0, 0, width, height);
    const pixels = context.getImageData(0, 0, width, height).data;
    const values = [];
    for (let i = 0; i < pixels.length; i += 4) {
      const colour = Array.from(pixels.slice(i, i + 3));
      const grey = [0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]];
      values.push(...(channels === 1 ? grey : colour).map(SCALES[scale.value]));
    }
    area.value = JSON.stringify(values.map((value) => Number(value.toFixed(4))));
  }
  file.addEventListener("change", read);
  scale.addEventListener("change", read);
}

function addInput({ name, shape, dtype }) {
  const parent = box(byId("inputs"), name, `${dtype}, ${shape.join(" × ")}`);
  const area = document.createElement("textarea");
  const image = shape.length === 4 && [1, 3].includes(shape[3]);
  if (image && dtype === "float32") addPicture(parent, shape, area);
  area.value = JSON.stringify(Array(sizeOf(shape)).fill(0));
  area.ariaLabel = `${name}: a flat array of ${sizeOf(shape)} numbers`;
  parent.append(area);
  return [name, area];
}

function addOutput(name, { shape, values }) {
  const parent = box(byId("outputs"), name, shape.join(" × "));
  const largest = Math.max(...values.map(Math.abs), 1e-12);
  const order = [...values.keys()].sort((a, b) => values[b] - values[a]);
  for (const index of order.slice(0, MOST_VALUES)) {
    const row = add(parent, "div", { className: "value" });
    add(row, "span", {}, `[${index}]`);
    add(row, "span", {}, values[index].toPrecision(4));
    const share = Math.max(0, values[index]) / largest;
    add(row, "i").style.width = `${(100 * share).toFixed(1)}%`;
  }
  if (values.length > MOST_VALUES) {
    add(parent, "p", { className: "note" }, `and ${values.length - MOST_VALUES} smaller ones`);
  }
}

function say(text, error = false) {
  byId("status").textContent = text;
  byId("status").className = error ? "note error" : "note";
}

// Samples from a file beside the page, as `load` of tfcompress runs them.
async function runFile(run, path) {
  const outputs = [];
  for (const sample of await (await fetch(path)).json()) outputs.push(await run(sample));
  byId("result").textContent = JSON.stringify({ outputs });
}

function showForm(inputs, run) {
  const areas = inputs.map(addInput);
  byId("button").disabled = false;
  say("ready");
  byId("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    byId("outputs").replaceChildren();
    try {
      const sample = Object.fromEntries(areas.map(([name, area]) => [name, JSON.parse(area.value)]));
      const start = performance.now();
      const outputs = await run(sample);
      say(`${(performance.now() - start).toFixed(1)} ms`);
      for (const [name, output] of Object.entries(outputs)) addOutput(name, output);
    } catch (error) {
      say(String(error), true);
    }
  });
}

try {
  const { inputs, run } = await loadModel();
  const samples = new URLSearchParams(location.search).get("samples");
  if (samples) await runFile(run, samples);
  else showForm(inputs, run);
} catch (error) {
  byId("result").textContent = JSON.stringify({ error: String(error) });
  say(`The model did not load: ${error}`, true);
}
