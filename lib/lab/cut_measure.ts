/**
 * What a cut of the link does to writes in flight, measured on a real cluster without minders: how far
 * apart the halves end, and when the rows that one half lacks were acknowledged by the other.
 */
import type { Connection } from "mysql2/promise";
import type { Lab } from "./lab.ts";
import { connectTo } from "./mariadb.ts";

export const HALVES = [
  ["dc1-1", "dc1-2"],
  ["dc2-1", "dc2-2"],
] as const;
const SERVERS = HALVES.flat();

interface Write {
  readonly key: string;
  readonly half: 0 | 1;
  /** Milliseconds after the cut began; null: never. */
  ackedAt: number | null;
  readonly sentAt: number;
}

/** One cut. */
export interface CutHow {
  readonly round: number;
  readonly writers: number;
  readonly heavy: boolean;
  readonly fenceMs: number | null;
}

/** Cuts a calm 2+2 cluster under load, looks, and heals it again. */
export async function measureCut(lab: Lab, { round, writers, heavy, fenceMs }: CutHow) {
  const writes: Write[] = [];
  let stopped = false;
  const sessions = await Promise.all(
    SERVERS.flatMap((host) =>
      Array.from({ length: writers }, async (_, n) => {
        const connection = await connectTo(lab.server(host).socket, lab.secrets.app);
        return { connection, host, writer: `r${round}-${host}-${n}` };
      }),
    ),
  );
  const running = sessions.map(async ({ connection, host, writer }) => {
    const half = host.startsWith("dc1") ? 0 : 1;
    for (let number = 1; !stopped; number++) {
      const write: Write = {
        key: `${writer}/${number}`,
        half,
        ackedAt: null,
        sentAt: performance.now(),
      };
      writes.push(write);
      if (!(await insert(connection, `('${writer}', ${number}, '${host}')`))) break;
      write.ackedAt = performance.now();
    }
    connection.destroy();
  });
  await Bun.sleep(1500);
  const cut = await lab.network.cut(HALVES[0], HALVES[1]);
  const zero = cut.fromMs - performance.timeOrigin;
  const cutMs = cut.toMs - cut.fromMs;
  // From here on only what hangs is waited for.
  await Bun.sleep(1000);
  stopped = true;
  if (fenceMs !== null) {
    await Bun.sleep(Math.max(0, fenceMs - (performance.now() - zero)));
    const sql = "SET GLOBAL wsrep_reject_queries = ALL_KILL";
    await Promise.all(HALVES[0].map((host) => lab.query(host, sql)));
  }
  const lost = heavy ? HALVES[1] : SERVERS;
  await lab.allReport("wsrep_cluster_status", "non-Primary", { hosts: lost, timeoutMs: 20_000 });
  if (heavy) await lab.allReport("wsrep_cluster_size", "2", { hosts: HALVES[0] });
  const changeMs = performance.now() - zero;
  await Promise.all(running);
  const rows = await Promise.all(HALVES.map(([host]) => dirtyRows(lab, host, `r${round}-`)));
  const seqnos = await Promise.all(
    HALVES.map(async ([host]) => Number((await lab.status(host))?.get("wsrep_last_committed"))),
  );
  const lacking = writes.filter(({ key, half }) => {
    const there = rows[half]?.has(key) === true || rows[1 - half]?.has(key) === true;
    return there && !(rows[0]?.has(key) === true && rows[1]?.has(key) === true);
  });
  const acked = lacking.flatMap(({ ackedAt }) => (ackedAt === null ? [] : [ackedAt - zero]));
  await lab.network.heal();
  for (const host of HALVES[0]) await lab.query(host, "SET GLOBAL wsrep_reject_queries = NONE");
  await lab.allReport("wsrep_cluster_size", "4");
  await lab.allReport("wsrep_local_state_comment", "Synced");
  const nowhere = writes.filter(
    ({ key, ackedAt }) => ackedAt !== null && !rows.some((held) => held.has(key)),
  );
  return {
    cutMs: Math.round(cutMs * 10) / 10,
    changeMs: Math.round(changeMs),
    seqnos,
    missing: lacking.length,
    before: acked.filter((at) => at < 0).length,
    during: acked.filter((at) => at >= 0 && at <= cutMs).length,
    stalled: acked.filter((at) => at > cutMs && at < 1000).length,
    atChange: acked.filter((at) => at >= 1000).length,
    never: lacking.length - acked.length,
    ackedNowhere: nowhere.length,
    ackedAtMs: acked.map((at) => Math.round(at * 10) / 10),
  };
}

/** False once the server refuses or loses it. */
async function insert(connection: Connection, values: string): Promise<boolean> {
  try {
    await connection.query({ sql: `INSERT INTO app.written VALUES ${values}`, timeout: 30_000 });
    return true;
  } catch {
    return false;
  }
}

async function dirtyRows(lab: Lab, host: string, prefix: string): Promise<ReadonlySet<string>> {
  const connection = await connectTo(lab.server(host).socket, lab.secrets.minder);
  try {
    await connection.query("SET SESSION wsrep_dirty_reads = 1");
    const sql = `SELECT CONCAT(writer, '/', number) AS name FROM app.written WHERE writer LIKE '${prefix}%'`;
    const [found] = await connection.query(sql);
    return new Set((found as { name: string }[]).map(({ name }) => name));
  } finally {
    connection.destroy();
  }
}
