// Answers at once, and /slow after a second and a half. At TERM or INT it answers what it has begun and ends; at a second
// one it ends at once, as many programs do.
import http from "node:http";

const server = http.createServer((request, response) => {
  const wait = request.url === "/slow" ? 1500 : 0;
  setTimeout(() => response.end(`${process.pid}\n`), wait);
});
const held = process.env.LISTEN_PID === String(process.pid);
server.listen(held ? { fd: 3 } : { port: process.env.PORT, host: "127.0.0.1" }, () => console.log("serving"));

let signals = 0;
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.on(signal, () => {
    console.log(signal);
    signals += 1;
    if (signals > 1) process.exit(1);
    server.close(() => process.exit(0));
    server.closeIdleConnections();
  });
}
