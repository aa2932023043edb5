// The story page: plain DOM over the API that everybody else uses too. Whatever a model says is only ever text.
const $ = (id) => document.getElementById(id);
const ALTERNATIVES = 5;
let models = [];
let sheets = [];
let telling = null; // an AbortController while stories are told
let chosen = null; // {sheet, place, held} of the word that is looked at; held: until something else is chosen

// ---------------------------------------------------------------- asking the server

async function ask(path, body, signal) {
  const key = sessionStorage.getItem("key");
  const headers = { ...(body && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) };
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal }).catch(unreachable);
  if (answer.status === 401) {
    await unlock();
    return ask(path, body, signal);
  }
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  return answer;
}

function unreachable(error) {
  throw error.name === "AbortError" ? error : new Error("The server cannot be reached. Is it still running?");
}

function unlock() {
  return new Promise((done) => {
    $("locked").addEventListener("close", () => { sessionStorage.setItem("key", $("key").value); done(); }, { once: true });
    $("locked").showModal();
  });
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read().catch(unreachable);
    if (done) throw new Error("The server broke off in the middle.");
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.slice("data: ".length);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event.choices[0];
    }
  }
}

// ---------------------------------------------------------------- one sheet: a model and the versions of its story

function makeSheet(model) {
  const box = document.createElement("section");
  box.className = "sheet";
  const head = document.createElement("header");
  const select = document.createElement("select");
  select.setAttribute("aria-label", "Model");
  for (const one of models) select.add(new Option(one.id, one.id, false, one.id === model));
  const facts = document.createElement("span");
  facts.className = "facts";
  const story = document.createElement("div");
  story.className = "story";
  story.tabIndex = 0;
  story.setAttribute("role", "group");
  story.setAttribute("aria-label", "The story; arrow keys go from word to word");
  const versions = document.createElement("div");
  versions.className = "versions";
  head.append(select, facts);
  box.append(head, story, versions);
  const sheet = { box, select, facts, story, versions, told: [], current: -1 };
  select.addEventListener("change", () => describe(sheet));
  story.addEventListener("keydown", (event) => walk(sheet, event));
  story.addEventListener("pointerleave", () => { if (!chosen?.held) look(null); });
  describe(sheet);
  return sheet;
}

function describe(sheet) {
  const { parameters, step } = models.find((one) => one.id === sheet.select.value).fabella;
  sheet.facts.textContent = `${parameters.toLocaleString("en")} parameters · step ${step.toLocaleString("en")}`;
  sheet.box.setAttribute("aria-label", `Told by ${sheet.select.value}`);
}

const version = (sheet) => sheet.told[sheet.current] ?? { beginning: $("beginning").value, words: [] };
const textOf = (sheet, end = Infinity) => version(sheet).beginning + version(sheet).words.slice(0, end).map((word) => word.text).join("");

function draw(sheet) {
  const { beginning, words } = version(sheet);
  const first = document.createElement("span");
  first.className = "beginning";
  first.textContent = beginning;
  sheet.story.replaceChildren(first, ...words.flatMap((word, place) => drawn(sheet, word, place)));
  const many = sheet.told.length > 1 ? sheet.told : [];
  sheet.versions.replaceChildren(...many.map(({ from }, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = from ? `${number + 1}, from ${from}` : `Branch ${number + 1}`;
    button.setAttribute("aria-current", String(number === sheet.current));
    button.disabled = telling !== null;
    button.addEventListener("click", () => { sheet.current = number; look(null); draw(sheet); sheet.versions.children[number].focus(); });
    return button;
  }));
  $("on").disabled = telling !== null || sheets.every((one) => one.current < 0);
}

// The spaces before a word are no part of what is coloured and pointed at.
function drawn(sheet, word, place) {
  const [, before, rest] = word.text.match(/^(\s*)([^]*)$/);
  const span = document.createElement("span");
  span.textContent = rest || before;
  span.tabIndex = -1;
  span.className = `word p${shade(word.likely)}`;
  span.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse" && !chosen?.held) look({ sheet, place, held: false }); });
  span.addEventListener("click", () => look({ sheet, place, held: true }));
  span.addEventListener("focus", () => look({ sheet, place, held: true }));
  return rest ? [before, span] : [span];
}

function shade(likely) {
  return likely === null ? 4 : [0.05, 0.2, 0.5, 0.8, Infinity].findIndex((bound) => likely < bound);
}

function walk(sheet, event) {
  const step = { ArrowRight: 1, ArrowDown: 10, ArrowLeft: -1, ArrowUp: -10, Home: -Infinity, End: Infinity }[event.key];
  const words = sheet.story.querySelectorAll(".word");
  if (event.key === "Enter" && chosen) { ($("word-others").querySelector("button:enabled") ?? $("reroll")).focus(); event.preventDefault(); return; }
  if (step === undefined || !words.length) return;
  const here = chosen?.sheet === sheet ? chosen.place : -1;
  words[Math.max(0, Math.min(words.length - 1, here + step))].focus();
  event.preventDefault();
}

// ---------------------------------------------------------------- the word that is looked at

function look(at) {
  document.querySelector(".word.chosen")?.classList.remove("chosen");
  const word = at && telling === null ? version(at.sheet).words[at.place] : null;
  chosen = word ? at : null;
  $("word").hidden = !word;
  if (!word) return;
  const before = textOf(at.sheet, at.place);
  $("word").classList.toggle("held", at.held);
  $("word-likely").textContent = quoted(word.text, before) + (word.likely === null ? "" : `: ${percent(word.likely)}`);
  $("word-likely").append(...(word.others.length ? [insteadOf.cloneNode(true)] : []));
  $("word-others").replaceChildren(...word.others.filter(([text]) => text !== word.text).map((other) => instead(at, word, other, before)));
  const span = at.sheet.story.querySelectorAll(".word")[at.place];
  span.classList.add("chosen");
  if (at.held) span.scrollIntoView({ block: "nearest" });
  beside(span);
}

const insteadOf = document.createElement("span");
insteadOf.className = "instead";
insteadOf.textContent = ". Instead:";

function instead(at, word, [text, likely], before) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const small = document.createElement("small");
  small.textContent = percent(likely);
  button.type = "button";
  button.append(text === "<|endoftext|>" ? "the end" : quoted(text, before), " ", small);
  button.disabled = text === "<|endoftext|>" || text.startsWith("bytes:");
  button.style.setProperty("--share", `${100 * likely}%`);
  button.addEventListener("click", () => branch(at, { text, likely, others: word.others }));
  item.append(button);
  return item;
}

// Beneath the word where there is room, else above it; on a phone the style sheet puts the card elsewhere.
function beside(span) {
  const [card, word] = [$("word").getBoundingClientRect(), span.getClientRects()[0] ?? span.getBoundingClientRect()];
  const left = Math.max(8, Math.min(word.left - 12, document.documentElement.clientWidth - card.width - 8));
  const above = word.bottom + card.height + 12 > innerHeight && word.top > card.height + 12;
  $("word").style.setProperty("--x", `${left + scrollX}px`);
  $("word").style.setProperty("--y", `${(above ? word.top - card.height - 6 : word.bottom + 6) + scrollY}px`);
}

// Without its space; what goes on in the middle of a word says so.
function quoted(text, before) {
  const joined = /[\p{L}\p{N}]$/u.test(before) && /^[\p{L}\p{N}]/u.test(text);
  return `“${joined ? "…" : ""}${text.replace(/^ (?=\S)/, "").replaceAll("\n", "↵") || " "}”`;
}

const percent = (likely) => (likely < 0.001 ? "under 0.1 %" : `${(100 * likely).toPrecision(likely < 0.0995 ? 2 : 3)} %`);

function branch({ sheet, place }, instead) {
  const { beginning, words } = version(sheet);
  const from = quoted(instead ? instead.text : words[place].text, textOf(sheet, place));
  look(null);
  sheet.story.focus();
  tell([sheet], () => ({ beginning, from, words: [...words.slice(0, place), ...(instead ? [instead] : [])] }), true);
}

// ---------------------------------------------------------------- telling

async function tell(which, from, fresh) {
  if (![...document.querySelectorAll("input")].every((input) => input.reportValidity())) return;
  telling?.abort();
  const control = (telling = new AbortController());
  if (fresh || $("fresh").checked) $("seed").value = Math.floor(Math.random() * 2 ** 31);
  say("Telling …");
  busy(true);
  const results = await Promise.allSettled(which.map((sheet) => tellOne(sheet, from(sheet), control.signal)));
  if (telling !== control) return;
  telling = null;
  busy(false);
  for (const sheet of which) draw(sheet);
  const failed = results.find((one) => one.status === "rejected" && one.reason.name !== "AbortError");
  if (failed) say(failed.reason.message, true);
  else say(control.signal.aborted ? "Stopped." : `${results.map((one) => one.value).join("; ")}. Seed ${$("seed").value}.`);
}

async function tellOne(sheet, begun, signal) {
  if (!sheet.told.includes(begun)) sheet.told.push(begun);
  sheet.current = sheet.told.indexOf(begun);
  sheet.box.classList.add("telling");
  draw(sheet);
  const began = performance.now();
  let tokens = 0;
  let ended = "";
  let waiting = []; // tokens of a character that is not whole yet
  try {
    const answer = await ask("/v1/completions", {
      model: sheet.select.value, prompt: textOf(sheet), stream: true, logprobs: ALTERNATIVES, seed: Number($("seed").value),
      temperature: Number($("temperature").value), top_p: Number($("top-p").value), max_tokens: Number($("length").value),
      truncate_prompt_tokens: -1,
    }, signal);
    for await (const choice of events(answer)) {
      waiting = waiting.concat((choice.logprobs?.token_logprobs ?? []).map((value, i) => [value, choice.logprobs.top_logprobs[i]]));
      tokens += choice.logprobs?.tokens.length ?? 0;
      ended = choice.finish_reason ?? ended;
      if (choice.text) { add(sheet, choice.text, waiting); waiting = []; }
    }
  } finally {
    sheet.box.classList.remove("telling");
  }
  const speed = Math.round((1000 * tokens) / Math.max(1, performance.now() - began));
  return `${tokens} tokens, ${speed} a second, ${ended === "stop" ? "told to its end" : "not at its end: Tell on"}`;
}

function add(sheet, text, tokens) {
  const others = Object.entries(tokens[0]?.[1] ?? {}).map(([other, value]) => [other, Math.exp(value)]).sort((a, b) => b[1] - a[1]);
  const likely = tokens.length ? Math.exp(tokens.reduce((sum, [value]) => sum + value, 0)) : null;
  const words = version(sheet).words;
  words.push({ text, likely, others });
  sheet.story.append(...drawn(sheet, words.at(-1), words.length - 1));
}

function busy(now) {
  $("stop").disabled = !now;
  for (const id of ["tell", "on", "compare"]) $(id).disabled = now;
  for (const sheet of sheets) sheet.select.disabled = now;
  if (now) look(null);
}

function say(text, failed = false) {
  $("status").textContent = text;
  $("status").classList.toggle("failed", failed);
}

// ---------------------------------------------------------------- sharing

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${what} copied.`);
  } catch {
    say(`Your browser does not let a page copy. ${what}: ${text}`);
  }
}

function link() {
  const state = { beginning: version(sheets[0]).beginning, sheets: sheets.map((sheet) => ({ model: sheet.select.value, words: version(sheet).words.map((word) => word.text) })),
    seed: $("seed").value, temperature: $("temperature").value, topP: $("top-p").value };
  const bytes = new TextEncoder().encode(JSON.stringify(state));
  const packed = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  return `${location.origin}/#${packed.replaceAll("+", "-").replaceAll("/", "_")}`;
}

function restore() {
  if (location.hash.length < 2) return;
  try {
    const packed = atob(location.hash.slice(1).replaceAll("-", "+").replaceAll("_", "/"));
    const state = JSON.parse(new TextDecoder().decode(Uint8Array.from(packed, (one) => one.charCodeAt(0))));
    $("beginning").value = String(state.beginning);
    for (const [id, value] of [["seed", state.seed], ["temperature", state.temperature], ["top-p", state.topP]]) $(id).value = value;
    state.sheets.slice(0, 2).forEach((kept, i) => {
      if (i === 1) compare();
      const sheet = sheets[i];
      if (models.some((one) => one.id === kept.model)) { sheet.select.value = kept.model; describe(sheet); }
      sheet.told = [{ beginning: String(state.beginning), words: kept.words.map((text) => ({ text: String(text), likely: null, others: [] })) }];
      sheet.current = 0;
      draw(sheet);
    });
    $("fresh").checked = false;
    say("A story that was shared. Tell on from any of its words.");
  } catch {
    say("The link is damaged: its story cannot be read.", true);
  }
}

// ---------------------------------------------------------------- the page

function compare() {
  const two = sheets.length === 1;
  if (two) sheets.push(makeSheet((models[1] ?? models[0]).id));
  else sheets.length = 1;
  $("compare").setAttribute("aria-pressed", String(two));
  document.body.classList.toggle("two", two);
  $("sheets").replaceChildren(...sheets.map((sheet) => sheet.box));
  look(null);
}

// Back from the card to its word, from the word to nothing; a story that is being told stops.
function escape() {
  telling?.abort();
  const from = $("word").contains(document.activeElement) && document.querySelector(".word.chosen");
  if (from) from.focus();
  else look(null);
}

function begin() {
  tell(sheets, () => ({ beginning: $("beginning").value, words: [] }), false);
}

function goOn() {
  tell(sheets.filter((sheet) => sheet.current >= 0), version, true);
}

function shownNumbers() {
  $("temperature-shown").textContent = $("temperature").value;
  $("top-p-shown").textContent = $("top-p").value;
  $("summary").textContent = `Settings: temperature ${$("temperature").value}, nucleus ${$("top-p").value}, ${$("length").value} tokens`;
}

$("ask").addEventListener("submit", (event) => { event.preventDefault(); begin(); });
$("beginning").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) begin(); });
$("stop").addEventListener("click", () => telling?.abort());
$("on").addEventListener("click", goOn);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") escape(); });
document.addEventListener("pointerdown", (event) => { if (!event.target.closest(".word, #word")) look(null); });
$("compare").addEventListener("click", compare);
$("reroll").addEventListener("click", () => branch(chosen));
$("word").addEventListener("focusin", () => $("word").classList.add("held"));
$("copy").addEventListener("click", () => copy(sheets.map((sheet) => textOf(sheet)).join("\n\n---\n\n"), "The text"));
$("share").addEventListener("click", () => copy(link(), "The link"));
$("colours").addEventListener("change", () => $("sheets").classList.toggle("coloured", $("colours").checked));
for (const id of ["temperature", "top-p", "length"]) $(id).addEventListener("input", shownNumbers);

try {
  models = (await (await ask("/v1/models")).json()).data;
  $("length").max = models[0].fabella.max_tokens;
  $("length").value = Math.min($("length").value, $("length").max);
  $("sheets").classList.add("coloured");
  sheets = [makeSheet(models[0].id)];
  $("sheets").replaceChildren(sheets[0].box);
  restore();
  shownNumbers();
  document.body.dataset.ready = "yes";
} catch (error) {
  say(error.message, true);
}
