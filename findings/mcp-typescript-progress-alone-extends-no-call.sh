#!/usr/bin/env bash
# Finding: a tool call of the MCP TypeScript SDK ends after its timeout although progress notifications come all the
# while, unless the caller asks for `resetTimeoutOnProgress` besides `onprogress`.
#
# One would guess that a caller who listens to progress waits as long as there is some. A server that reports progress
# while it waits for a build is given up in the middle all the same: its answer must come within 60 s (the default).
#
# Version: @modelcontextprotocol/sdk 1.32.2. Source: its RequestOptions; a server that reports progress each 0.2 s for 2 s,
# against a timeout of 1 s.
# Seen:
#   onprogress: Request timed out, after several notifications
#   onprogress and resetTimeoutOnProgress: answered
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --no-audit --no-fund --silent @modelcontextprotocol/sdk@1.32.2 || { echo "skipped: the SDK cannot be had"; exit 0; }
cat >server.mjs <<'JS'
import { createInterface } from "node:readline";
const say = (m) => process.stdout.write(JSON.stringify({ jsonrpc: "2.0", ...m }) + "\n");
for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line);
  if (method === "initialize") {
    say({ id, result: { protocolVersion: params.protocolVersion, capabilities: { tools: {} }, serverInfo: { name: "x", version: "1" } } });
  } else if (method === "tools/call") {
    const progressToken = params._meta?.progressToken;
    let n = 0;
    const timer = setInterval(() => {
      n += 1;
      say({ method: "notifications/progress", params: { progressToken, progress: n } });
      if (n === 10) {
        clearInterval(timer);
        say({ id, result: { content: [{ type: "text", text: "done" }] } });
      }
    }, 200);
  }
}
JS
cat >client.mjs <<'JS'
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
const client = new Client({ name: "x", version: "1" });
await client.connect(new StdioClientTransport({ command: "node", args: ["server.mjs"] }));
const call = async (more) => {
  let seen = 0;
  try {
    const options = { timeout: 1000, onprogress: () => { seen += 1; }, ...more };
    await client.callTool({ name: "slow", arguments: {} }, undefined, options);
    return "answered";
  } catch (e) {
    return /timed out/i.test(e.message) && seen > 1 ? "timed out in spite of progress" : `odd: ${e.message}`;
  }
};
console.log(`${await call({})}; ${await call({ resetTimeoutOnProgress: true })}`);
await client.close();
JS
got=$(timeout 60 node client.mjs)
echo "onprogress: ${got%; *}; with resetTimeoutOnProgress: ${got#*; }"
[ "$got" = "timed out in spite of progress; answered" ] || { echo "changed"; exit 1; }
