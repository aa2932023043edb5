"use strict";
/* Runs the decoder and the tokenizer of an exported page in Node.js: `node check.js PAGE.html`.

Requests are lines of JSON; each answer is its size (4 bytes, little-endian) and its content. */

const fs = require("node:fs");
const readline = require("node:readline");
const vm = require("node:vm");

const page = fs.readFileSync(process.argv.at(-1), "utf8");
const part = (id) => {
  const start = page.indexOf(">", page.indexOf(`<script id="${id}"`)) + 1;
  return page.slice(start, page.indexOf("</script>", start));
};
const names = "({ Decoder, TokenSequence, Tokenizer, Detokenizer, sample, bytesOfBase64 })";
const parts = vm.runInThisContext(`${part("decoder")}\n${part("tokenizer").replace('"use strict";', "")}\n${names}`);
const model = JSON.parse(part("model"));
const decoder = new parts.Decoder(model, parts.bytesOfBase64(part("weights")));
const tokenizer = new parts.Tokenizer(model.tokenizer);

const answers = {
  logits({ ids }) {
    decoder.reset();
    const rows = ids.map((id) => Buffer.from(Float32Array.from(decoder.step(id, true)).buffer));
    return Buffer.concat(rows);
  },
  greedy({ ids, max_tokens: count }) {
    const sequence = new parts.TokenSequence(decoder, ids, model.context_length);
    for (let k = 0; k < count; k++) {
      while (!sequence.readOne());
      sequence.ids.push(parts.sample(sequence.logits, model.tokenizer.tokens.length, 0, 1, Math.random));
    }
    return Buffer.from(JSON.stringify(sequence.ids.slice(ids.length)));
  },
  encode({ text }) {
    return Buffer.from(JSON.stringify([model.tokenizer.prefix, ...tokenizer.encode(text)]));
  },
  decode({ ids }) {
    const detokenizer = new parts.Detokenizer(tokenizer);
    return Buffer.from(JSON.stringify(ids.map((id) => detokenizer.push(id)).join("") + detokenizer.end()));
  },
};

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const request = JSON.parse(line), answer = answers[request.what](request), size = Buffer.alloc(4);
  size.writeUInt32LE(answer.length);
  process.stdout.write(Buffer.concat([size, answer]));
});
