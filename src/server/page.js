"use strict";
(() => {
const $ = id => document.getElementById(id), B = document.body, NEW = "2026-07-28";
const ESC = /\x1b(?:\[[0-9;?]*[ -\/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])/g;
const ODD = /[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\udb40-\udb43][\udc00-\udfff]/g;
let token = "", id = 0, stop, wait = 500, heard = 0, since = 0, last = {}, rows = [], old = new Map(), hist = new Map();
let sel = "", next = null, run = null, pulling = 0, again = 0, gen = 0, busy = new Set();

if (location.hash.startsWith("#token=")) {
  let given = location.hash.slice(7);
  try { given = decodeURIComponent(given); } catch (e) { /* as it is */ }
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}
token = sessionStorage.getItem("token") || "";

const say = text => { $("said").textContent = text; };
const clean = text => text.replace(ESC, "").replace(ODD, c => "\\u{" + c.codePointAt(0).toString(16) + "}");
const head = more => Object.assign({ "Bpm-Client": "dashboard" }, token && { Authorization: "Bearer " + token }, more);

async function ask(method, params, more, signal) {
  const body = JSON.stringify({ jsonrpc: "2.0", id: ++id, method, params });
  const answer = await fetch("/mcp", { method: "POST", body, signal, cache: "no-store", headers: head(Object.assign({ "Content-Type": "application/json", Accept: "application/json, text/event-stream" }, more)) });
  if (answer.status == 401) locked();
  return answer;
}

async function tool(name, args) {
  const said = await (await ask("tools/call", { name, arguments: args })).json();
  if (said.error) throw Error(said.error.message);
  return said.result;
}

function locked() {
  B.dataset.locked = "";
  $("token").hidden = false;
  $("out").hidden = true;
  $("main").replaceChildren();
  old.clear();
  $("link").textContent = token ? "this token is not the daemon's" : "the token is needed; \"bpm dash\" prints the address with it";
  $("secret").focus();
}

// The daemon draws; what is equal is not touched, so focus and selection stay.
async function refresh() {
  const answer = await fetch("/", { headers: head(), cache: "no-store" });
  if (answer.status == 401) { locked(); throw Error("token"); }
  if (!answer.ok) throw Error("status " + answer.status);
  const html = await answer.text();
  delete B.dataset.locked;
  $("token").hidden = true;
  $("out").hidden = false;
  const part = new DOMParser().parseFromString("<main>" + html + "</main>", "text/html").querySelector("main");
  const data = part.querySelector("#head").dataset;
  document.title = data.title;
  $("project").textContent = data.project;
  if (!$("rows")) { $("main").replaceChildren(...[...part.childNodes].map(n => n.cloneNode(true))); old.clear(); }
  for (const key of ["head", "wrong", "events"]) swap(key, $(key), part.querySelector("#" + key));
  const body = $("rows"), seen = new Set();
  let at = body.firstElementChild;
  for (const row of [...part.querySelector("#rows").children]) {
    const name = row.dataset.p;
    seen.add(name);
    note(row);
    let mine = [...body.children].find(r => r.dataset.p == name);
    if (!mine) { mine = row.cloneNode(true); body.insertBefore(mine, at); }
    if (mine != at) body.insertBefore(mine, at);
    at = mine.nextElementSibling;
    [...row.cells].forEach((cell, i) => swap(name + " " + i, mine.cells[i], cell));
    mine.toggleAttribute("data-up", row.hasAttribute("data-up"));
  }
  for (const row of [...body.children]) if (!seen.has(row.dataset.p)) row.remove();
  rows = [...body.children];
  for (const name of hist.keys()) if (!seen.has(name)) hist.delete(name);
  choose(seen.has(sel) ? sel : rows.length ? rows[0].dataset.p : "");
  draw();
  contact();
}

function swap(key, mine, its) {
  if (mine.className != its.className) mine.className = its.className;
  if (old.get(key) === its.innerHTML && mine.childNodes.length) return;
  old.set(key, its.innerHTML);
  const held = mine.contains(document.activeElement) && document.activeElement.dataset.do;
  mine.replaceChildren(...[...its.cloneNode(true).childNodes]);
  if (held) (mine.querySelector(`[data-do="${held}"]`) || mine.querySelector("button"))?.focus();
  for (const b of mine.querySelectorAll("button")) b.disabled = busy.has(b.dataset.p);
  for (const t of mine.querySelectorAll("time")) t.textContent = new Date(t.dateTime).toLocaleTimeString("en-GB");
}

function note(row) {
  const h = hist.get(row.dataset.p) || { cpu: [], mem: [] };
  hist.set(row.dataset.p, h);
  for (const k of ["cpu", "mem"]) {
    const v = row.querySelector(`[data-${k}]`);
    h[k].push(v && v.dataset[k] !== "" ? +v.dataset[k] : null);
    if (h[k].length > 60) h[k].shift();
  }
}

function draw() {
  for (const row of rows) for (const k of ["cpu", "mem"]) {
    const cell = row.querySelector(`[data-${k}]`), h = hist.get(row.dataset.p)[k];
    if (!cell) continue;
    const top = Math.max(k == "cpu" ? 100 : 1, ...h), ns = "http://www.w3.org/2000/svg";
    const points = h.map((v, i) => v === null ? "" : i + 60 - h.length + "," + (15 - v / top * 14).toFixed(1)).join(" ").trim();
    let line = cell.querySelector("polyline");
    if (!line) {
      const svg = document.createElementNS(ns, "svg");
      svg.setAttribute("viewBox", "0 0 60 16");
      svg.setAttribute("aria-hidden", "true");
      cell.prepend(svg);
      line = svg.appendChild(document.createElementNS(ns, "polyline"));
    }
    if (line.getAttribute("points") != points) line.setAttribute("points", points);
  }
}

function choose(name) {
  const which = $("which"), names = rows.map(r => r.dataset.p);
  if ([...which.options].map(o => o.value).join("\0") != names.join("\0"))
    which.replaceChildren(...names.map(n => new Option(clean(n), n)));
  const changed = name != sel;
  sel = name;
  which.value = name;
  for (const row of rows) row.dataset.p == name ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current");
  if (changed) { fresh(); listen(); }
}

function fresh() {
  gen++;
  next = run = null;
  $("log").replaceChildren();
  pull();
}

// New lines of the shown process, behind the cursor.
async function pull() {
  if (!sel || document.hidden || B.dataset.locked != null) return;
  if (pulling) { again = 1; return; }
  pulling = 1;
  const g = gen, args = { process: sel, format: "json", tail: 500, max_chars: 50000 };
  if (next !== null) args.after = next;
  if ($("find").value) args.pattern = $("find").value;
  try {
    const said = await tool($("what").value, args), data = said.structuredContent;
    if (g == gen) {
      if (said.isError || !data) put([{ text: said.content[0].text, gap: 1 }]);
      else {
        const lines = data.lines.filter(l => !l.partial);
        if (data.run !== run && run !== null && lines.length) put([{ text: "-- run " + data.run + " --", gap: 1 }]);
        if (next !== null && data.dropped) put([{ text: "... " + data.dropped + " lines skipped", gap: 1 }]);
        put(lines);
        run = data.run;
        next = data.next;
      }
    }
  } catch (e) { /* the stream says that it is gone */ }
  pulling = 0;
  if (again || g != gen) { again = 0; pull(); }
}

function put(lines) {
  const log = $("log"), add = document.createDocumentFragment();
  for (const l of lines) {
    const div = document.createElement("div");
    div.textContent = clean(l.text);
    if (l.gap) div.className = "gap"; else if (l.stream == "stderr") div.className = "err";
    add.append(div);
  }
  log.append(add);
  while (log.childNodes.length > 2000) log.firstChild.remove();
  if ($("follow").checked) log.scrollTop = log.scrollHeight;
}

function contact() {
  heard = Date.now();
  wait = 500;
  B.classList.remove("gone");
  $("link").textContent = "live";
}

function gone() {
  if (!B.classList.contains("gone")) since = heard || Date.now();
  B.classList.add("gone");
  $("link").textContent = "no contact since " + new Date(since).toLocaleTimeString("en-GB");
}

// One stream says what has changed, while the page is seen.
async function listen() {
  if (stop) stop.abort();
  if (document.hidden || B.dataset.locked != null) return;
  const mine = stop = new AbortController(), uris = ["bpm://status"];
  if (sel) uris.push("bpm://logs/" + encodeURIComponent(sel), "bpm://build-log/" + encodeURIComponent(sel));
  try {
    const answer = await ask("subscriptions/listen", {
      notifications: { resourceSubscriptions: uris },
      _meta: { "io.modelcontextprotocol/protocolVersion": NEW, "io.modelcontextprotocol/clientCapabilities": {}, "io.modelcontextprotocol/clientInfo": { name: "bpm-page", version: "1" } }
    }, { "MCP-Protocol-Version": NEW, "Mcp-Method": "subscriptions/listen" }, mine.signal);
    if (!answer.ok) throw Error(answer.status);
    await refresh();
    pull();
    const reader = answer.body.getReader(), text = new TextDecoder();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      heard = Date.now();
      const lines = (rest + text.decode(value, { stream: true })).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data: ")) {
        const uri = JSON.parse(line.slice(6)).params?.uri;
        if (uri == "bpm://status") refresh().catch(() => {}); else if (uri) pull();
      }
    }
  } catch (e) { if (mine.signal.aborted) return; }
  if (mine != stop || mine.signal.aborted || B.dataset.locked != null) return;
  gone();
  setTimeout(() => { if (mine == stop) listen(); }, wait);
  wait = Math.min(wait * 2, 10000);
}

async function act(what, name) {
  if (!name || busy.has(name) || what == "stop" && !confirm("Stop " + clean(name) + "?")) return;
  const mark = on => { for (const b of document.querySelectorAll("#rows button")) if (b.dataset.p == name) b.disabled = on; };
  busy.add(name);
  mark(true);
  say(what + " " + clean(name) + " ...");
  try {
    const said = await tool(what, { process: name });
    say((said.isError ? what + " " + clean(name) + ": " : "") + clean(said.content[0].text.split("\n").slice(0, 3).join(" ")).slice(0, 300));
  } catch (e) { say(what + " " + clean(name) + ": " + e.message); }
  busy.delete(name);
  mark(false);
  refresh().catch(() => {});
}

document.addEventListener("click", e => {
  const b = e.target.closest("button, tr[data-p]");
  if (!b) return;
  if (b.dataset.do) act(b.dataset.do, b.dataset.p);
  else if (b.dataset.p && !e.target.closest("a")) choose(b.dataset.p);
});
$("which").onchange = e => choose(e.target.value);
$("what").onchange = fresh;
$("find").onchange = fresh;
$("follow").onchange = () => put([]);
$("clear").onclick = () => $("log").replaceChildren();
$("copy").onclick = () => navigator.clipboard.writeText([...$("log").children].map(d => d.textContent).join("\n")).then(() => say("copied"), () => say("the browser does not let a page copy here"));
$("log").onscroll = e => { const l = e.target; $("follow").checked = l.scrollHeight - l.scrollTop - l.clientHeight < 30; };
$("show").onclick = () => { token = $("secret").value; $("secret").value = ""; sessionStorage.setItem("token", token); start(); };
$("secret").onkeydown = e => { if (e.key == "Enter") $("show").click(); };
document.addEventListener("keydown", e => {
  if (e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName)) { if (e.key == "Escape") e.target.blur(); return; }
  const at = rows.findIndex(r => r.dataset.p == sel), go = n => { if (rows[n]) { choose(rows[n].dataset.p); rows[n].scrollIntoView({ block: "nearest" }); } };
  if (e.key == "Enter" && /^(A|BUTTON)$/.test(e.target.tagName)) return;
  const done = { j: () => go(at + 1), k: () => go(at - 1), Enter: () => $("log").focus(), r: () => act("restart", sel), s: () => act(rows[at]?.hasAttribute("data-up") ? "stop" : "start", sel), "/": () => $("find").focus(), f: () => $("follow").click(), c: () => $("clear").click() }[e.key];
  if (done) { e.preventDefault(); done(); }
});
document.addEventListener("visibilitychange", () => document.hidden ? stop && stop.abort() : start());
setInterval(() => {
  if (document.hidden || B.dataset.locked != null) return;
  if (!B.classList.contains("gone")) {
    if (heard && Date.now() - heard > 40000) { gone(); listen(); } else refresh().catch(() => {});
  }
}, 2000);

function start() {
  B.classList.add("live");
  if (B.dataset.locked != null && !token) return locked();
  delete B.dataset.locked;
  rows = $("rows") ? [...$("rows").children] : [];
  if (!sel && rows.length) choose(rows[0].dataset.p); else listen();
}
start();
})();
