// Writes the checksum of the sources beside the built files, so that a test can tell whether those
// are current without building them.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";

const files = [
  "package.json",
  "tsconfig.json",
  ...readdirSync("src")
    .sort()
    .map((f) => `src/${f}`),
];
const hash = createHash("sha256");
for (const file of files) hash.update(`${file}\n`).update(readFileSync(file));
writeFileSync("../prunekit/labextension/sources.sha256", `${hash.digest("hex")}\n`);
