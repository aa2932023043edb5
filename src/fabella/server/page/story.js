// Story page: plain DOM on top of the public API. Generated text is only ever inserted as text.
import { RequestError, events, json, request } from "./api.js";
import { Sheet, parts } from "./sheet.js";
import { EOS, alternatives, beginningPieces, branchOf, join, newStory, pack, packVersion, percent, piece, quoted, scored, shortened, unpack, unpackVersion } from "./words.js";

const $ = (id) => document.getElementById(id);
const ALTERNATIVES = 5;
const EXAMPLES = ["Once upon a time", "The little dragon was", ""];
let models = [];
let sheets = [];
let generating = null; // AbortController while a request runs
let chosen = null; // {sheet, index, held} of the shown word; held: until another one is selected, not only while the mouse is over it

const ask = (path, body, signal) => request(path, body, { signal, askForKey });

function askForKey(refused) {
  return new Promise((resolve, reject) => {
    const dialog = $("locked");
    $("locked-why").textContent = refused
      ? "The server refused this API key. Enter another one."
      : "This server requires an API key: the one in FABELLA_API_KEY or --api-key-file when it was started.";
    dialog.addEventListener("close", () => {
      if (dialog.returnValue === "ok" && $("key").value.trim()) resolve($("key").value);
      else reject(new RequestError("The server requires an API key, and none was entered. Try again with a key."));
    }, { once: true });
    dialog.returnValue = "";
    dialog.showModal();
    $("key").select();
  });
}

// ---------------------------------------------------------------- the selected word

function showWord(at) {
  document.querySelector(".word.chosen")?.classList.remove("chosen");
  const unit = at && generating === null ? at.sheet.units[at.index] : null;
  chosen = unit ? at : null;
  $("word").hidden = !unit;
  if (!unit) return;
  const pieces = at.sheet.current.pieces.slice(unit.start, unit.end);
  const before = at.sheet.textUntil(unit.start);
  const [first] = pieces;
  const others = alternatives(first);
  const likely = pieces.length > 1 ? `: ${parts(pieces)}` : first.likely === null ? "" : `: ${percent(first.likely)}`;
  $("word").classList.toggle("held", at.held);
  $("word-likely").textContent = quoted(shortened(join(pieces)), before) + likely;
  if (first.others.length) $("word-likely").append(insteadOf(others, pieces));
  $("word-others").replaceChildren(...others.map((other) => instead(at, first, other, before)));
  unit.span.classList.add("chosen");
  document.documentElement.style.setProperty("--card", `${$("word").offsetHeight}px`); // on a phone, the word stays above it
  if (at.held) unit.span.scrollIntoView({ block: "nearest" });
  placeCard(unit.span);
}

function insteadOf(others, pieces) {
  const span = document.createElement("span");
  span.className = others.length ? "instead" : "";
  span.textContent = !others.length ? ". No alternative has 0.1 %." : pieces.length > 1 ? ". Instead of the first token:" : ". Instead:";
  return span;
}

function instead(at, piece, [text, likely], before) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const small = document.createElement("small");
  small.textContent = percent(likely);
  button.type = "button";
  const isPart = text.startsWith("bytes:");
  const words = document.createElement("span");
  words.textContent = text === EOS ? "end of text" : isPart ? "part of a character" : quoted(text, before);
  button.title = words.textContent;
  button.append(words, " ", small);
  button.disabled = isPart;
  button.style.setProperty("--share", `${100 * likely}%`);
  button.addEventListener("click", () => (text === EOS ? endHere(at) : branch(at, { text, likely, others: piece.others })));
  item.append(button);
  return item;
}

// Below the word if it fits, else above; on a phone the style sheet places the card.
function placeCard(span) {
  const [card, word] = [$("word").getBoundingClientRect(), span.getClientRects()[0] ?? span.getBoundingClientRect()];
  const left = Math.max(8, Math.min(word.left - 12, document.documentElement.clientWidth - card.width - 8));
  const above = word.bottom + card.height + 12 > innerHeight && word.top > card.height + 12;
  $("word").style.setProperty("--x", `${left + scrollX}px`);
  $("word").style.setProperty("--y", `${(above ? word.top - card.height - 6 : word.bottom + 6) + scrollY}px`);
}

function branchAt({ sheet, index }, instead) {
  const version = branchOf(sheet.current, sheet.units[index].start, instead);
  showWord(null);
  sheet.story.focus();
  return version;
}

function branch(at, instead) {
  generate([at.sheet], () => branchAt(at, instead), true);
}

function endHere(at) {
  at.sheet.open({ ...branchAt(at), ended: true });
  at.sheet.draw();
  enable();
  showStatus("A new version of the story, which ends here.");
}

function moveFocus(event) {
  const sheet = sheets.find((sheet) => sheet.story.contains(event.target));
  const step = { ArrowRight: 1, ArrowDown: 10, ArrowLeft: -1, ArrowUp: -10, Home: -Infinity, End: Infinity }[event.key];
  if (!sheet) return;
  if (event.key === "Enter" && chosen) { ($("word-others").querySelector("button:enabled") ?? $("regenerate")).focus(); event.preventDefault(); return; }
  if (step === undefined || !sheet.units.length) return;
  const current = chosen?.sheet === sheet ? chosen.index : -1;
  sheet.units[Math.max(0, Math.min(sheet.units.length - 1, current + step))].span.focus();
  event.preventDefault();
}

// ---------------------------------------------------------------- generating

// Show the first invalid setting and return true; the panel of settings may be closed.
function hasInvalidSetting() {
  const inputs = [$("length"), $("seed")];
  for (const input of inputs) input.setAttribute("aria-invalid", String(!input.checkValidity()));
  const wrong = inputs.find((input) => !input.checkValidity());
  if (!wrong) return false;
  $("panel").open = true;
  wrong.focus();
  const most = Number(wrong.max).toLocaleString("en");
  showStatus(`${wrong.labels[0].textContent} must be a whole number from ${wrong.min} to ${most}.`, true);
  return true;
}

// Generate on some sheets. versionOf(sheet) returns the version to continue.
async function generate(which, versionOf, newSeed) {
  if (generating || hasInvalidSetting()) return;
  if (newSeed || $("fresh").checked) $("seed").value = Math.floor(Math.random() * 2 ** 31);
  const versions = which.map(versionOf);
  const control = (generating = new AbortController());
  const counts = new Map();
  const progress = () => { $("progress").textContent = counted([...counts.values()].reduce((sum, count) => sum + count, 0)); };
  if (location.hash) history.replaceState(null, "", location.pathname);
  enable();
  showWord(null);
  showStatus("Generating …");
  const runs = which.map((sheet, i) => generateOne(sheet, versions[i], control.signal, (count) => { counts.set(sheet, count); progress(); }));
  showEnd(which[0]);
  const results = await Promise.allSettled(runs);
  generating = null;
  $("progress").textContent = "";
  for (const sheet of sheets) sheet.locked = false;
  for (const sheet of which) sheet.draw();
  enable();
  report(which, results);
}

// Scroll to the place where new text appears.
function showEnd({ box, story }) {
  box.scrollIntoView({ block: "nearest" });
  const end = [...(story.lastElementChild?.getClientRects() ?? [])].at(-1)?.bottom ?? 0;
  if (end > innerHeight || end < 0) scrollBy(0, end - innerHeight / 2);
}

// What to do after an error that does not say it.
function next({ kept, code }) {
  return kept ? " The text so far is kept: press Continue." : code === "connection_lost" ? " Try again." : "";
}

// Say how each sheet ended.
function report(which, results) {
  const stopped = results.every(({ reason }) => reason?.name === "AbortError");
  if (stopped) return showStatus(results.some(({ reason }) => reason.kept) ? "Stopped. Press Continue to generate more." : "Stopped before the first token.");
  const failed = results.some(({ reason }) => reason && reason.name !== "AbortError");
  const said = results.map(({ value, reason }, i) => {
    const name = results.length > 1 ? `${which[i].select.value}: ` : "";
    return name + (value ?? (reason.name === "AbortError" ? "stopped" : reason.message + next(reason)));
  });
  const seed = failed ? "" : ` Seed ${$("seed").value}.`;
  showStatus(said.join(results.length > 1 ? " · " : "") + (/[.!?]$/.test(said.at(-1)) ? "" : ".") + seed, failed);
  if (results.some(({ reason }) => reason?.code === "model_not_found")) refreshModels();
}

async function generateOne(sheet, version, signal, count) {
  const undo = sheet.open(version);
  const length = join(version.pieces).length;
  sheet.locked = true;
  sheet.box.classList.add("generating");
  sheet.draw();
  const start = performance.now();
  const scoring = scoreBeginning(sheet, version, signal);
  try {
    const { tokens, reason, cut } = await stream(sheet, signal, count);
    const seconds = (performance.now() - start) / 1000;
    version.ended = reason === "stop";
    return [summary(tokens, seconds, reason), cut, await scoring].filter(Boolean).join("; ");
  } catch (error) {
    error.kept = join(version.pieces).length > length;
    if (!error.kept) undo();
    throw error;
  } finally {
    sheet.box.classList.remove("generating");
  }
}

function summary(tokens, seconds, reason) {
  if (reason === "stop") return tokens ? `${counted(tokens)}, ${speed(tokens, seconds)}, complete` : "The model ended the text at once: press Generate for another seed, or change the beginning";
  const limit = tokens < Number($("length").value) ? "time limit of the server" : "token limit";
  return `${counted(tokens)}, ${speed(tokens, seconds)}, ${limit} reached: press Continue`;
}

const counted = (tokens) => `${tokens.toLocaleString("en")} ${tokens === 1 ? "token" : "tokens"}`;
const speed = (tokens, seconds) => `${Math.round(tokens / Math.max(0.001, seconds))} per second`;

async function stream(sheet, signal, count) {
  const { response, cut } = await complete(sheet, signal);
  let tokens = 0;
  let reason = "";
  let waiting = []; // tokens of an incomplete character
  for await (const choice of events(response)) {
    waiting = waiting.concat((choice.logprobs?.token_logprobs ?? []).map((value, i) => [value, choice.logprobs.top_logprobs[i]]));
    tokens += choice.logprobs?.tokens.length ?? 0;
    reason = choice.finish_reason ?? reason;
    if (choice.text) { sheet.append(piece(choice.text, waiting)); waiting = []; }
    count(tokens);
  }
  return { tokens, reason, cut };
}

// Send the request. Only if the text does not fit, its end is sent, and that is said.
async function complete(sheet, signal) {
  const body = {
    model: sheet.select.value, prompt: sheet.textUntil(), stream: true, logprobs: ALTERNATIVES, seed: Number($("seed").value),
    temperature: Number($("temperature").value), top_p: Number($("top-p").value), max_tokens: Number($("length").value),
  };
  try {
    return { response: await ask("v1/completions", body, signal), cut: "" };
  } catch (error) {
    if (error.code !== "context_length_exceeded") throw error;
    const response = await ask("v1/completions", { ...body, truncate_prompt_tokens: -1 }, signal);
    const most = sheet.models.find((model) => model.id === body.model)?.fabella?.prompt_tokens;
    return { response, cut: `the text is longer than the model reads, so it read only the last ${most?.toLocaleString("en") ?? "part"} tokens of it` };
  }
}

// Color the beginning of a new story. Return a sentence if that failed.
async function scoreBeginning(sheet, version, signal) {
  const beginning = version.pieces[0];
  if (version.pieces.length > 1 || !beginning?.fixed || !beginning.text) return "";
  const body = { model: sheet.select.value, prompt: beginning.text, echo: true, max_tokens: 0, logprobs: ALTERNATIVES, truncate_prompt_tokens: -1 };
  try {
    const [{ text, logprobs }] = (await json(await ask("v1/completions", body, signal))).choices;
    const pieces = beginningPieces(beginning.text, scored(text, logprobs));
    if (!pieces) return ""; // the tokenizer changes the text
    version.pieces.splice(0, 1, ...pieces);
    version.given = pieces.length;
    if (sheet.current === version) sheet.draw();
    return "";
  } catch (error) {
    return ["unsupported_parameter", "connection_lost"].includes(error.code) || error.name === "AbortError" ? "" : `the beginning is not colored (${error.message.replace(/\.$/, "")})`;
  }
}

function enable() {
  const busy = generating !== null;
  const hasText = sheets.some((sheet) => sheet.current);
  $("stop").disabled = !busy;
  for (const id of ["generate", "compare"]) $(id).disabled = busy || !sheets.length;
  $("continue").disabled = busy || !sheets.some((sheet) => sheet.current && !sheet.current.ended);
  for (const id of ["copy", "share"]) $(id).disabled = !hasText;
  for (const button of document.querySelectorAll("#examples button")) button.disabled = busy || !sheets.length;
  for (const sheet of sheets) sheet.select.disabled = busy;
  document.body.classList.toggle("busy", busy);
}

function showStatus(text, failed = false) {
  $("status").textContent = text;
  $("status").classList.toggle("failed", failed);
  if (failed) $("bar").scrollIntoView({ block: "nearest" });
}

// ---------------------------------------------------------------- sharing

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    showStatus(`${what} copied.`);
  } catch { // not allowed, or not offered: browsers offer it only over HTTPS and on this machine
    $("manual-why").textContent = `The browser does not let this page copy. Press Ctrl+C or ⌘C to copy ${what.toLowerCase()}.`;
    $("manual-text").value = text;
    $("manual").showModal();
    $("manual-text").select();
  }
}

const SHARED = { seed: "seed", temperature: "temperature", topP: "top-p", maxTokens: "length" };

function link() {
  const shown = sheets.filter((sheet) => sheet.current);
  const settings = Object.fromEntries(Object.entries(SHARED).map(([name, id]) => [name, $(id).value]));
  const state = { sheets: shown.map((sheet) => ({ model: sheet.select.value, ...packVersion(sheet.current) })), ...settings };
  return `${location.origin}${location.pathname}#${pack(state)}`;
}

// Show the story of a link.
function restore() {
  if (location.hash.length < 2 || generating || !sheets.length) return;
  let shared;
  try {
    const state = unpack(location.hash.slice(1));
    shared = state.sheets.slice(0, 2).map((sheet) => ({ model: String(sheet.model), version: unpackVersion(sheet) }));
    if (!shared.length) throw new Error("damaged");
    for (const [name, id] of Object.entries(SHARED)) $(id).value = state[name];
  } catch {
    return showStatus("The link is damaged, and its story cannot be read. Ask for it again, or generate a new story.", true);
  }
  if (shared.length !== sheets.length) compare();
  const missing = shared.filter(({ model, version }, i) => !showShared(sheets[i], model, version)).map(({ model }) => model);
  $("fresh").checked = false;
  shownNumbers();
  enable();
  const note = missing.length ? ` Its model ${missing.join(", ")} is not served here: another one continues it.` : "";
  showStatus(`This is a shared story. Select a word to regenerate from it.${note}`);
}

// Return whether the model of a shared story is served here.
function showShared(sheet, model, version) {
  const known = models.some(({ id }) => id === model);
  if (known) sheet.select.value = model;
  sheet.describe();
  sheet.versions = [];
  sheet.current = null;
  sheet.open(version);
  sheet.draw();
  $("beginning").value = join(version.pieces.slice(0, version.given));
  return known;
}

// ---------------------------------------------------------------- the page

const makeSheet = (model) => new Sheet(models, model, {
  show: (at) => { if (at.held || !chosen?.held) showWord(at); },
  leave: () => { if (!chosen?.held) showWord(null); },
  select: () => { showWord(null); enable(); },
});

function compare() {
  const two = sheets.length === 1;
  if (two) sheets.push(makeSheet((models[1] ?? models[0]).id));
  else sheets.length = 1;
  $("compare").setAttribute("aria-pressed", String(two));
  document.body.classList.toggle("two", two);
  $("sheets").replaceChildren(...sheets.map((sheet) => sheet.box));
  showTokens();
  showWord(null);
  enable();
}

function showTokens() {
  for (const sheet of sheets) {
    sheet.byToken = $("tokens").checked;
    sheet.draw();
  }
  $("sheets").classList.toggle("by-token", $("tokens").checked);
}

// Move from the card to its word, or deselect the word; stop a running request.
function escape() {
  generating?.abort();
  const from = $("word").contains(document.activeElement) && document.querySelector(".word.chosen");
  if (from) from.focus();
  else showWord(null);
}

function generateNew() {
  if (generating || !sheets.length) return;
  const number = 1 + Math.max(0, ...sheets.flatMap((sheet) => sheet.versions.map(({ story }) => story)));
  generate(sheets, () => newStory($("beginning").value, number), false);
}

function continueStory() {
  generate(sheets.filter((sheet) => sheet.current && !sheet.current.ended), (sheet) => sheet.current, true);
}

function shownNumbers() {
  $("temperature-shown").textContent = $("temperature").value;
  $("top-p-shown").textContent = $("top-p").value;
  $("summary").textContent = `Settings: temperature ${$("temperature").value}, top-p ${$("top-p").value}, at most ${$("length").value} new tokens`;
}

function showExamples() {
  const own = models.flatMap((model) => model.fabella?.prompts ?? []);
  const buttons = [...new Set([...own, ...EXAMPLES])].slice(0, 3).map((beginning) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = beginning.trim() || "Let the model begin";
    button.addEventListener("click", () => { $("beginning").value = beginning; generateNew(); });
    return button;
  });
  $("examples").replaceChildren("Try:", ...buttons);
}

async function loadModels() {
  const { data } = await json(await ask("v1/models"));
  if (!Array.isArray(data) || !data.length) throw new RequestError("The server serves no model. Start it with a run: fabella serve runs/NAME");
  models = data;
}

async function refreshModels() {
  try {
    await loadModels();
    for (const sheet of sheets) sheet.setModels(models, sheet.select.value);
    $("status").textContent += " The list of models is up to date now: choose one.";
  } catch (error) {
    showStatus(error.message, true);
  }
}

async function start() {
  $("retry").hidden = true;
  showStatus("Connecting to the server …");
  try {
    await loadModels();
  } catch (error) {
    showStatus(error.message, true);
    $("retry").hidden = false;
    return;
  }
  const most = models[0].fabella?.max_tokens ?? $("length").max;
  $("length").max = most;
  $("length").value = Math.min($("length").value, most);
  sheets = [makeSheet(models[0].id)];
  $("sheets").replaceChildren(sheets[0].box);
  showExamples();
  showStatus("");
  restore();
  shownNumbers();
  enable();
  document.body.dataset.ready = "yes";
}

$("settings").addEventListener("submit", (event) => { event.preventDefault(); generateNew(); });
$("beginning").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generateNew(); });
$("stop").addEventListener("click", () => generating?.abort());
$("continue").addEventListener("click", continueStory);
$("retry").addEventListener("click", start);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") escape(); else moveFocus(event); });
document.addEventListener("pointerdown", (event) => { if (!event.target.closest(".word, #word")) showWord(null); });
window.addEventListener("hashchange", restore);
$("compare").addEventListener("click", compare);
$("regenerate").addEventListener("click", () => branch(chosen));
$("word").addEventListener("focusin", () => $("word").classList.add("held"));
$("copy").addEventListener("click", () => copy(sheets.filter((sheet) => sheet.current).map((sheet) => sheet.textUntil()).join("\n\n---\n\n"), "The text"));
$("share").addEventListener("click", () => copy(link(), "The link"));
$("colors").addEventListener("change", () => $("sheets").classList.toggle("colored", $("colors").checked));
$("tokens").addEventListener("change", () => { showWord(null); showTokens(); });
for (const id of ["temperature", "top-p", "length", "seed"]) $(id).addEventListener("input", () => { $(id).removeAttribute("aria-invalid"); shownNumbers(); });
$("sheets").classList.add("colored");

await start();
