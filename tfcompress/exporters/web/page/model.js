// Loads model.tflite into LiteRT.js and runs it: named arrays in, named arrays out.
import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

const here = (path) => new URL(path, import.meta.url).href;
const ARRAYS = { float32: Float32Array, int32: Int32Array, int8: Int8Array, uint8: Uint8Array };

export async function loadModel(accelerator = "wasm") {
  await loadLiteRt(here("./litertjs/core/wasm/"));
  const model = await loadAndCompile(here("./model.tflite"), { accelerator });
  const inputs = model.getInputDetails();

  // One sample: `arrays` has a flat array for each input name.
  async function run(arrays) {
    const tensors = {};
    for (const { name, shape, dtype } of inputs) {
      const size = shape.reduce((product, axis) => product * axis, 1);
      const values = arrays[name];
      if (values === undefined || values.length !== size) {
        throw new Error(`Input "${name}" needs ${size} numbers.`);
      }
      tensors[name] = new Tensor(new ARRAYS[dtype](values), shape);
    }
    const found = await model.run(tensors);
    const outputs = {};
    for (const [name, tensor] of Object.entries(found)) {
      const shape = Array.from(tensor.type.layout.dimensions);
      outputs[name] = { shape, values: Array.from(tensor.toTypedArray()) };
      tensor.delete();
    }
    Object.values(tensors).forEach((tensor) => tensor.delete());
    return outputs;
  }

  return { inputs, run };
}
