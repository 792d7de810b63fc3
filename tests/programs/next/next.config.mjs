import path from "node:path";

// The packages are two folders above.
export default { turbopack: { root: path.resolve("../..") } };
