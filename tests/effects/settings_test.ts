/**
 * What the doctor asks of this host: may mariadbd's user run its notify command, tried with a process of
 * that user; is there a socket unit; can the data directory be renamed.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, chownSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { isHere, notifyFacts, socketFacts, whyFixed } from "../../lib/effects/settings.ts";
import { coreCluster } from "../support/cores.ts";
import { makeScratch, removeScratch } from "../support/scratch.ts";

const isRoot = process.getuid?.() === 0;
const NOBODY = 65_534;

describe.skipIf(!isRoot)("the notify command as another user", () => {
  let directory = "";
  let child: Bun.Subprocess;
  let program = "";

  beforeAll(() => {
    directory = makeScratch("settings");
    chmodSync(directory, 0o755);
    program = join(directory, "notify");
    writeFileSync(program, "#!/bin/sh\n", { mode: 0o755 });
    child = Bun.spawn(
      ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups", "sleep", "60"],
      { stdout: "ignore", stderr: "ignore" },
    );
    writeFileSync(join(directory, "pid"), `${child.pid}\n`);
  });
  afterAll(async () => {
    child.kill("SIGKILL");
    await child.exited;
    removeScratch(directory);
  });

  function ask(command: string) {
    return notifyFacts(
      new Map([
        ["wsrep_notify_cmd", command],
        ["pid_file", join(directory, "pid")],
      ]),
    );
  }

  test("one that everybody may run is fine, with its script", async () => {
    // setpriv changes its user a moment after its start.
    while (ask(`${program} ${program}`)?.user !== `uid ${NOBODY}`) await Bun.sleep(5);
    expect(ask(`${program} --node x ${program}`)?.blocked).toBeNull();
  });

  test("one that only root may run is named", () => {
    chmodSync(program, 0o700);
    expect(ask(program)?.blocked).toBe(program);
    chmodSync(program, 0o755);
  });

  test("a script that only root may read is named", () => {
    const script = join(directory, "script.ts");
    writeFileSync(script, "", { mode: 0o600 });
    expect(ask(`${program} ${script} --node x`)?.blocked).toBe(script);
  });

  test("without a running server, or without a command, nothing can be told", () => {
    expect(ask("")).toBeNull();
    expect(notifyFacts(new Map([["wsrep_notify_cmd", program]]))).toBeNull();
  });
});

test("a socket that every host calls the same is that of the server with an address of this host", async () => {
  const directory = makeScratch("here");
  const mysqlSocket = join(directory, "mysqld.sock");
  const hosts = ["127.0.0.1", "192.0.2.1", "nowhere.invalid"];
  const [first, second, third, fourth] = coreCluster().servers.map((server, index) => ({
    ...server,
    mysqlSocket,
    host: hosts[index] ?? server.host,
  }));
  if (!first || !second || !third || !fourth) throw new Error("four servers");
  const config = { ...coreCluster(), servers: [first, second, third, fourth] };
  // Nobody listens yet.
  expect(await isHere(config, first)).toBe(false);
  const listening = Bun.listen({ unix: mysqlSocket, socket: { data() {} } });
  expect(await isHere(config, first)).toBe(true);
  expect(await isHere(config, second)).toBe(false);
  expect(await isHere(config, third)).toBe(false);
  // A path of its own needs no address: hosts of a lab are all on this machine.
  expect(await isHere({ ...config, servers: [second] }, second)).toBe(true);
  listening.stop(true);
  removeScratch(directory);
});

describe("the socket unit", () => {
  let directory = "";

  beforeAll(() => {
    directory = makeScratch("sockets");
  });
  afterAll(() => removeScratch(directory));

  /** A systemctl with these two answers. */
  function systemctl(enabled: string, active: string): string {
    const file = join(directory, "systemctl");
    const answers = `is-enabled) echo ${enabled} ;; is-active) echo ${active} ;;`;
    writeFileSync(file, `#!/bin/sh\necho "$*" >>"$0.asked"\ncase $1 in ${answers} esac\n`, {
      mode: 0o755,
    });
    return file;
  }

  test("of the unit's name is asked for, and its two states are told", () => {
    const ask = (enabled: string, active: string) =>
      socketFacts("mariadb.service", systemctl(enabled, active));
    expect(ask("enabled", "active")).toEqual({ enabled: true, active: true });
    expect(ask("enabled-runtime", "inactive")).toEqual({ enabled: true, active: false });
    expect(ask("disabled", "inactive")).toEqual({ enabled: false, active: false });
    expect(ask("masked", "inactive")).toEqual({ enabled: false, active: false });
    const asked = readFileSync(join(directory, "systemctl.asked"), "utf8");
    expect(asked.split("\n").slice(0, 2)).toEqual([
      "is-enabled mariadb.socket",
      "is-active mariadb.socket",
    ]);
  });

  test("that is not there, or no systemd, is none", () => {
    expect(socketFacts("mariadb.service", systemctl("not-found", "inactive"))).toBeNull();
    expect(socketFacts("mariadb.service", systemctl("", ""))).toBeNull();
    expect(socketFacts("mariadb.service", join(directory, "nowhere"))).toBeNull();
  });
});

describe.skipIf(!isRoot)("a data directory", () => {
  let directory = "";

  beforeAll(() => {
    directory = makeScratch("fixed");
  });
  afterAll(() => removeScratch(directory));

  test("can be renamed where the folder above it is its owner's or its group's", () => {
    const datadir = join(directory, "data");
    mkdirSync(datadir);
    expect(whyFixed(datadir)).toBeNull();
    chownSync(datadir, NOBODY, NOBODY);
    expect(whyFixed(datadir)).toBe(`uid ${NOBODY} may not rename in ${directory}`);
    chownSync(directory, 0, NOBODY);
    chmodSync(directory, 0o770);
    expect(whyFixed(datadir)).toBeNull();
    chmodSync(directory, 0o750);
    expect(whyFixed(datadir)).not.toBeNull();
    chownSync(directory, NOBODY, 0);
    expect(whyFixed(datadir)).toBeNull();
  });

  test("that is a mount point cannot, and of one that is not there nothing is known", () => {
    expect(whyFixed("/proc")).toBe("it is a mount point");
    expect(whyFixed(join(directory, "nowhere", "data"))).toBeNull();
  });
});
