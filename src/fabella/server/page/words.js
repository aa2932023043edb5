// Text as pieces, words and versions. A piece is {text, likely, others}: the text of a token (or of several that form
// one character), its probability (null if unknown), and alternatives as [text, probability]. Nothing here knows the page.

export const EOS = "<|endoftext|>";
const SHOWN = 0.001; // alternatives below this probability are noise

// Two pieces are parts of one word if a letter or a digit follows another one. Scripts without spaces are not joined.
const ENDS_INSIDE = /[\p{L}\p{M}\p{N}]['’]?$/u;
const STARTS_INSIDE = /^['’]?[\p{L}\p{M}\p{N}]|^['’]$/u;
const NO_SPACES = /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}]/u;

export function joins(before, text) {
  return ENDS_INSIDE.test(before) && STARTS_INSIDE.test(text) && !NO_SPACES.test(before.slice(-2) + text.slice(0, 2));
}

// Return whether a piece continues the word that starts at the piece ``start``. A word has one author: user or model.
export function continues({ pieces, given }, start, index) {
  return index !== given && !pieces[start].fixed && joins(join(pieces.slice(start, index)), pieces[index].text);
}

// Return [start, end) of each word, or of each token.
export function words(version, byToken) {
  const ranges = [];
  version.pieces.forEach((_, index) => {
    if (index && !byToken && continues(version, ranges.at(-1)[0], index)) ranges.at(-1)[1] = index + 1;
    else ranges.push([index, index + 1]);
  });
  return ranges;
}

export const join = (pieces) => pieces.map((piece) => piece.text).join("");

// The probability that colors a word: that of its least likely token.
export function leastLikely(pieces) {
  const known = pieces.map((piece) => piece.likely).filter((likely) => likely !== null);
  return known.length ? Math.min(...known) : null;
}

export function shade(likely) {
  return likely === null ? 4 : [0.05, 0.2, 0.5, 0.8, Infinity].findIndex((bound) => likely < bound);
}

// Alternatives of a piece that are worth showing, the likeliest first.
export function alternatives({ text, others }) {
  return others.filter(([other, likely]) => other !== text && likely >= SHOWN);
}

export const percent = (likely) => (likely < SHOWN ? "under 0.1 %" : `${(100 * likely).toPrecision(likely < 0.0995 ? 2 : 3)} %`);

// Without the leading space; an ellipsis marks a continuation inside a word.
export function quoted(text, before) {
  const visible = text.replace(/^ (?=\S)/, "").replaceAll("\n", "↵") || " ";
  return `“${joins(before, text) ? "…" : ""}${visible}”`;
}

// A long word keeps its start and its end.
export function shortened(text) {
  const characters = Array.from(text);
  return characters.length <= 48 ? text : `${characters.slice(0, 24).join("")}…${characters.slice(-12).join("")}`;
}

// Return pieces from the logprobs of a response, whose tokens are [logprob, top logprobs] of the pieces of a text.
export function piece(text, tokens) {
  const others = Object.entries(tokens[0]?.[1] ?? {}).map(([other, value]) => [other, Math.exp(value)]).sort((a, b) => b[1] - a[1]);
  const known = tokens.length > 0 && tokens.every(([value]) => value !== null);
  return { text, likely: known ? Math.exp(tokens.reduce((sum, [value]) => sum + value, 0)) : null, others };
}

// Return the pieces of a text that was scored with echo; offsets count characters, not UTF-16 units.
export function scored(text, { token_logprobs, top_logprobs, text_offset }) {
  const characters = Array.from(text);
  const pieces = [];
  let waiting = []; // tokens of an incomplete character
  text_offset.forEach((start, index) => {
    waiting.push([token_logprobs[index], top_logprobs?.[index]]);
    const end = text_offset[index + 1] ?? characters.length;
    if (end > start) { pieces.push(piece(characters.slice(start, end).join(""), waiting)); waiting = []; }
  });
  return pieces;
}

// Return the pieces of a beginning whose end was scored, or null if the scored text is another one. Some tokenizers put a
// space in front of a text; it is not the user's.
export function beginningPieces(beginning, pieces) {
  const text = join(pieces);
  const own = text === ` ${beginning}` ? [{ ...pieces[0], text: pieces[0].text.slice(1) }, ...pieces.slice(1)].filter(({ text }) => text) : pieces;
  if (!own.length || !beginning.endsWith(join(own))) return null;
  const rest = beginning.slice(0, beginning.length - join(own).length);
  return [...(rest ? [unscored(rest)] : []), ...own];
}

// ---------------------------------------------------------------- versions of a story

// A version has its pieces, of which the first ``given`` are the user's, and the number of its story. ``from`` is the
// piece from which it differs from the version that it was made of, -1 for the first version. ``ended``: by the model.
export function newStory(beginning, number) {
  return { story: number, from: -1, given: 1, pieces: [unscored(beginning)], ended: false };
}

export function branchOf(version, index, instead) {
  const pieces = [...version.pieces.slice(0, index), ...(instead ? [instead] : [])];
  return { ...version, from: index, given: Math.min(version.given, index), pieces, ended: false };
}

export const unscored = (text) => ({ text, likely: null, others: [], fixed: true });

export function title({ story, from, pieces }) {
  const text = join(pieces.slice(Math.max(0, from))).trim().replace(/\s+/g, " ");
  const start = text.length > 60 ? text.slice(0, 60).replace(/ \S*$/, "") : text; // whole words
  return from < 0 ? `Story ${story}: “${start}…”` : `Story ${story}, new from “${start}…”`;
}

// ---------------------------------------------------------------- links

export function pack(state) {
  const bytes = new TextEncoder().encode(JSON.stringify(state));
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  return text.replaceAll("+", "-").replaceAll("/", "_");
}

// Return the state in a link. Raises an error if it is damaged.
export function unpack(text) {
  const bytes = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(bytes, (char) => char.charCodeAt(0))));
}

export function packVersion(version) {
  const round = (likely) => (likely === null ? null : Number(likely.toPrecision(2)));
  return { ...version, pieces: version.pieces.map(({ text, likely }) => [text, round(likely)]) };
}

export function unpackVersion({ given, ended, pieces }) {
  const checked = pieces.map(([text, likely]) => {
    if (typeof text !== "string" || !(likely === null || (likely >= 0 && likely <= 1))) throw new Error("damaged");
    return { text, likely, others: [] };
  });
  if (!Number.isInteger(given) || given < 0 || given > checked.length) throw new Error("damaged");
  if (given === 1 && checked[0].likely === null) checked[0].fixed = true;
  return { story: 1, from: -1, given, pieces: checked, ended: ended === true };
}
