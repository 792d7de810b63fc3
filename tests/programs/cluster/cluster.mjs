// Two workers on the socket that bpm holds. The signal reaches all of the group; the primary waits for its workers.
import cluster from "node:cluster";

if (cluster.isPrimary) {
  cluster.fork({ LISTEN_PID: "" });
  cluster.fork({ LISTEN_PID: "" });
  let serving = 0;
  cluster.on("listening", () => ++serving === 2 && console.log("two workers serve"));
  for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => {});
  cluster.on("exit", () => Object.keys(cluster.workers).length || process.exit(0));
} else {
  process.env.LISTEN_PID = String(process.pid);
  await import("./server.mjs");
}
