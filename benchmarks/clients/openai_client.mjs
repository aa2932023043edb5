// OpenAI's client for Node.js. Prints the results in the form of checks.py.
import assert from "node:assert";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(path.join(process.env.NODE_FOLDER, "package.json"));
const { default: OpenAI } = await import(pathToFileURL(require.resolve("openai")).href);
const servers = JSON.parse(process.env.FABELLA_SERVERS);
const client = (url, apiKey = "any") => new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const text = (more = {}, url = servers.open) =>
  client(url).completions.create({ model: "tiny", prompt: "Once", max_tokens: 8, seed: 1, ...more });
const messages = [{ role: "user", content: "Once" }];

const checks = {
  async completion() {
    const answer = await text({ frequency_penalty: 0, best_of: 1, logit_bias: {}, suffix: null });
    assert(answer.choices[0].text && answer.usage.completion_tokens <= 8);
  },
  async chat() {
    const create = (history) => client(servers.open).chat.completions.create({ model: "tiny", messages: history, max_tokens: 8 });
    const answer = await create(messages);
    assert((await create([...messages, answer.choices[0].message, ...messages])).choices[0].message.content);
  },
  async stream() {
    let joined = "";
    for await (const chunk of await text({ stream: true })) joined += chunk.choices[0]?.text ?? "";
    assert.equal(joined, (await text()).choices[0].text);
  },
  async logprobs() {
    const { token_logprobs: values } = (await text({ echo: true, logprobs: 1, max_tokens: 0 })).choices[0].logprobs;
    assert(values[0] === null && values.slice(1).every((value) => value <= 0));
  },
  async errors() {
    const length = { code: "context_length_exceeded" };
    await assert.rejects(text({ prompt: "x".repeat(500) }), (error) => error instanceof OpenAI.BadRequestError && error.code === length.code);
    await assert.rejects(text({ model: "other" }), OpenAI.NotFoundError);
    await assert.rejects(text({}, servers.keyed), OpenAI.AuthenticationError);
    await assert.rejects(text({}, servers.full), OpenAI.RateLimitError);
    await assert.rejects(text({ suffix: "end" }), OpenAI.BadRequestError);
    await assert.rejects(client(servers.open).embeddings.create({ model: "tiny", input: "x" }), OpenAI.NotFoundError);
  },
};
const results = {};
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    results[name] = "";
  } catch (error) {
    results[name] = String(error.stack);
  }
}
const { version } = JSON.parse(readFileSync(path.join(process.env.NODE_FOLDER, "node_modules", "openai", "package.json")));
console.log(JSON.stringify({ version, results }));
