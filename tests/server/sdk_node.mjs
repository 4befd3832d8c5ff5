// Runs conformance cases with the official JavaScript client: `node sdk_node.mjs URL KEY < cases.json`, one result a line.
import OpenAI from "openai";
import { readFileSync } from "node:fs";

async function run(one, url, key) {
  const client = new OpenAI({ baseURL: url, apiKey: one.key ?? key, maxRetries: 0, timeout: 30000 });
  try {
    if (one.call === "models") {
      const data = [];
      for await (const model of client.models.list()) data.push(model);
      return { status: 200, body: { data } };
    }
    if (one.call === "model") return { status: 200, body: await client.models.retrieve(one.id) };
    const route = { chat: client.chat.completions, text: client.completions, response: client.responses }[one.call];
    const found = await route.create(one.body, { headers: one.headers });
    if (!one.body.stream) return { status: 200, body: found, request_id: found._request_id };
    const chunks = [];
    try {
      for await (const chunk of found) chunks.push(chunk);
    } catch (error) {
      return { status: 200, error: error.error, chunks };
    }
    return { status: 200, chunks };
  } catch (error) {
    if (error.status === undefined) throw error;
    return { status: error.status, error: error.error, request_id: error.requestID };
  }
}

const [url, key] = process.argv.slice(2);
for (const one of JSON.parse(readFileSync(0, "utf8"))) console.log(JSON.stringify(await run(one, url, key)));
