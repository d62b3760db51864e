import { expect, test } from "bun:test";
import { MinderError } from "../../lib/errors.ts";
import { missingNeeds, NEEDS, type SetupHost, setup, TEST_NEEDS } from "../../lib/lab/setup.ts";

/** A machine that lacks some programs and whose apt installs what it is told to. */
class Machine implements SetupHost {
  readonly isRoot: boolean;
  readonly said: string[] = [];
  readonly commands: string[] = [];
  readonly #absent: Set<string>;
  /** Installing works only after that many updates. */
  readonly #updatesNeeded: number;
  #updates = 0;

  constructor(options: { absent?: readonly string[]; isRoot?: boolean; updatesNeeded?: number }) {
    this.#absent = new Set(options.absent);
    this.isRoot = options.isRoot ?? true;
    this.#updatesNeeded = options.updatesNeeded ?? 0;
  }

  exists(file: string): boolean {
    return [...NEEDS, ...TEST_NEEDS].some(
      (need) => need.places.includes(file) && !this.#absent.has(need.name),
    );
  }

  apt(command: readonly string[]): { code: number; output: string } {
    this.commands.push(command.join(" "));
    if (command.includes("update")) {
      this.#updates++;
      return { code: 0, output: "" };
    }
    if (this.#updates < this.#updatesNeeded) {
      return { code: 100, output: "Reading lists\nE: Unable to locate package haproxy" };
    }
    for (const need of [...NEEDS, ...TEST_NEEDS])
      if (command.includes(need.package)) this.#absent.delete(need.name);
    return { code: 0, output: "" };
  }

  say(line: string): void {
    this.said.push(line);
  }
}

test("setup() runs no apt and says nothing when nothing is missing", () => {
  const machine = new Machine({});
  expect(setup(machine)).toEqual({ is: "complete" });
  expect(machine.commands).toEqual([]);
  expect(machine.said).toEqual([]);
});

test("setup() installs only what is missing and says what each is for", () => {
  const machine = new Machine({ absent: ["haproxy", "nft"] });
  expect(setup(machine)).toEqual({ is: "installed", packages: ["haproxy", "nftables"] });
  expect(machine.commands).toEqual([
    "apt-get install --yes --no-install-recommends haproxy nftables",
  ]);
  expect(machine.said[0]).toBe(
    "missing: haproxy, for the load balancer on the application hosts (haproxy)",
  );
});

test("setup() installs what only tests need where it is asked to, and not for the demo", () => {
  const absent = ["systemd", "sudo", "polkitd"];
  expect(setup(new Machine({ absent }))).toEqual({ is: "complete" });
  const packages = ["systemd", "sudo", "polkitd"];
  expect(setup(new Machine({ absent }), [...NEEDS, ...TEST_NEEDS])).toEqual({
    is: "installed",
    packages,
  });
});

test("setup() updates the package lists only when they do not suffice", () => {
  const machine = new Machine({ absent: ["haproxy"], updatesNeeded: 1 });
  expect(setup(machine)).toEqual({ is: "installed", packages: ["haproxy"] });
  expect(machine.commands.map((command) => command.split(" ")[1])).toEqual([
    "install",
    "update",
    "install",
  ]);
});

test("setup() gives apt's own error when it cannot install", () => {
  const machine = new Machine({ absent: ["haproxy"], updatesNeeded: 9 });
  try {
    setup(machine);
    expect.unreachable();
  } catch (error) {
    expect(error).toBeInstanceOf(MinderError);
    expect((error as MinderError).message).toBe("Cannot install haproxy");
    expect(String((error as MinderError).cause)).toContain("E: Unable to locate package haproxy");
  }
});

test("setup() without root changes nothing and gives the exact command", () => {
  const machine = new Machine({ absent: ["rsync"], isRoot: false });
  expect(setup(machine)).toEqual({
    is: "refused",
    command:
      "sudo apt-get update && sudo DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends rsync",
  });
  expect(machine.commands).toEqual([]);
});

test("missingNeeds() names what no place holds, and one place is enough", () => {
  const asked: string[] = [];
  const none = missingNeeds((file) => {
    asked.push(file);
    return false;
  });
  expect(none.length).toBeGreaterThan(5);
  expect(missingNeeds(() => true)).toEqual([]);
  for (const need of none) {
    for (const place of need.places) {
      expect(missingNeeds((file) => file === place)).not.toContain(need);
    }
  }
  // Files only: it is asked before every recipe.
  expect(asked.every((file) => file.startsWith("/"))).toBe(true);
});
