// Requests to the server. Each failure is a RequestError: its message says what happened and what to do next.

export class RequestError extends Error {
  constructor(message, { code = "", status = 0 } = {}) {
    super(message);
    Object.assign(this, { code, status });
  }
}

const LOST = "The connection to the server was lost before the end of the text.";

// ---------------------------------------------------------------- the API key

let key = "";
let asking = null; // one question for all requests that wait for a key
try { key = sessionStorage.getItem("key") ?? ""; } catch { /* The browser blocks storage: the key is asked for in each tab. */ }

function keep(accepted) {
  try {
    if (accepted) sessionStorage.setItem("key", key);
    else sessionStorage.removeItem("key");
  } catch { /* The browser blocks storage. */ }
}

// A header holds bytes. Those of UTF-8 are what the server compares, and what curl sends.
function authorization() {
  return `Bearer ${String.fromCharCode(...new TextEncoder().encode(key))}`;
}

// ---------------------------------------------------------------- requests

// Return the response of a request. askForKey(refused) returns a promise of a key; it is called after status 401.
export async function request(path, body, { signal, askForKey }) {
  for (;;) {
    const sent = key;
    const headers = { ...(body && { "Content-Type": "application/json" }), ...(sent && { Authorization: authorization() }) };
    const options = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal };
    const response = await fetch(path, options).catch(unreachable);
    if (response.status !== 401) {
      if (sent && response.ok) keep(true);
      if (!response.ok) throw await refusal(response);
      return response;
    }
    if (sent !== key) continue; // another request has been given a newer key
    keep(false);
    const answer = await (asking ??= askForKey(sent !== "").finally(() => { asking = null; }));
    key = answer.replace(/\p{Cc}/gu, "").trim();
  }
}

export async function json(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw notFabella(response);
  }
}

function unreachable(error) {
  if (error.name === "AbortError") throw error;
  const why = navigator.onLine ? "Check that fabella serve is still running" : "This device is offline. Check the network";
  throw new RequestError(`The server at ${location.host} cannot be reached. ${why}, then try again.`);
}

function notFabella(response) {
  const type = (response.headers.get("Content-Type") ?? "nothing").split(";")[0];
  return new RequestError(`The answer (${type}) is not from Fabella, but perhaps from a proxy. Open ${location.origin}/v1/models to see it.`);
}

// Return the error of a response: the server's own words, or what the status means if something else has answered.
async function refusal(response) {
  const { status } = response;
  const text = await response.text().catch(() => "");
  let error = null;
  try { error = JSON.parse(text).error; } catch { /* not an answer of Fabella */ }
  const message = typeof error?.message === "string" ? error.message.trim() : "";
  const wait = Number(response.headers.get("Retry-After"));
  const words = (message || meaning(response)) + (wait > 0 ? ` Retry after ${wait} seconds.` : "");
  return new RequestError(words, { status, code: message ? (error.code ?? "") : "" });
}

function meaning({ status, statusText }) {
  const name = `HTTP ${status}${statusText && ` ${statusText}`}`;
  if (status === 413) return `${name}: the text is too long for a proxy in front of the server. Use a shorter one.`;
  if (status === 429) return `${name}: too many requests. Wait a little, then try again.`;
  if (status === 403) return `${name}: a proxy in front of the server refuses this page. Ask who runs it for access.`;
  if (status === 404) return `${name}: there is no Fabella API at ${location.host}. Check the address, and what runs there.`;
  if ([502, 503, 504].includes(status)) return `${name}: a proxy cannot reach the server. Check that fabella serve is running, then try again.`;
  return `${name}, without an explanation. Try again, and look at the output of fabella serve if it happens again.`;
}

// ---------------------------------------------------------------- streams

// Yield the first choice of each event of a stream. Raises RequestError if it ends before its last event.
export async function* events(response) {
  if (!(response.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) throw notFabella(response);
  for await (const data of fields(response.body)) {
    if (data === "[DONE]") return;
    const event = parsed(data);
    if (event.error) throw new RequestError(String(event.error.message ?? "Generation failed. Try again."));
    if (event.choices?.[0]) yield event.choices[0];
  }
  throw new RequestError(LOST, { code: "connection_lost" });
}

async function* fields(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read().catch(lost);
    if (done) return;
    const lines = (held + decoder.decode(value, { stream: true })).split(/\r?\n/);
    held = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) yield line.slice("data:".length).trim();
  }
}

function lost(error) {
  throw error.name === "AbortError" ? error : new RequestError(LOST, { code: "connection_lost" });
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new RequestError("The server sent an event that cannot be read. Try again.");
  }
}
