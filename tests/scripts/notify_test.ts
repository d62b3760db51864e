import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { throughClosedDoors } from "../../lib/lab/closed_doors.ts";
import { decodeMessage } from "../../lib/message/mod.ts";

/**
 * It ends by its own timer 80 ms after its start; `just bench-notify` measures that. What waits for an
 * answer that never comes would take minutes.
 */
const BOUND_MS = 20_000;
/** On a busy machine the 80 ms are over before it has come to anything: then it is called again. */
const CALLS_MAX = 50;
const ROOT = new URL("../..", import.meta.url).pathname;
const STATE = "987c9d46-e6b5-11f1-9aa4-3a452c552f12";
const GALERA = ["--status", "synced", "--uuid", STATE, "--primary", "yes", "--index", "0"];

/** Whether we may become another user, and whether that one reaches the runtime. */
const OTHER_USER = Bun.spawnSync([
  ...throughClosedDoors(),
  ...["setpriv", "--reuid=nobody", "--clear-groups", "test", "-x"],
  process.execPath,
]).success;

let directory: string;
let handler: string;

beforeAll(() => {
  // A copy that any user can read, since the checkout may be in a closed home directory.
  directory = mkdtempSync(join(tmpdir(), "minder-notify-"));
  chmodSync(directory, 0o755);
  for (const file of ["scripts/notify.ts", "lib/notify.ts"]) {
    mkdirSync(join(directory, file, ".."), { recursive: true });
    copyFileSync(join(ROOT, file), join(directory, file));
    chmodSync(join(directory, file), 0o644);
  }
  handler = join(directory, "scripts/notify.ts");
});

afterAll(() => rmSync(directory, { recursive: true }));

interface Run {
  readonly code: number | null;
  readonly tookMs: number;
  readonly out: string;
  readonly err: string;
}

/** Runs the handler with a bare environment in /, as the given user. */
async function run(argv: readonly string[], user?: string): Promise<Run> {
  const as =
    user === undefined
      ? []
      : [...throughClosedDoors(), "setpriv", `--reuid=${user}`, "--clear-groups"];
  const startedAt = performance.now();
  const child = Bun.spawn([...as, process.execPath, handler, ...argv], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: { PATH: "/usr/bin:/bin" },
    cwd: "/",
  });
  const [code, out, err] = await Promise.all([
    child.exited,
    child.stdout.text(),
    child.stderr.text(),
  ]);
  return { code, tookMs: performance.now() - startedAt, out, err };
}

/** The same until it has done what is asked for, as Galera would: it calls at every change. */
async function runUntil(
  wished: (run: Run) => boolean,
  argv: readonly string[],
  user?: string,
): Promise<Run> {
  for (let call = 1; ; call++) {
    const done = await run(argv, user);
    expect(done.code).toBe(0);
    if (wished(done) || call === CALLS_MAX) return done;
  }
}

/** A watchdog double that keeps what is posted. */
function watchdog(answer: () => Response | Promise<Response>) {
  const posted: { path: string; type: string | null; body: string }[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: async (request) => {
      posted.push({
        path: new URL(request.url).pathname,
        type: request.headers.get("content-type"),
        body: await request.text(),
      });
      return await answer();
    },
  });
  const target = ["--to", `http://127.0.0.1:${server.port}`, "--node", "dbserver.2"];
  return { posted, target, [Symbol.asyncDispose]: () => server.stop(true) };
}

describe("the notify handler", () => {
  test("posts one message that the codec takes, says nothing and exits with 0", async () => {
    await using dog = watchdog(() => Response.json({}));
    const arrived = () => dog.posted.length > 0;
    const { code, out, err } = await runUntil(arrived, [...dog.target, ...GALERA]);
    expect({ code, out, err }).toEqual({ code: 0, out: "", err: "" });
    expect(dog.posted).toHaveLength(1);
    expect(dog.posted[0]).toMatchObject({ path: "/messages", type: "application/json" });
    const decoded = decodeMessage(dog.posted[0]?.body ?? "");
    expect(decoded).toMatchObject({
      ok: true,
      message: {
        sender: "wsrep_notify_cmd.2",
        receiver: "dbserver.2",
        toSession: "",
        verb: "wsrep_notify_cmd",
        parameters: { status: "synced", uuid: STATE, primary: true, index: 0, members: null },
      },
    });
  });

  test.skipIf(!OTHER_USER)(
    "works as another user, in a directory that it cannot write",
    async () => {
      await using dog = watchdog(() => Response.json({}));
      const arrived = () => dog.posted.length > 0;
      const { code, err } = await runUntil(arrived, [...dog.target, ...GALERA], "nobody");
      expect({ code, err }).toEqual({ code: 0, err: "" });
      expect(dog.posted).toHaveLength(1);
    },
  );

  test("takes hostile arguments as data, 60 KB of members included", async () => {
    await using dog = watchdog(() => Response.json({}));
    const name = `a'b"c\`touch ${directory}/pwned\`$(touch ${directory}/pwned);|&\n\\`;
    const members = `${STATE}/${name}/10.0.0.1:3306,`.repeat(
      Math.ceil(60_000 / (name.length + 52)),
    );
    const words = [...dog.target, "--status", name, "--members", members];
    const { code } = await runUntil(() => dog.posted.length > 0, words);
    expect(code).toBe(0);
    const decoded = decodeMessage(dog.posted[0]?.body ?? "");
    expect(decoded.ok).toBe(true);
    expect(dog.posted[0]?.body).toContain("$(touch");
    expect(readdirSync(directory).toSorted()).toEqual(["lib", "scripts"]);
  });

  test("exits with 0 when no watchdog is there", async () => {
    const dead = watchdog(() => Response.json({}));
    await dead[Symbol.asyncDispose]();
    const said = ({ err: words }: Run) => words !== "";
    const { code, out, err, tookMs } = await runUntil(said, [...dead.target, ...GALERA]);
    expect({ code, out }).toEqual({ code: 0, out: "" });
    expect(err).toBe("galera-minder notify: the watchdog cannot be reached\n");
    expect(tookMs).toBeLessThan(BOUND_MS);
  });

  test("exits with 0 and in time when the watchdog takes the message and never answers", async () => {
    const { promise: never, resolve: release } = Promise.withResolvers<Response>();
    await using dog = watchdog(() => never);
    const arrived = () => dog.posted.length > 0;
    const { code, out, err, tookMs } = await runUntil(arrived, [...dog.target, ...GALERA]);
    expect({ code, out, err }).toEqual({ code: 0, out: "", err: "" });
    expect(dog.posted).toHaveLength(1);
    expect(tookMs).toBeLessThan(BOUND_MS);
    release(new Response());
  });

  test("exits with 0 and says so when the watchdog refuses", async () => {
    await using dog = watchdog(() => new Response("\u001b[2J", { status: 403 }));
    const said = ({ err: words }: Run) => words !== "";
    const { code, out, err } = await runUntil(said, [...dog.target, ...GALERA]);
    expect({ code, out }).toEqual({ code: 0, out: "" });
    expect(err).toBe("galera-minder notify: the watchdog answered 403\n");
  });

  test("follows no redirect", async () => {
    await using other = watchdog(() => Response.json({}));
    const location = `${other.target[1]}/elsewhere`;
    await using dog = watchdog(() => new Response("", { status: 307, headers: { location } }));
    await runUntil(() => dog.posted.length > 0, [...dog.target, ...GALERA]);
    expect(dog.posted.length).toBeGreaterThan(0);
    expect(other.posted).toHaveLength(0);
  });

  test("exits with 0 and tells its use when it does not know whom to tell", async () => {
    for (const argv of [[], GALERA, ["--to", "nonsense", "--node", "x", ...GALERA]]) {
      const { code, err } = await runUntil(({ err: words }) => words !== "", argv);
      expect(code).toBe(0);
      expect(err).toContain("use --to http://HOST:PORT --node dbserver.N");
    }
  });
});
