"use strict";
/* The page: it reads the model from its own file, and shows a story while the decoder generates it. */

const TOP_P = 0.95;
const SLICE_MS = 16; // time between two looks at the buttons
const $ = (id) => document.getElementById(id);
const model = JSON.parse($("model").textContent);
let decoder, tokenizer, story, running = false;

/** Return after the browser has handled its events. A message has no minimum delay, which a timer has. */
function pause() {
  return new Promise((done) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => { channel.port1.close(); done(); };
    channel.port2.postMessage(0);
  });
}

function say(text, failed) {
  $("status").textContent = text;
  $("status").classList.toggle("failed", Boolean(failed));
}

function update() {
  $("generate").disabled = running || !decoder;
  $("stop").disabled = !running;
  $("continue").disabled = running || !story || story.ended;
  $("copy").disabled = running || !story;
}

/** A beginning, and what the model adds to it. */
class Story {
  constructor(prompt) {
    this.sequence = new TokenSequence(decoder, [model.tokenizer.prefix, ...tokenizer.encode(prompt)], model.context_length);
    this.detokenizer = new Detokenizer(tokenizer);
    this.ended = false;
    $("beginning").textContent = prompt;
    $("completion").textContent = "";
  }

  /** Add up to `count` tokens, until the model ends the story or the reader stops it. Return how many were added. */
  async extend(count) {
    let added = 0, text = "", until = performance.now() + SLICE_MS;
    const { sequence } = this, completion = $("completion");
    while (running && added < count) {
      if (performance.now() > until) {
        completion.append(text);
        text = "";
        $("progress").textContent = sequence.ready || added ? `${added} tokens` : "Reading the beginning …";
        await pause();
        until = performance.now() + SLICE_MS;
        continue;
      }
      if (!sequence.ready && !sequence.readOne()) continue;
      const id = sample(sequence.logits, tokenizer.tokens.length, Number($("temperature").value), TOP_P, Math.random);
      added++;
      if (id === model.tokenizer.eos) {
        this.ended = true;
        text += this.detokenizer.end();
        break;
      }
      sequence.ids.push(id);
      text += this.detokenizer.push(id);
    }
    completion.append(text);
    completion.normalize();
    return added;
  }
}

async function generate(begin) {
  const length = $("length");
  if (running || !length.reportValidity()) return;
  running = true;
  say("Generating …");
  update();
  try {
    const start = performance.now();
    if (begin) story = new Story($("prompt").value);
    const added = await story.extend(Number(length.value));
    const rate = Math.round(added / (performance.now() - start) * 1000);
    const how = story.ended ? "The story has ended." : added < Number(length.value) ? "Stopped." : "Continue for more.";
    say(`${how} ${added} tokens, ${rate} per second.`);
  } catch (error) {
    say(error.message, true);
  }
  $("progress").textContent = "";
  running = false;
  update();
}

function stop() {
  running = false;
}

async function copy() {
  const text = $("story").textContent;
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch { // a page in a file may have no clipboard
    getSelection().selectAllChildren($("story"));
    say("The story is selected: copy it with your browser.");
  }
}

function prepare() {
  const examples = model.prompts.filter((prompt) => prompt.trim());
  $("prompt").value = examples[0] ?? "";
  for (const prompt of examples) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = prompt;
    button.addEventListener("click", () => { $("prompt").value = prompt; $("prompt").focus(); });
    $("examples").append(button);
  }
  const limit = model.context_length ? `It sees the last ${model.context_length.toLocaleString("en")} tokens. ` : "";
  $("about").textContent = `${model.parameters.toLocaleString("en")} parameters, family ${model.family}, `
    + `step ${model.step.toLocaleString("en")}, int8. ${limit}Everything runs on this device; nothing is sent.`;
  $("temperature").addEventListener("input", () => { $("shown").textContent = Number($("temperature").value); });
  $("form").addEventListener("submit", (event) => { event.preventDefault(); generate(true); });
  $("stop").addEventListener("click", stop);
  $("continue").addEventListener("click", () => generate(false));
  $("copy").addEventListener("click", copy);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stop();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate(true);
  });
}

/** Read the weights after the page has been shown. */
async function load() {
  prepare();
  await pause();
  try {
    decoder = new Decoder(model, bytesOfBase64($("weights").textContent));
    tokenizer = new Tokenizer(model.tokenizer);
    $("weights").remove();
    say("Ready.");
  } catch (error) {
    say(`The model cannot be loaded: ${error.message}`, true);
  }
  document.body.dataset.ready = "yes";
  update();
}

load();
