"use strict";
/* The decoder: runs the operations of a model on typed arrays, one token after another.

It computes what Fabella's int8 decoder computes (src/fabella/generation/decoder/native). Each output row of a matrix
has one scale; the input vector is divided by its largest magnitude and rounded to int8; products are exact integers;
everything else is float32. `program_torch.py` writes the operations and the tensors. */

const ROUND = 12582912; // 1.5 · 2^23: adding it to a float32 rounds to an integer, halves to even

/** Return the bytes of base64, a slice at a time: a phone has no memory for a second copy of a long string. */
function bytesOfBase64(text) {
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  const bytes = new Uint8Array(text.length / 4 * 3 - padding);
  for (let start = 0, end = 0; start < text.length; start += 1 << 20) {
    const slice = atob(text.slice(start, start + (1 << 20)));
    for (let i = 0; i < slice.length; i++) bytes[end++] = slice.charCodeAt(i);
  }
  return bytes;
}

const f32 = Math.fround;
const POWERS = Float32Array.from({ length: 256 }, (_, n) => 2 ** (n - 127)); // 2^−127 … 2^128
const LANES = 16; // partial sums of a dot product of attention

/** Return the value of a polynomial, the highest power first, each step rounded to float32. */
function polynomial(coefficients, x) {
  let value = coefficients[0];
  for (let i = 1; i < coefficients.length; i++) value = f32(f32(value * x) + coefficients[i]);
  return value;
}

const EXP = Float32Array.of(1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
  5.0000001201e-1);
const [LOG2E, LN2_HIGH, LN2_LOW] = Float32Array.of(1.44269504, 0.693359375, 2.12194440e-4);

/** e^x as Fabella's decoder computes it: expf of Cephes, in float32. */
function exponential(value) {
  let x = value > 88 ? 88 : value < -87 ? -87 : value;
  const n = f32(f32(f32(x * LOG2E) + ROUND) - ROUND);
  x = f32(f32(x - f32(n * LN2_HIGH)) + f32(n * LN2_LOW));
  const p = f32(f32(f32(f32(polynomial(EXP, x) * x) * x) + x) + 1);
  return f32(p * (POWERS[n + 127] ?? NaN));
}

function sigmoid(x) {
  return f32(1 / f32(1 + exponential(-x)));
}

/** Multiply the first `width` numbers of `x` by silu of those of `gates`. */
function multiplyBySilu(x, gates, width) {
  for (let k = 0; k < width; k++) x[k] *= f32(gates[k] * sigmoid(gates[k]));
}

const ERF_ABOVE = Float32Array.of(-2.72614225801306e-10, 2.77068142495902e-8, -2.10102402082508e-6,
  -5.69250639462346e-5, -7.34990630326855e-4, -2.95459980854025e-3, -1.60960333262415e-2);
const ERF_BELOW = Float32Array.of(-1.45660718464996e-5, -2.13374055278905e-4, -1.68282697438203e-3,
  -7.37332916720468e-3, -1.42647390514189e-2);
const [SQRT_HALF, TANH_SCALE, TANH_CUBE] = Float32Array.of(0.70710678, 1.59576912, 0.044715);

/** Rational approximation of Eigen, within 4e-7, as in Fabella's decoder. */
function erf(value) {
  const x = value > 4 ? 4 : value < -4 ? -4 : value, y = f32(x * x);
  return f32(f32(x * polynomial(ERF_ABOVE, y)) / polynomial(ERF_BELOW, y));
}

const EPILOGUES = {
  store: (x) => x,
  gelu: (x) => f32(f32(0.5 * x) * f32(1 + erf(f32(x * SQRT_HALF)))),
  gelu_tanh: (x) => f32(x * sigmoid(f32(TANH_SCALE * f32(x + f32(f32(f32(TANH_CUBE * x) * x) * x))))),
};

class Decoder {
  /** `model`: the JSON of the page; `bytes`: its tensors. */
  constructor(model, bytes) {
    const { program, tensors } = model;
    const arrays = { int8: Int8Array, float32: Float32Array };
    this.tensors = tensors.map(([dtype, offset, length]) => new arrays[dtype](bytes.buffer, offset, length));
    const widest = program.widths.reduce((a, b) => Math.max(a, b));
    this.operations = program.operations.map((op) => this.#resolved(op));
    this.buffers = program.widths.map((width) => new Float32Array(Math.max(1, width)));
    this.logits = new Float32Array(program.vocab_size);
    this.normed = new Float32Array(widest);
    this.quantized = new Int8Array(widest);
    this.products = [new Float32Array(program.widest_output), new Float32Array(program.widest_output)];
    this.capacity = program.capacity;
    this.scores = new Float32Array(this.capacity);
    this.sums = [new Float32Array(widest), new Float32Array(widest)];
    this.caches = program.caches.map((size) => new Float32Array(size));
    this.position = 0;
  }

  #resolved(op) {
    const tensor = (number) => number === undefined ? null : this.tensors[number];
    const matrices = (op.matrices || []).map(({ weight, scales, bias, rows }) =>
      ({ weight: tensor(weight), scales: tensor(scales), bias: tensor(bias), rows }));
    const norm = op.norm && { ...op.norm, weight: tensor(op.norm.weight), bias: tensor(op.norm.bias) };
    const headNorm = op.head_norm &&
      { eps: op.head_norm.eps, query: tensor(op.head_norm.query), key: tensor(op.head_norm.key) };
    return { ...op, matrices, norm, headNorm, table: tensor(op.table), scales: tensor(op.scales), positions: tensor(op.positions),
      cos: tensor(op.cos), sin: tensor(op.sin), taps: tensor(op.taps) };
  }

  /** Start a new sequence. A KV cache is never read beyond the position, so that only other states are cleared. */
  reset() {
    this.position = 0;
    for (const op of this.operations) if (op.cache !== undefined && op.kind !== "attend") this.caches[op.cache].fill(0);
  }

  /** Process one more token. Return the logits, which the next call overwrites; null unless they are `wanted`. */
  step(token, wanted) {
    for (const op of this.operations) {
      if (op.last_only && !wanted) continue;
      if (op.kind === "embed") this.#embed(op, token);
      else if (op.kind === "mix") this.#mix(op);
      else if (op.kind === "convolve") this.#convolve(op);
      else if (op.kind === "attend") this.#attend(op);
      else this.#project(op);
    }
    this.position++;
    return wanted ? this.logits : null;
  }

  #embed(op, token) {
    const target = this.buffers[op.target], width = op.inputs, scale = op.scales[token], start = token * width;
    for (let k = 0; k < width; k++) {
      let x = f32(op.table[start + k] * scale);
      if (op.positions) x = f32(x + op.positions[this.position * width + k]);
      target[k] = op.residual === undefined ? x : x + this.buffers[op.residual][k];
    }
    if (op.norm) this.#normalize(op, target, target);
    if (op.kept !== undefined) this.buffers[op.kept].set(target.subarray(0, width));
  }

  /** Mix the residual stream with the embeddings. */
  #mix(op) {
    const target = this.buffers[op.target], kept = this.buffers[op.kept];
    for (let k = 0; k < op.inputs; k++) target[k] = f32(op.own_weight * target[k]) + f32(op.kept_weight * kept[k]);
  }

  #normalize(op, x, normed = this.normed) {
    const { kind, eps, weight, bias } = op.norm, width = op.inputs;
    let mean = 0, square = 0;
    if (kind === "layer") {
      for (let k = 0; k < width; k++) mean += x[k];
      mean = f32(mean / width);
    }
    for (let k = 0; k < width; k++) {
      const d = f32(x[k] - mean);
      square += d * d;
    }
    const scale = f32(1 / f32(Math.sqrt(f32(f32(square / width) + f32(eps)))));
    for (let k = 0; k < width; k++) {
      const y = f32(f32(x[k] - mean) * scale);
      normed[k] = bias ? f32(y * weight[k]) + bias[k] : y * weight[k];
    }
    return normed;
  }

  /** Norm the vector, and add to it the weighted sum of the last ones. */
  #convolve(op) {
    const { inputs: width, past, taps } = op, cache = this.caches[op.cache], target = this.buffers[op.target];
    const x = this.#normalize(op, this.buffers[op.source], this.buffers[op.kept]), own = past * width;
    for (let k = 0; k < width; k++) {
      let sum = x[k];
      for (let at = k; at < own; at += width) sum = f32(sum + f32(cache[at] * taps[at]));
      target[k] = sum + f32(x[k] * taps[own + k]);
    }
    cache.copyWithin(0, width);
    if (past) cache.set(x.subarray(0, width), own - width);
  }

  /** Quantize a vector to int8 and return its scale. */
  #quantize(x, width) {
    let largest = f32(1e-30);
    for (let k = 0; k < width; k++) {
      const magnitude = Math.abs(x[k]);
      if (!(magnitude <= largest)) largest = magnitude; // NaN too
    }
    const factor = f32(127 / largest), quantized = this.quantized;
    for (let k = 0; k < width; k++) quantized[k] = f32(f32(x[k] * factor) + ROUND) - ROUND;
    return Number.isFinite(largest) ? f32(largest / 127) : NaN;
  }

  #multiply({ weight, scales, bias, rows }, inputs, scale, products) {
    const x = this.quantized;
    let r = 0;
    for (; r + 4 <= rows; r += 4) {
      const first = r * inputs, second = first + inputs, third = second + inputs, fourth = third + inputs;
      let a = 0, b = 0, c = 0, d = 0;
      for (let k = 0; k < inputs; k++) {
        const value = x[k];
        a = a + Math.imul(weight[first + k], value) | 0;
        b = b + Math.imul(weight[second + k], value) | 0;
        c = c + Math.imul(weight[third + k], value) | 0;
        d = d + Math.imul(weight[fourth + k], value) | 0;
      }
      products[r] = a; products[r + 1] = b; products[r + 2] = c; products[r + 3] = d;
    }
    for (; r < rows; r++) {
      let sum = 0;
      for (let k = 0; k < inputs; k++) sum = sum + Math.imul(weight[r * inputs + k], x[k]) | 0;
      products[r] = sum;
    }
    for (r = 0; r < rows; r++) products[r] *= f32(scales[r] * scale);
    if (bias) for (r = 0; r < rows; r++) products[r] += bias[r];
  }

  #project(op) {
    const x = op.norm ? this.#normalize(op, this.buffers[op.source]) : this.buffers[op.source];
    if (op.gate !== undefined) multiplyBySilu(x, this.buffers[op.gate], op.inputs);
    const scale = this.#quantize(x, op.inputs);
    const target = op.target < 0 ? this.logits : this.buffers[op.target];
    const residual = op.residual === undefined ? null : this.buffers[op.residual];
    const [products, other] = this.products;
    if (op.epilogue === "swiglu" || op.epilogue === "mingru") {
      const rows = op.matrices[0].rows;
      this.#multiply(op.matrices[0], op.inputs, scale, products);
      this.#multiply(op.matrices[1], op.inputs, scale, other);
      if (op.epilogue === "swiglu") {
        for (let r = 0; r < rows; r++) target[r] = f32(products[r] * sigmoid(products[r])) * other[r];
      } else {
        const hidden = this.caches[op.cache];
        for (let r = 0; r < rows; r++) {
          const z = sigmoid(products[r]), candidate = other[r] >= 0 ? f32(other[r] + 0.5) : sigmoid(other[r]);
          hidden[r] += f32(z * f32(candidate - hidden[r]));
          target[r] = residual ? hidden[r] + residual[r] : hidden[r];
        }
      }
      return;
    }
    const epilogue = EPILOGUES[op.epilogue];
    let start = 0;
    for (const matrix of op.matrices) {
      this.#multiply(matrix, op.inputs, scale, products);
      for (let r = 0; r < matrix.rows; r++) {
        const value = epilogue(products[r]);
        target[start + r] = residual ? value + residual[start + r] : value;
      }
      start += matrix.rows;
    }
  }

  #normalizeHead(x, start, dim, weight, eps) {
    let square = 0;
    for (let e = 0; e < dim; e++) square += x[start + e] * x[start + e];
    const scale = f32(1 / f32(Math.sqrt(f32(f32(square / dim) + f32(eps)))));
    for (let e = 0; e < dim; e++) x[start + e] = f32(x[start + e] * scale) * weight[e];
  }

  #rotate(op, x, start) {
    const { cos, sin, rotary_pairs: pairs } = op, at = this.position * pairs;
    const stride = op.half_rotation ? 1 : 2, partner = op.half_rotation ? pairs : 1;
    for (let p = 0; p < pairs; p++) {
      const i = start + p * stride, first = x[i], second = x[i + partner], c = cos[at + p], s = sin[at + p];
      x[i] = f32(first * c) - f32(second * s);
      x[i + partner] = f32(second * c) + f32(first * s);
    }
  }

  /** Store the value of a key-value head: its own, or mixed with that of the first attention, which keeps its own. */
  #storeValue(op, x, value, cache, slot, head) {
    const dim = op.head_dim, first = op.first_values === undefined ? null : this.buffers[op.first_values], at = head * dim;
    for (let e = 0; e < dim; e++) {
      const own = x[value + e];
      if (op.keeps_values) first[at + e] = own;
      cache[slot + e] = op.own_weight === undefined ? own
        : f32(op.own_weight * own) + f32(op.kept_weight * first[at + e]);
    }
  }

  #attend(op) {
    const { heads, kv_heads: kvHeads, head_dim: dim, headNorm } = op, x = this.buffers[op.source];
    const length = Math.min(this.position + 1, op.window ?? Infinity), first = (this.position + 1 - length) * dim;
    const target = this.buffers[op.target], cache = this.caches[op.cache], scores = this.scores;
    const group = heads / kvHeads, values = kvHeads * this.capacity * dim;
    if (headNorm) {
      for (let h = 0; h < heads + kvHeads; h++) {
        this.#normalizeHead(x, h * dim, dim, h < heads ? headNorm.query : headNorm.key, headNorm.eps);
      }
    }
    if (op.cos) for (let h = 0; h < heads + kvHeads; h++) this.#rotate(op, x, h * dim);
    for (let g = 0; g < kvHeads; g++) {
      const keys = g * this.capacity * dim, slot = keys + this.position * dim, key = (heads + g) * dim;
      for (let e = 0; e < dim; e++) cache[slot + e] = x[key + e];
      this.#storeValue(op, x, key + kvHeads * dim, cache, values + slot, g);
      for (let h = g * group; h < (g + 1) * group; h++) {
        attendHead(x, h * dim, cache, keys + first, values + keys + first, length, dim, op.score_scale, scores, target,
          this.sums);
        if (op.gate === undefined) continue;
        const gate = f32(2 * sigmoid(op.gate === op.source ? x[(heads + 2 * kvHeads) * dim + h] : this.buffers[op.gate][h]));
        for (let e = h * dim; e < (h + 1) * dim; e++) target[e] *= gate;
      }
    }
  }
}

const lanes = new Float32Array(LANES);

/** Return the dot product of a query and a key in the order of Fabella's decoder: 16 partial sums, then neighbors. */
function headProduct(x, query, cache, key, dim) {
  const whole = dim - dim % LANES;
  lanes.fill(0);
  for (let e = 0; e < whole; e += LANES) {
    for (let l = 0; l < LANES; l++) lanes[l] = x[query + e + l] * cache[key + e + l] + lanes[l];
  }
  for (let size = LANES / 2, l = 0; l < size; l++) lanes[l] += lanes[l + size];
  for (let size = LANES / 4; size > 0; size >>= 1) for (let l = 0; l < size; l++) lanes[l] = lanes[2 * l] + lanes[2 * l + 1];
  let sum = lanes[0];
  for (let e = whole; e < dim; e++) sum = f32(sum + f32(cache[key + e] * x[query + e]));
  return sum;
}

/** Write softmax(scale · q·K) V of one head to `target`, at the place of its query in `x`. */
function attendHead(x, query, cache, keys, values, length, dim, scale, scores, target, sums) {
  let top = -Infinity, total = 0;
  for (let s = 0; s < length; s++) {
    scores[s] = headProduct(x, query, cache, keys + s * dim, dim) * scale;
    if (!(scores[s] <= top)) top = scores[s];
  }
  for (let s = 0; s < length; s++) {
    scores[s] = exponential(f32(scores[s] - top));
    total += scores[s];
  }
  total = f32(total);
  sums[0].fill(0); // even positions
  sums[1].fill(0);
  for (let s = 0; s < length; s++) {
    const sum = sums[s % 2], score = f32(scores[s] / total), value = values + s * dim;
    for (let e = 0; e < dim; e++) sum[e] = score * cache[value + e] + sum[e];
  }
  for (let e = 0; e < dim; e++) target[query + e] = sums[0][e] + sums[1][e];
}

/** Return the first position that the model sees of `length` tokens: a full context drops its oldest half. */
function contextStart(length, contextLength) {
  if (!contextLength) return 0;
  const stride = contextLength - Math.max(1, contextLength >> 1) + 1;
  return Math.max(0, Math.ceil((length - contextLength) / stride)) * stride;
}

/** A sequence of ids that grows, and its next-token logits. */
class TokenSequence {
  constructor(decoder, ids, contextLength) {
    this.decoder = decoder;
    this.ids = [...ids];
    this.contextLength = contextLength;
    this.start = 0;
    this.read = 0;
    decoder.reset();
  }

  /** Read the next token that the model has not read. Return whether it was the last one: its logits are ready. */
  readOne() {
    const start = contextStart(this.ids.length, this.contextLength);
    if (start !== this.start) {
      this.decoder.reset();
      this.start = this.read = start;
    }
    const last = this.read + 1 === this.ids.length;
    this.logits = this.decoder.step(this.ids[this.read++], last);
    return last;
  }

  get ready() {
    return this.read === this.ids.length;
  }
}

/** Return an id below `count`: the most likely one at temperature 0, else sampled from the `topP` most likely. */
function sample(logits, count, temperature, topP, random) {
  let best = 0;
  for (let k = 0; k < count; k++) {
    if (!Number.isFinite(logits[k])) throw new Error("The model's logits are not finite. Export the run again.");
    if (logits[k] > logits[best]) best = k;
  }
  if (temperature <= 0) return best;
  const order = [], weights = new Float64Array(count);
  let total = 0;
  for (let k = 0; k < count; k++) {
    weights[k] = Math.exp((logits[k] - logits[best]) / temperature);
    total += weights[k];
    if (weights[k] > 1e-9) order.push(k);
  }
  order.sort((a, b) => weights[b] - weights[a]);
  let kept = 0, sum = 0;
  while (kept < order.length && sum < topP * total) sum += weights[order[kept++]];
  let target = random() * sum;
  for (let k = 0; k < kept; k++) if ((target -= weights[order[k]]) < 0) return order[k];
  return order[0];
}
