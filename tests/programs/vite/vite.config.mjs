const slow = (server) => {
  server.middlewares.use("/slow", (_, response) => setTimeout(() => response.end("slow\n"), 1500));
};
export default { plugins: [{ name: "slow", configureServer: slow }] };
