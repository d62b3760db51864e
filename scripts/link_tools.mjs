// Runs after `npm install`, under node because Bun may not be there yet.
// The npm package of just starts the real program through node, which costs a quarter of a second
// a call; a status query must not pay that, so node_modules/.bin/just is pointed at the program itself.
// The bun package may likewise come without its program when install scripts are switched off.
import { chmodSync, existsSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const modules = join(dirname(fileURLToPath(import.meta.url)), "..", "node_modules");

function link(name, target) {
  const at = join(modules, ".bin", name);
  if (!existsSync(join(modules, ".bin", target))) {
    console.log(
      `galera-minder: ${name}: kept as npm installed it (no ${target} for this platform)`,
    );
    return;
  }
  chmodSync(join(modules, ".bin", target), 0o755);
  rmSync(at, { force: true });
  symlinkSync(target, at);
  console.log(`galera-minder: ${at} runs the program itself`);
}

const justPackage = readdirSync(modules).find((name) => /^rust-just-/.test(name));
if (justPackage !== undefined) link("just", join("..", justPackage, "bin", "just"));
