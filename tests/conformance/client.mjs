// The official TypeScript client against a server, in one negotiation mode: client.mjs URL auto|legacy|REVISION [TOOL]
// With the fixtures' test_tool_with_progress (the default) progress must come, too.
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
const [url, mode, tool = 'test_tool_with_progress'] = process.argv.slice(2);
const negotiation = { mode: /^\d/.test(mode) ? { pin: mode } : mode };
const client = new Client({ name: 'ci', version: '1' }, { versionNegotiation: negotiation });
await client.connect(new StreamableHTTPClientTransport(new URL(url)));
const { tools } = await client.listTools();
if (!tools.some((t) => t.name === tool)) throw new Error(`${tool} is not among ${tools.map((t) => t.name)}`);
let steps = 0;
const result = await client.callTool({ name: tool, arguments: {} }, { onprogress: () => steps++ });
if (result.isError || !result.content.length) throw new Error(JSON.stringify(result));
if (tool === 'test_tool_with_progress' && steps !== 3) throw new Error(`${steps} steps of progress`);
await client.listResources();
await client.listPrompts();
await client.close();
