// Writes asyncgen/view/static/vendor.js, uplot.css, THIRD_PARTY and vendor.sha256: `npm ci && npm run build`.
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const target = "../../asyncgen/view/static/";
const bundled = ["preact", "htm", "@tanstack/virtual-core", "uplot"];

const result = await build({
  entryPoints: ["entry.mjs"],
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "vendor",
  target: "es2022",
  legalComments: "none",
  define: { "process.env.NODE_ENV": '"production"' },
  write: false,
});
const notices = bundled.map((name) => {
  const { version, license } = JSON.parse(readFileSync(`node_modules/${name}/package.json`, "utf8"));
  const text = readFileSync(`node_modules/${name}/LICENSE`, "utf8").trim();
  return `${name} ${version} (${license})\n\n${text}\n`;
});
const files = {
  "vendor.js": `/* Libraries with their own licences: see THIRD_PARTY. */\n${result.outputFiles[0].text}`,
  "uplot.css": readFileSync("node_modules/uplot/dist/uPlot.min.css", "utf8").trim() + "\n",
  THIRD_PARTY: notices.join(`\n${"-".repeat(80)}\n\n`),
};
const sums = Object.entries(files).map(([name, text]) => {
  writeFileSync(target + name, text);
  return `${createHash("sha256").update(text).digest("hex")}  ${name}\n`;
});
writeFileSync(`${target}vendor.sha256`, sums.join(""));
