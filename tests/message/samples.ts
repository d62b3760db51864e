/** One valid message of each verb on each route, for the tests of the codec and of what carries it. */
import type { PartyId } from "../../lib/message/envelope.ts";
import type { Body, BodyOf, Message, Route } from "../../lib/message/mod.ts";

export const UUID = "987c9d46-e6b5-11f1-9aa4-3a452c552f12";
export const MEMBER = "987c3e9c-e6b5-11f1-b5d7-5a1256aad92a";
export const PRINT = `${UUID}/P/${MEMBER}`;

type BodyWith<Verb extends Body["verb"]> = Extract<Body, { verb: Verb }>;
type ReportBody = BodyWith<"db_status_report">;

export const REPORT: ReportBody = {
  verb: "db_status_report",
  parameters: {
    reportNumber: 17,
    url: "http://10.0.1.1:4570",
    running: "up",
    serving: "on",
    primary: "yes",
    group: "complete",
    fingerprint: PRINT,
    members: [{ uuid: MEMBER, name: "db1" }],
    stateUuid: UUID,
    lastCommitted: 4711,
    localState: "Synced",
    evsState: "OPERATIONAL",
    weight: 1,
    flowControl: 0.25,
    fenced: false,
    draining: false,
    yielding: false,
    cutting: false,
    leaving: false,
    position: { uuid: UUID, seqno: -1 },
    safeToBootstrap: false,
    storeId: "store-1",
    epochSeen: 2,
    epochServed: 2,
    lastPrimary: { fingerprint: PRINT, synced: true },
    probe: "flowing",
    gcommUuid: MEMBER,
    ended: { uuid: MEMBER, pid: 4711, startTime: 123_456 },
    silent: ["dbserver.3"],
    writers: 3,
    guard: false,
    diverged: false,
    primarySegment: "dc1",
    pollAgeMs: 12.5,
    versions: { server: "10.11.19-MariaDB", provider: "26.4.23", minder: "0.1.0" },
    because: 'vouched by "dbserver.3" = fine; ünïcödé \u{1f43f}',
  },
};

export const ACK: BodyWith<"ack"> = {
  verb: "ack",
  parameters: {
    outcome: "ok",
    because: "renewed",
    promise: { ms: 3000, view: PRINT, epoch: null },
    epochServed: 2,
    writer: "db1",
    arbitrator: {
      storeId: "store-1",
      epoch: 2,
      primarySegment: "dc1",
      epochs: [{ epoch: 2, segment: "dc1", forkPoint: { uuid: UUID, seqno: 10 } }],
      draining: false,
      yielding: false,
      cutting: false,
      retired: [],
      start: "wait",
    },
  },
};

const ORDER = { epoch: 3, storeId: "store-1", reportNumber: 17, because: "rule 2" } as const;
const SIGNED = { who: "root@adm1", why: 'kernel update, see "notes"' } as const;
const REQUEST_STATUS: BodyWith<"request_status"> = {
  verb: "request_status",
  parameters: { because: "silent for 2000 ms" },
};

/** Every verb of every route. */
export const SAMPLES: { readonly [R in Route]: readonly BodyOf<R>[] } = {
  "dbserver>arbitrator": [REPORT, ACK],
  "dbserver>dbserver": [REPORT, ACK],
  "dbserver>dbclient": [REPORT, ACK],
  "dbserver>wsrep_notify_cmd": [ACK],
  "dbclient>dbserver": [REQUEST_STATUS, ACK],
  "arbitrator>dbserver": [
    REQUEST_STATUS,
    {
      verb: "make_primary",
      parameters: {
        ...ORDER,
        segment: "dc2",
        expectedFingerprint: PRINT,
        notedView: PRINT,
        forkPoint: { uuid: UUID, seqno: 4711 },
        basis: "arithmetic",
      },
    },
    {
      verb: "evict",
      parameters: {
        ...ORDER,
        uuids: [MEMBER],
        expectedFingerprint: PRINT,
        grant: { segment: "dc1", forkPoint: null, basis: "arithmetic", forms: true },
      },
    },
    { verb: "bootstrap", parameters: { ...ORDER, position: { uuid: UUID, seqno: 4711 } } },
    { verb: "start", parameters: { ...ORDER, position: null } },
    { verb: "reseed", parameters: { ...ORDER, position: null } },
    ACK,
  ],
  "arbitrator>command": [
    {
      verb: "status_summary",
      parameters: {
        cluster: "shop",
        health: "degraded",
        because: "db4 is silent",
        primarySegment: "dc1",
        servingSegment: "dc1",
        epoch: 2,
        epochHolder: null,
        notedView: PRINT,
        paused: false,
        configVersion: 7,
        servers: [
          {
            id: "dbserver.1",
            name: "db1",
            segment: "dc1",
            heardAgoMs: 120,
            retired: false,
            draining: false,
            report: REPORT.parameters,
          },
        ],
        segments: [
          {
            name: "dc1",
            weight: 2,
            verdict: { rule: "serves", because: "joint", wouldChange: "a cut" },
          },
        ],
        decisions: [
          { agoMs: 5000, verdict: { rule: "closed", because: "Synced", wouldChange: "" } },
        ],
        orders: [
          {
            verb: "switchover",
            about: "dc2",
            ...SIGNED,
            deadlineMs: 30_000,
            floor: 0,
            from: "dc1",
          },
        ],
        warnings: ["db4 is silent"],
      },
    },
    {
      verb: "history",
      parameters: {
        events: [
          {
            seq: 7,
            time: "2026-11-23T02:00:00.000Z",
            event: "promoted",
            epoch: 3,
            fields: '{"segment":"dc2"}',
          },
        ],
        illness: "it cannot be written: disk full",
      },
    },
    {
      verb: "snapshot",
      parameters: {
        configVersion: 7,
        durable: "{}",
        observing: "the store is missing",
        diskError: "disk full",
        armedLeftMs: 0,
        windowLeftMs: 1000,
        orderPauseLeftMs: 0,
        longestPromiseMs: 3000,
        notedAgoMs: 5000,
        servers: [
          {
            id: "dbserver.1",
            heardAgoMs: 120,
            weightChangedAgoMs: 0,
            promisedAgoMs: 130,
            report: REPORT.parameters,
          },
        ],
      },
    },
    {
      verb: "plan",
      parameters: {
        order: "make_primary",
        outcome: "refused",
        because: "not.paused: paused by eve",
        checks: [{ id: "not.paused", passed: false, because: "paused by eve" }],
        steps: ["epoch 3 is written down"],
        loss: {
          transactions: 14,
          exact: true,
          because: "14 transactions of db1 will be missing",
          confirmation: "lose 14 transactions",
        },
      },
    },
    ACK,
  ],
  "command>arbitrator": [
    { verb: "status_summary", parameters: {} },
    {
      verb: "drain",
      parameters: { ...SIGNED, node: "db1", floor: 1, deadlineMs: 60_000, dryRun: true },
    },
    { verb: "undrain", parameters: { ...SIGNED, node: "dbserver.1" } },
    { verb: "retire", parameters: { ...SIGNED, node: "db1" } },
    { verb: "restore", parameters: { ...SIGNED, node: "db1" } },
    { verb: "start", parameters: { ...SIGNED, node: "db1" } },
    { verb: "discard", parameters: { ...SIGNED, node: "db1" } },
    { verb: "reseed", parameters: { ...SIGNED, node: "db1" } },
    { verb: "pause", parameters: { ...SIGNED } },
    { verb: "resume", parameters: { ...SIGNED, rearm: false } },
    {
      verb: "make_primary",
      parameters: {
        ...SIGNED,
        segment: "dc2",
        force: true,
        allowDataLoss: true,
        acceptedLoss: 14,
        takeOver: true,
      },
    },
    { verb: "switchover", parameters: { ...SIGNED, segment: "dc2", deadlineMs: 30_000 } },
    { verb: "history", parameters: { sinceMs: 7_200_000, limit: 200 } },
    { verb: "snapshot", parameters: {} },
  ],
  "wsrep_notify_cmd>dbserver": [
    {
      verb: "wsrep_notify_cmd",
      parameters: {
        status: "synced",
        uuid: UUID,
        primary: true,
        index: 0,
        members: [{ uuid: MEMBER, name: "db1; $(reboot)\n", address: "10.0.1.1:3306" }],
      },
    },
  ],
};

/** All samples as whole messages. */
export const MESSAGES: readonly Message[] = Object.entries(SAMPLES).flatMap(([route, bodies]) => {
  const [sender, receiver] = route.split(">");
  return bodies.map(
    (body): Message => ({
      v: 1,
      sender: `${sender}.1` as PartyId,
      receiver: `${receiver}.2` as PartyId,
      session: "s3ss10n_-A",
      seq: 42,
      toSession: "0ther",
      configVersion: 7,
      ...(body as Body),
    }),
  );
});

/** A message with a plain envelope around that body. */
export function messageOf(sender: PartyId, receiver: PartyId, body: Body): Message {
  const envelope = {
    v: 1,
    sender,
    receiver,
    session: "s",
    seq: 1,
    toSession: "",
    configVersion: 1,
  };
  return { ...envelope, ...body } as Message;
}

/** A report as it is posted by one that knows the arbitrator's session, and the answer to it. */
export const REPORTED = {
  ...messageOf("dbserver.1", "arbitrator.1", REPORT),
  session: "db",
  toSession: "arb",
  configVersion: 7,
} as Message;
export const ACKED = {
  ...REPORTED,
  ...ACK,
  sender: "arbitrator.1",
  receiver: "dbserver.1",
} as Message;
