"use strict";
/* The tokenizer: text to ids, and bytes of ids. `tokenizer_data.py` writes its data and refuses what it cannot express. */

const BASE = 2 ** 21; // above every id: a pair of ids is one number

class Tokenizer {
  constructor(data) {
    this.data = data;
    this.steps = data.split.map((step) => step.pattern ? { ...step, pattern: new RegExp(step.pattern, "gu") } : step);
    this.tokens = data.tokens;
    this.symbols = new Map(data.symbols);
    this.merges = new Map();
    for (let i = 0, rank = 0; i < data.merges.length; i += 3, rank++) {
      const pair = data.merges[i] * BASE + data.merges[i + 1];
      if (!this.merges.has(pair)) this.merges.set(pair, [rank, data.merges[i + 2]]);
    }
    this.whole = data.whole ? new Map(data.whole) : null;
  }

  /** Return the ids of a text, without the id that precedes a document. Special tokens in a text are text. */
  encode(text) {
    text = text.replace(/\p{Surrogate}/gu, "\ufffd"); // half a character, which UTF-8 cannot encode
    for (const [kind, from, to] of this.data.normalize) {
      if (kind === "replace") text = text.split(from).join(to);
      else if (kind === "prepend") text = text && from + text;
      else text = text.normalize(from);
    }
    let parts = text ? [text] : [];
    for (const step of this.steps) parts = parts.flatMap((part) => split(part, step));
    return parts.flatMap((part) => this.data.scores ? this.#unigram(part) : this.#bpe(part));
  }

  #bpe(part) {
    const letters = this.data.bytes ? String.fromCharCode(...utf8(part)) : part;
    const whole = this.whole?.get(letters);
    if (whole !== undefined) return [whole];
    const ids = [];
    for (const letter of letters) {
      const id = this.symbols.get(letter);
      if (id !== undefined) ids.push(id);
      else this.#spell(letter, ids);
    }
    return this.merges.size ? merged(ids, this.merges) : ids;
  }

  /** Append the ids of the bytes of a character without a token. */
  #spell(text, ids) {
    const { fallback, unknown, fuse } = this.data;
    if (fallback) for (const byte of utf8(text)) ids.push(fallback[byte]);
    else if (unknown !== null && !(fuse && ids.at(-1) === unknown)) ids.push(unknown);
  }

  /** The tokens with the largest sum of scores (Kudo 2018, arXiv 1804.10959), found from left to right. */
  #unigram(part) {
    const characters = [...part], best = [{ score: 0 }], { scores, longest, unknown_score: low } = this.data;
    for (let end = 1; end <= characters.length; end++) best[end] = { score: -Infinity };
    for (let start = 0; start < characters.length; start++) {
      let piece = "", single = false;
      for (let end = start + 1; end <= Math.min(start + longest, characters.length); end++) {
        piece += characters[end - 1];
        const id = this.symbols.get(piece);
        if (id === undefined) continue;
        single ||= end === start + 1;
        const score = best[start].score + scores[id];
        if (score > best[end].score) best[end] = { score, start, id };
      }
      const score = best[start].score + low;
      if (!single && score > best[start + 1].score) best[start + 1] = { score, start, id: null };
    }
    const found = [];
    for (let end = characters.length; end > 0; end = best[end].start) found.unshift([best[end], end]);
    const ids = [];
    for (const [{ start, id }, end] of found) {
      if (id !== null) ids.push(id);
      else this.#spell(characters.slice(start, end).join(""), ids);
    }
    return ids;
  }

  /** Return the bytes of a token; none for a special token. */
  bytes(id) {
    return Uint8Array.from(this.tokens[id] ?? "", (letter) => letter.charCodeAt(0));
  }
}

function utf8(text) {
  return new TextEncoder().encode(text);
}

/** Text of ids that arrive one by one: a character that is split over tokens is held back until it is complete. */
class Detokenizer {
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
    this.decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  }

  push(id) {
    return this.decoder.decode(this.tokenizer.bytes(id), { stream: true });
  }

  end() {
    return this.decoder.decode();
  }
}

/** Cut a text at the matches of a step: each match is a part, and so is the text between two. */
function split(text, step) {
  if (step.prefix_space && !/^\p{White_Space}/u.test(text)) text = ` ${text}`;
  if (!step.pattern) return [text];
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(step.pattern)) {
    if (!match[0]) continue;
    if (match.index > end) parts.push(text.slice(end, match.index));
    parts.push(match[0]);
    end = match.index + match[0].length;
  }
  if (end < text.length) parts.push(text.slice(end));
  return parts;
}

/** Merge neighbors, the pair of the lowest rank first and the leftmost of equals (Sennrich et al. 2016). */
function merged(ids, merges) {
  const next = ids.map((_, i) => i + 1), previous = ids.map((_, i) => i - 1), heap = [];
  const before = (a, b) => a[0] < b[0] || (a[0] === b[0] && a[1] < b[1]);
  const push = (left) => {
    const right = next[left], merge = left >= 0 && right < ids.length && merges.get(ids[left] * BASE + ids[right]);
    if (!merge) return;
    let i = heap.push([merge[0], left, ids[left], ids[right], merge[1]]) - 1;
    for (let up = (i - 1) >> 1; i && before(heap[i], heap[up]); i = up, up = (i - 1) >> 1) {
      [heap[i], heap[up]] = [heap[up], heap[i]];
    }
  };
  const pop = () => {
    const top = heap[0], last = heap.pop();
    if (heap.length) {
      heap[0] = last;
      for (let i = 0; ;) {
        let least = i;
        for (const child of [2 * i + 1, 2 * i + 2]) {
          if (child < heap.length && before(heap[child], heap[least])) least = child;
        }
        if (least === i) break;
        [heap[i], heap[least]] = [heap[least], heap[i]];
        i = least;
      }
    }
    return top;
  };
  for (let i = 0; i + 1 < ids.length; i++) push(i);
  ids = [...ids];
  while (heap.length) {
    const [, left, first, second, result] = pop(), right = next[left];
    if (ids[left] !== first || right >= ids.length || ids[right] !== second) continue;
    ids[left] = result;
    ids[right] = null;
    next[left] = next[right];
    if (next[left] < ids.length) previous[next[left]] = left;
    if (previous[left] >= 0) push(previous[left]);
    push(left);
  }
  return ids.filter((id) => id !== null);
}
