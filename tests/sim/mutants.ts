/**
 * Deliberate breakages of the rules, one at a time: each is a small change of the source, and the
 * simulator has to notice it. A breakage that nobody notices means that the simulator is blind, or
 * that the rule is not needed.
 *
 * A change names the exact words that it replaces; where the source no longer says so exactly once
 * (or `everywhere`), that is an error: a list that has fallen behind proves nothing.
 */
export interface Edit {
  /** From the project's root. */
  readonly file: string;
  readonly from: string;
  readonly to: string;
  /** All occurrences, of which there must be one at least. @default false */
  readonly everywhere?: boolean;
}

export interface Mutant {
  readonly id: string;
  /** What the broken rule does wrong. */
  readonly breaks: string;
  readonly edits: readonly Edit[];
  /** Part of the name of the scenario that was told about it, which is played first. */
  readonly scenario?: string;
}

const RULES = "lib/core/arbitrator_rules.ts";
const ARBITRATOR = "lib/core/arbitrator.ts";
const ARBITRATOR_STATE = "lib/core/arbitrator_state.ts";
const OUTAGE = "lib/core/arbitrator_outage.ts";
const PERSONS = "lib/core/arbitrator_orders.ts";
const SERVER = "lib/core/dbserver.ts";
const STATE = "lib/core/dbserver_state.ts";
const ORDERS = "lib/core/dbserver_orders.ts";
const EVICT = "lib/core/arbitrator_evict.ts";
const SERVER_EVICT = "lib/core/dbserver_evict.ts";
const MAIL = "lib/correspondent.ts";

export const MUTANTS: readonly Mutant[] = [
  {
    id: "outwait.none",
    breaks: "Promises are taken for expired at once",
    scenario: "nobody is promoted before their promises are outwaited (seed 1)",
    edits: [
      {
        file: RULES,
        from: "if (left > 0) return `",
        to: "if (left > 1e12) return `",
      },
    ],
  },
  {
    id: "outside.ignored",
    breaks: "Servers outside the component are not looked at",
    scenario: "without a guard the outwait is no evidence",
    edits: [{ file: RULES, from: "facts.notExcluded.length > 0 ?", to: "false ?" }],
  },
  {
    id: "silence.is.down",
    breaks: "A server that has not been heard for a while counts as down",
    scenario: "without a guard the outwait is no evidence",
    edits: [
      {
        file: RULES,
        from: "  const { report } = heard;\n  const ago",
        to: "  if (now - heard.at > youngMs(state)) return null;\n  const { report } = heard;\n  const ago",
      },
    ],
  },
  {
    id: "heavy.outwaited",
    breaks: "An outwait is evidence against a heavy segment that no guard watches",
    scenario: "without a guard the outwait is no evidence",
    edits: [
      {
        file: RULES,
        from: "if (stays !== null && !guarded)",
        to: "if (stays === '' && !guarded)",
      },
    ],
  },
  {
    id: "quorum.of.open",
    breaks: "An outwait is evidence against servers of both segments who are a quorum together",
    scenario: "one of those has a dead watchdog",
    edits: [
      {
        file: RULES,
        from: '"its segment is heavy" : together;',
        to: '"its segment is heavy" : null;',
      },
    ],
  },
  {
    id: "arithmetic.weights",
    breaks: "The arithmetic ignores the weights outside",
    scenario: "without a guard the outwait is no evidence",
    edits: [
      { file: RULES, from: "return weightOutside <= weightInside", to: "return weightInside >= 0" },
    ],
  },
  {
    id: "arithmetic.straight",
    breaks:
      "The arithmetic is applied to components that did not come straight from the noted view",
    scenario: "promoted neither by arithmetic over the older view",
    edits: [
      {
        file: RULES,
        from: "if (report.lastPrimary?.fingerprint !== noted.fingerprint) {\n      return `",
        to: "if (false as boolean) {\n      return `",
      },
      { file: ORDERS, from: 'order.basis === "arithmetic" &&\n', to: "false &&\n" },
    ],
  },
  {
    id: "majority.dropped",
    breaks: "Any part of a segment may be promoted",
    scenario: "dc2 is not promoted with it, and nothing is lost (seed 1)",
    edits: [
      { file: RULES, from: "facts.inCandidate * 2 > facts.counted", to: "facts.inCandidate > 0" },
    ],
  },
  {
    id: "synced.dropped",
    breaks:
      "A server that was still receiving, or has restarted, counts as one that has all commits",
    scenario: "dc2 is not promoted with it, and nothing is lost (seed 1)",
    edits: [{ file: RULES, from: "facts.unsynced.length === 0 ||", to: "true ||" }],
  },
  {
    id: "lineage.dropped",
    breaks: "A component without any server of the newest Primary view may be promoted",
    scenario: "dc1 is not promoted without dc2's word",
    edits: [
      {
        file: RULES,
        from: "if (!facts.knowsNotedView) return",
        to: "if (facts.counted < 0) return",
      },
    ],
  },
  {
    id: "epoch.free.dropped",
    breaks: "A segment may be promoted while another one holds an open epoch",
    scenario: "it counts as obeyed, dc2 is barred",
    edits: [
      {
        file: RULES,
        from: "(facts.person?.allowDataLoss === true ? null : facts.openElsewhere)",
        to: "(facts.openElsewhere === null ? null : null)",
      },
    ],
  },
  {
    id: "rank.dropped",
    breaks: "Of two candidates the one that asks first is promoted, not the one with more commits",
    scenario: "H1:",
    edits: [
      { file: RULES, from: "against: (facts) => facts.better,", to: "against: (_facts) => null," },
    ],
  },
  {
    id: "restart.unwaited",
    breaks: "An arbitrator that has restarted grants at once",
    scenario: "it waits as long from its start (seed 1)",
    edits: [{ file: RULES, from: "facts.restartWaitMs > 0", to: "(false as boolean)" }],
  },
  {
    id: "store.trusted.anyway",
    breaks: "A store that was lost, damaged or put back to an older copy is believed",
    scenario: "put back to an older copy",
    edits: [
      {
        file: RULES,
        from: "against: (facts) => facts.observing,",
        to: "against: (_facts) => null,",
      },
      {
        file: ARBITRATOR,
        from: "if (state.observing !== null) return `no promise: ",
        to: "if (state.observing === '') return `no promise: ",
      },
    ],
  },
  {
    id: "joint.any",
    breaks: "A view with one server of every segment counts as joint",
    scenario: "H1:",
    edits: [
      {
        file: "lib/wsrep_status.ts",
        from: "return 2 * present >= servers.length",
        to: "return present > 0",
      },
    ],
  },
  {
    id: "written.unawaited",
    breaks: "Orders and answers leave before what they rest on is on disk",
    scenario: "while a1 still stands in the old joint view",
    edits: [
      {
        file: "lib/core/arbitrator_turn.ts",
        from: "if (revision === state.writtenRevision) turn",
        to: "if (revision >= 0) turn",
      },
    ],
  },
  {
    id: "epoch.repeated",
    breaks: "A grant does not raise the epoch",
    scenario: "H1:",
    edits: [
      {
        file: ARBITRATOR,
        from: "const epoch = state.durable.epoch + 1;",
        to: "const epoch = Math.max(1, state.durable.epoch);",
        everywhere: true,
      },
    ],
  },
  {
    id: "promise.hanging",
    // Each of the two conditions holds most of what the other one does.
    breaks: "The arbitrator renews leases of a view whose commits hang",
    scenario: "loses Galera's link alone, and decisions are paused",
    edits: [
      {
        file: ARBITRATOR,
        from: 'young?.fingerprint === report.fingerprint && young.probe !== "hanging"',
        to: "young?.fingerprint === report.fingerprint",
      },
      {
        file: ARBITRATOR,
        from: 'if (report.probe === "hanging") return "no promise: commits hang";\n',
        to: "",
      },
    ],
  },
  {
    id: "promise.elsewhere",
    breaks: "The other segment's servers are told that the open epoch is theirs",
    scenario: "both of dc1 stood beyond the fork point",
    edits: [
      {
        file: ARBITRATOR,
        from: "if (grant !== null && grant.segment === segment) {",
        to: "if (grant !== null && segment !== undefined) {",
      },
    ],
  },
  {
    id: "close.early",
    breaks: "An epoch closes with the first report of a joint view",
    scenario: "H8:",
    edits: [{ file: ARBITRATOR, from: "if (!isJointHere(state, agreed)) return;", to: "" }],
  },
  {
    id: "close.unsynced",
    breaks: "An epoch closes while the others are still receiving",
    scenario: "H8:",
    edits: [{ file: ARBITRATOR, from: 'young.localState === "Synced" &&', to: "" }],
  },
  {
    id: "note.older",
    breaks: "An older view that is told late replaces the noted one",
    scenario: "replaces the noted one in nothing",
    edits: [
      {
        file: ARBITRATOR,
        from: "if (durable.noted !== null && sameState && report.lastCommitted <= durable.noted.seqno) return;",
        to: "",
      },
    ],
  },
  {
    id: "note.never",
    breaks: "Newer Primary views are not written down",
    scenario: "H1:",
    edits: [
      {
        file: ARBITRATOR,
        from: "  // While a segment holds an epoch, a lesser view of another one is not the cluster's.",
        to: "  if (durable.noted !== null) return;",
      },
    ],
  },
  {
    id: "failed.is.void",
    breaks: "An order that may have been obeyed is taken for void",
    scenario: "the grant stands, since nobody can know that",
    edits: [
      {
        file: ARBITRATOR,
        from: 'case "failed":\n',
        to: 'case "failed":\n      note(turn, { grant: null });\n',
      },
    ],
  },
  {
    id: "refused.is.obeyed",
    breaks: "An order that was refused is taken for obeyed",
    scenario: "H14:",
    edits: [
      {
        file: ARBITRATOR,
        from: 'case "refused":\n',
        to: 'case "refused":\n      complete(turn, grant);\n      return;\n',
      },
    ],
  },
  {
    id: "arbitrator.sleeps",
    breaks: "An arbitrator that was suspended believes what it heard before",
    scenario: "what it heard is not believed",
    edits: [
      {
        file: ARBITRATOR,
        from: "set(turn, { heard: new Map(), armedAt: now + state.config.outwaitMs });",
        to: "",
      },
    ],
  },
  {
    id: "lease.from.arrival",
    breaks: "A promise counts from when it arrives, however late that is",
    scenario: "promises count from when the reports that earned them were sent",
    edits: [
      {
        file: SERVER,
        from: "const until = sentAt + promise.ms;",
        to: "const until = turn.now + promise.ms;",
      },
    ],
  },
  {
    id: "lease.longer",
    breaks: "A holder takes a lease for twice as long as it was granted",
    scenario: "closed one lease after the cut",
    edits: [
      {
        file: SERVER,
        from: "const until = sentAt + promise.ms;",
        to: "const until = sentAt + 2 * promise.ms;",
      },
    ],
  },
  {
    id: "outwait.short",
    breaks: "A promise counts as expired before its holder has closed its door by it",
    scenario: "nobody is promoted before their promises are outwaited (seed 1)",
    edits: [
      {
        file: RULES,
        from: "return promised + state.longestPromiseMs + fenceMs + marginMs - now;",
        to: "return promised + 0 * (fenceMs + marginMs) - now;",
      },
    ],
  },
  {
    id: "evict.by.time",
    breaks: "A part that Galera could keep Primary is evicted once its promises are outwaited",
    scenario: "not against its quorum, so nobody evicts it",
    edits: [
      {
        file: RULES,
        from: 'if (candidate.kind === "evict") {\n',
        to: 'if (candidate.kind === "evict" && now < 0) {\n',
      },
    ],
  },
  {
    id: "evict.ungranted",
    breaks: "A part without quorum evicts the rest without a grant",
    scenario: "after a cut link one side goes on within 3 s",
    edits: [
      {
        file: EVICT,
        from: "suffices: quorum && isJoint(state.config, names)",
        to: "suffices: quorum || names.size > 0",
      },
      {
        file: ORDERS,
        from: "return joint && quorum ? null :",
        to: "return joint || !quorum || quorum ? null :",
      },
    ],
  },
  {
    id: "evict.flowing",
    breaks: "Whoever is not heard is evicted though commits flow",
    scenario: "nobody hears dc1, but commits flow, so nobody evicts it",
    edits: [
      {
        file: EVICT,
        from: 'if (report.probe !== "hanging") return',
        to: 'if (report.probe === "off") return',
      },
      {
        file: ORDERS,
        from: 'state.probe === "hanging" ? null :',
        to: 'state.probe !== "off" ? null :',
      },
    ],
  },
  {
    id: "evict.kept",
    breaks: "The list of those who are evicted is never emptied",
    scenario: "a crashed server is out of the view within half a second",
    edits: [
      {
        file: SERVER_EVICT,
        from: "if (evictList.length > 0) tell(",
        to: "if (evictList.length > 9) tell(",
      },
    ],
  },
  {
    id: "lease.endless",
    breaks: "A lease and a vouch never end",
    scenario: "with guards and living watchdogs",
    edits: [
      {
        file: STATE,
        from: "if (lease !== null && now < lease.until) {",
        to: "if (lease !== null) {",
      },
      { file: STATE, from: "if (now < vouched) {", to: "if (vouched > 0) {" },
    ],
  },
  {
    id: "vouch.one",
    breaks: "One vouch suffices where half of the other segment has to vouch",
    scenario: "while a1 still stands in the old joint view",
    edits: [{ file: STATE, from: "ends[needed - 1]", to: "ends[0]" }],
  },
  {
    id: "vouch.solo",
    breaks: "Vouches are given, and count, in a view that is not joint",
    scenario: "vouches count in joint views only",
    edits: [
      {
        file: STATE,
        from: "if (!isJoint(config, names)) return soloRight(state,",
        to: "if (!isJoint(config, names) && now >= vouchedUntil(state, names)) return soloRight(state,",
      },
      {
        file: STATE,
        from: " || !isJoint(config, memberNames(status))) return 0;",
        to: ") return 0;",
      },
    ],
  },
  {
    id: "vouch.hanging",
    breaks: "A server vouches while its own commits hang",
    scenario: "H3: heavy dc1 loses Galera's link and the arbitrator",
    edits: [
      {
        file: STATE,
        from: 'probe === "flowing"\n      ? state.flowedAt',
        to: 'probe !== "held"\n      ? now',
      },
    ],
  },
  {
    id: "vouch.ageless",
    breaks: "A vouch counts from when it is asked for, however long ago commits were seen to flow",
    scenario: "vouched for by two who are cut off with it",
    edits: [{ file: STATE, from: "? state.flowedAt", to: "? now" }],
  },
  {
    id: "vouch.held",
    breaks: "Held commits count as flowing, whoever is heard",
    scenario: "the same while flow control holds commits",
    edits: [{ file: STATE, from: "? heardJointAt(state, now)", to: "? now" }],
  },
  {
    id: "vouch.forgotten",
    breaks: "A server that has vouched lets itself be promoted at once",
    scenario: "H14:",
    edits: [
      { file: ORDERS, from: "|| now >= state.vouchedUntil", to: "|| state.vouchedUntil > 0" },
    ],
  },
  {
    id: "solo.ungranted",
    breaks: "A server alone with its segment serves without a grant",
    scenario: "with guards and living watchdogs",
    edits: [
      { file: STATE, from: "if (!holdsNewestGrant(state)) {", to: "if (false as boolean) {" },
    ],
  },
  {
    id: "grant.old",
    breaks: "A grant counts though a newer epoch has been heard of",
    scenario: "dc1 hears of the newer epoch: it closes",
    edits: [
      {
        file: STATE,
        from: "state.grantEpoch !== null && state.grantEpoch >= state.durable.epochSeen",
        to: "state.grantEpoch !== null",
      },
    ],
  },
  {
    id: "ist.live",
    breaks: "A live server beyond a fork point comes back by incremental transfer",
    scenario: "H7:",
    edits: [
      {
        file: STATE,
        from: 'if (state.diverged) return "diverged";',
        to: 'if (!state.diverged) return "yes";',
      },
    ],
  },
  {
    id: "ist.restarted",
    breaks: "A stopped server beyond a fork point comes back by incremental transfer",
    scenario: "H7:",
    edits: [
      {
        file: OUTAGE,
        from: 'return report.diverged || beyondFork(state, report) ? "reseed" : "join";',
        to: 'return beyondFork(state, report) ? "join" : "join";',
      },
      {
        file: STATE,
        from: 'if (state.diverged) return "diverged";',
        to: 'if (state.durable.leftPrimary === null || !state.diverged) return "yes";',
      },
    ],
  },
  {
    id: "left.unkept",
    breaks: "Where a server stood when it left Primary is not kept",
    scenario: "H7:",
    edits: [{ file: SERVER, from: "keep(turn, { leftPrimary: position });", to: "void position;" }],
  },
  {
    id: "fence.never",
    breaks: "A server whose right has ended stays open",
    scenario: "H3: heavy dc1 loses Galera's link and the arbitrator",
    edits: [
      {
        file: SERVER,
        from: "function closeDoor(turn: Turn, because: string): void {\n",
        to: "function closeDoor(turn: Turn, because: string): void {\n  if (because !== '') return;\n",
      },
    ],
  },
  {
    id: "unfence.at.start",
    breaks: "The door opens as soon as mariadbd answers",
    scenario: "its watchdog is away when it comes back",
    edits: [
      {
        file: SERVER,
        from: "  const before = state.status;\n  const view = viewOf(status);",
        to: '  const before = state.status;\n  if (before === null) turn.effects.push({ do: "unfence", because: "start" });\n  const view = viewOf(status);',
      },
    ],
  },
  {
    id: "open.without.right",
    breaks: "A server that is Primary opens without a lease, a vouch or a grant",
    scenario: "H3:",
    edits: [
      {
        file: SERVER,
        from: "const mayOpen = right.ok && ",
        to: "const mayOpen = turn.state.status?.primary === true && ",
      },
    ],
  },
  {
    id: "open.unwritten",
    breaks: "The door opens before what it is opened under is on disk",
    scenario: "come back from a cut and their disks are slow",
    edits: [
      {
        file: SERVER,
        from: "  // What it serves under is on disk before the first client is let in.\n  if (turn.state.written !== turn.state.durable) return;\n",
        to: "",
      },
    ],
  },
  {
    id: "fence.unenforced",
    breaks: "A fence that does not hold is not followed by SIGKILL",
    scenario: "H21:",
    edits: [{ file: SERVER, from: "if (now >= wantedAt + fenceMs) {", to: "if (wantedAt < 0) {" }],
  },
  {
    id: "alone.lives",
    breaks: "A fenced server that is Primary alone without a grant is not killed",
    scenario: "H6:",
    edits: [
      {
        file: SERVER,
        from: "if (now >= turn.state.killAt) endAlone(",
        to: "if (turn.state.killAt < 0) endAlone(",
      },
    ],
  },
  {
    id: "sleeper.believes",
    breaks: "A watchdog that was suspended relies on promises from before",
    scenario: "awake it does not go by its promises of before",
    edits: [{ file: SERVER, from: "        promises: new Map(),\n        sent: [],\n", to: "" }],
  },
  {
    id: "peers.any.epoch",
    breaks:
      "A stopped server joins peers that serve under another epoch, without the arbitrator's verdict",
    scenario: "hears only peers of the newer epoch",
    edits: [
      {
        file: SERVER,
        from: "report.epochServed === durable.epochServed &&\n      knowsNoneNewer(state, report),",
        to: "report.epochServed >= 0,",
      },
      // Whoever joined so stays closed: a peer's word proves only those of its own epoch in line, and
      // the arbitrator's tells the fork point. So this one is broken with it.
      {
        file: STATE,
        from: "if (epoch === state.durable.epochServed && knowsNoneNewer(state, peer)) return",
        to: "if (epoch >= 0) return",
      },
    ],
  },
  {
    id: "order.old.report",
    breaks: "An order that rests on an old report is obeyed",
    scenario: "going on it finds the order too old",
    edits: [
      {
        file: ORDERS,
        from: "return ageMs <= state.config.timing.orderMaxAgeMs",
        to: "return ageMs >= 0",
      },
      // Whoever reports again has forgotten when older reports left, which refuses the order as well.
      {
        file: SERVER,
        from: "const sent = state.sent.filter(({ at }) => now - at <= orderMaxAgeMs).slice(1 - SENT_MAX);",
        to: "const sent = state.sent.slice(1 - SENT_MAX + 0 * orderMaxAgeMs);",
      },
    ],
  },
  {
    id: "order.twice",
    breaks: "An order of an epoch that was obeyed or overtaken is obeyed again",
    // The mailroom hands on neither what it has had nor what was overtaken, by session and number, and an
    // arbitrator never goes back to a number: the check stands behind both. So the nearer one goes too.
    scenario: "changes nothing at once",
    edits: [
      {
        file: ORDERS,
        from: "order.epoch >= epochSeen && (order.epoch > epochObeyed || !grants)",
        to: "order.epoch >= 0",
      },
      { file: MAIL, from: "if (last !== undefined && seq < last.seq) {", to: "if (seq < 0) {" },
    ],
  },
  {
    id: "order.any.view",
    breaks: "An order for another view is obeyed, and pc.bootstrap given without looking",
    scenario: "it is not obeyed in another view",
    edits: [
      {
        file: ORDERS,
        from: '"expectedFingerprint" in order && view !== order.expectedFingerprint',
        to: '"expectedFingerprint" in order && view === null',
      },
      {
        file: "tests/sim/world.ts",
        from: "if (status.primary || view !== effect.expectedFingerprint) {",
        to: "if (status.primary) {",
      },
    ],
  },
  {
    id: "order.unwritten",
    breaks: "An order is obeyed before its epoch is on disk",
    scenario: "its order is not obeyed unwritten",
    edits: [
      {
        file: SERVER,
        from: "if (turn.state.written === turn.state.durable) orderWritten(turn);",
        to: "orderWritten(turn);",
      },
    ],
  },
  {
    id: "given.up.is.refused",
    breaks: "A server says that it has refused an order whose pc.bootstrap it has given",
    edits: [
      {
        file: ORDERS,
        from: 'order.given ? "failed" : "refused"',
        to: 'order.given ? "refused" : "refused"',
      },
      { file: ORDERS, from: "if (!order.given) takeBack(", to: "takeBack(" },
    ],
  },
  {
    id: "session.stale",
    breaks: "A message of somebody who does not know this session is accepted",
    scenario: "changes nothing after a restart",
    edits: [
      {
        file: MAIL,
        from: "if (message.toSession !== correspondent.ownSession) {",
        to: "if (message.toSession === null) {",
      },
    ],
  },
  {
    id: "seq.older",
    breaks: "A message that was overtaken by a newer one is accepted",
    scenario: "changes nothing at once",
    edits: [
      { file: MAIL, from: "if (last !== undefined && seq < last.seq) {", to: "if (seq < 0) {" },
    ],
  },
  {
    id: "outage.by.seqno",
    breaks: "After a full outage the highest seqno begins, whatever fork it is of",
    scenario: "H19: the same with a store",
    edits: [{ file: OUTAGE, from: "b.epoch - a.epoch ||", to: "" }],
  },
  {
    id: "outage.claim",
    breaks: "A grant's number counts as served under before a view has come of it",
    scenario: "H19: heavy a1 hangs",
    edits: [
      {
        file: ARBITRATOR_STATE,
        from: "Math.min(certain, withRows(state, report.epochServed, position))",
        to: "report.epochServed",
      },
    ],
  },
  {
    id: "join.older",
    breaks: "A stopped server joins any Primary, whatever lineage that is of",
    scenario: "it joins nobody of the older lineage",
    edits: [{ file: OUTAGE, from: "return other.epochServed >= epoch ||", to: "return true ||" }],
  },
  {
    id: "start.beside.two",
    breaks: "A stopped server starts while two Primaries stand, which collide where it joins",
    scenario: "nobody starts who would make them collide",
    edits: [{ file: OUTAGE, from: 'if (twoPrimaries(state, now)) return "wait";', to: "" }],
  },
  {
    id: "outage.silent.ignored",
    breaks: "After a full outage one begins before all have said where they stand",
    scenario: "everything loses power and one never returns",
    edits: [{ file: OUTAGE, from: "if (silent.length > 0) {", to: "if (silent.length > 99) {" }],
  },
  {
    id: "outage.joining.ignored",
    breaks: "One begins while who was about to join when it fell silent may be Primary by now",
    scenario: "b2 does not begin beside it",
    edits: [
      {
        file: OUTAGE,
        from: "return silent && wasJoining(state, server.id);",
        to: "return false;",
      },
    ],
  },
  {
    id: "outage.unnoted",
    breaks:
      "After a full outage only those of the noted view are waited for, not those of newer ones",
    scenario: "after a power loss nobody begins without them",
    edits: [{ file: OUTAGE, from: "viewers.add(name);", to: "void name;" }],
  },
  {
    id: "outage.unnoted.unwritten",
    breaks: "A watchdog forgets with whom its server was Primary",
    scenario: "after a power loss nobody begins without them",
    edits: [
      {
        file: SERVER,
        from: "if (lastMembers !== durable.lastMembers) keep(turn, { lastMembers });",
        to: "",
      },
    ],
  },
  {
    id: "outage.unnoted.retired",
    breaks: "To retire the members of a newer view is consent to lose their rows",
    scenario: "after a power loss nobody begins without them",
    edits: [{ file: OUTAGE, from: "if (later.length > 0)", to: "if (later.length > 99)" }],
  },
  {
    id: "majority.joining",
    breaks:
      "Who was told to join, or has fallen silent, counts as stopped if it was down when last heard",
    scenario: "dc2 is not promoted without it",
    edits: [
      { file: RULES, from: " && !wasJoining(state, server.id);", to: ";" },
      {
        file: RULES,
        from: '  if (report?.running !== "down" || noted === null) return false;',
        to: '  const last = report ?? state.heard.get(server.id)?.report;\n  if (last?.running !== "down" || noted === null) return false;',
      },
    ],
  },
  {
    id: "outage.primary.ignored",
    breaks: "A bootstrap is ordered though somebody may be Primary",
    scenario: "H18:",
    edits: [
      {
        file: OUTAGE,
        from: '    else return { is: "none" };\n',
        to: "",
      },
    ],
  },
  {
    id: "grant.anywhere",
    breaks: "A granted segment's server is promised the right in whatever view it stands",
    edits: [
      {
        file: ARBITRATOR,
        from: "    return isOfGrant(state, grant, options)\n",
        to: "    return grant.epoch > 0\n",
      },
    ],
  },
  {
    id: "start.beside.stall",
    breaks: "A stopped server joins the others while they stall in the view that it was in",
    scenario: "could be up again before Galera's view has changed",
    edits: [
      {
        file: OUTAGE,
        from: 'other?.primary !== "yes" || namesOf(other).has(name)',
        to: 'other?.primary !== "yes" || name === ""',
      },
    ],
  },
  {
    id: "proof.closed",
    breaks: "The epoch of a server that does not serve proves others in line",
    scenario: "neither proves the other in line",
    edits: [
      {
        file: "lib/core/dbserver_turn.ts",
        from: "turn.state.closed ? null : turn.state.durable.epochServed",
        to: "turn.state.durable.epochServed",
      },
    ],
  },
  {
    id: "guest.killed",
    breaks:
      "Servers beside one that serves, or beside the majority of another segment, are killed as a second Primary",
    scenario: "it is no second Primary, so it stays closed and lives",
    edits: [
      {
        file: SERVER,
        from: "if (guest || servesBeside(turn) || needed) return",
        to: "if (names.size < 0 && guest) return",
      },
    ],
  },
  {
    id: "probe.open.only",
    breaks: "Behind a closed door nobody learns whether commits flow",
    scenario: "nobody can ask the arbitrator: it joins its peers",
    edits: [
      {
        file: SERVER,
        from: "return state.status?.primary === true && state.status.ready;",
        to: "return state.status?.primary === true && state.status.ready && !state.closed;",
      },
    ],
  },
  {
    id: "unanswered.open",
    breaks: "Nobody closes the door of a server that loses Primary while its watchdog is away",
    scenario: "its watchdog is away",
    edits: [
      {
        file: "lib/notify.ts",
        from: 'return notify.primary !== true && notify.status !== "synced" ?',
        to: 'return notify.primary !== true && notify.status === "" ?',
      },
      {
        file: "lib/notify.ts",
        from: "if (ARRIVALS.includes(notify.status)) return",
        to: "if (notify.status === '') return",
      },
    ],
  },
  {
    id: "guard.none",
    breaks: "A guard is never told of a deadline",
    scenario: "with guards: they end what nobody closes",
    edits: [
      {
        file: SERVER,
        from: "if (!state.guards) return;",
        to: "if (state.guards) return;",
      },
    ],
  },
  {
    id: "retired.silent",
    breaks: "A retired server that has served on and is silent after a full outage has no commits",
    scenario: "one that served on although it was retired is silent",
    edits: [
      {
        file: OUTAGE,
        from: 'return lately || seenAt(state, server) >= sinceOf(state, "retire", server.id);',
        to: "return false;",
      },
    ],
  },
  {
    id: "outage.behind",
    // Mostly either sign tells: of a view that is being received the epoch is still open.
    breaks: "Whoever is left begins after a retirement, whatever it lacks",
    scenario: "to retire a1 starts nobody without it",
    edits: [
      {
        file: OUTAGE,
        from: "forced === null ? whatItLacks(",
        to: "state.observing !== null ? whatItLacks(",
      },
    ],
  },
  {
    id: "outage.holder",
    breaks:
      "Whoever is left begins after a retirement, though the retired one holds the open epoch",
    scenario: "b1 holds an epoch whose view nobody has told the arbitrator",
    edits: [
      {
        file: OUTAGE,
        from: "grant === null || holders.length === 0 ||",
        to: "grant === null || holders.length < 64 ||",
      },
    ],
  },
  {
    id: "few.granted",
    breaks: "The few of a segment beside another one's majority are granted what they cannot use",
    scenario: "dc2's one server is granted nothing beside all of dc1",
    edits: [
      {
        file: RULES,
        from: "return majorityBeside(config, segment, names, retired);",
        to: "return null;",
      },
    ],
  },
  {
    id: "helpers.gone",
    breaks:
      "A server that has ended since weighs nothing for the open one that it was Primary with",
    scenario: "H2: the same, and those who kept the open one Primary have ended since",
    edits: [
      {
        file: RULES,
        from: "outside.filter((one) => mayHaveHelped(state, one, open))",
        to: "outside.filter(() => false)",
      },
    ],
  },
  {
    id: "ahead.ignored",
    breaks: "Who stands behind those that were Primary without it is promoted all the same",
    scenario: "H2: the same, and those who kept the open one Primary have ended since",
    edits: [
      {
        file: RULES,
        from: "return facts.ahead;",
        to: "return null;",
      },
    ],
  },
  {
    id: "claim.forgotten",
    breaks: "A watchdog that restarts takes a claimed epoch for one that it has served under",
    scenario: "its watchdog remembers that, and b1 begins",
    edits: [
      {
        file: SERVER,
        from: "    durable: start.durable,",
        to: "    durable: { ...start.durable, claim: null },",
      },
    ],
  },
  {
    id: "rearm.forgets",
    breaks: "A re-armed arbitrator takes epochs that it does not know for none",
    scenario: "re-armed before anybody of dc2 is heard",
    edits: [
      {
        file: PERSONS,
        from: "(allHeard ? epochServed : epochSeen)",
        to: "(allHeard ? 0 * epochServed : 0 * epochSeen)",
      },
      {
        file: ARBITRATOR,
        from: "|| !isForgotten(state, epochServed)) return;",
        to: "|| isForgotten(state, epochServed)) return;",
      },
    ],
  },
  {
    id: "epoch.unshared",
    breaks: "Who was in a view with a server of an epoch takes its own rows for older ones",
    scenario: "they vouch for each other under that epoch, and b1 joins them",
    edits: [
      {
        file: SERVER,
        from: "let newest = anew ? 0 :",
        to: "return 0 * hosts.length; let newest = anew ? 0 :",
      },
    ],
  },
  {
    id: "fork.guessed",
    breaks: "The segment guessed for an epoch that a lost store had granted is taken for known",
    scenario: "a1, Primary alone and never proven, makes way for b1",
    edits: [
      {
        file: SERVER,
        from: "(record.segment !== self.segment || isUnknownFork(record))",
        to: "record.segment !== self.segment",
      },
    ],
  },
  {
    id: "met.unseen",
    breaks:
      "Who meets others while it is Primary, closed and alone is taken for the one that stayed",
    scenario: "whoever of closed dc1 comes over to dc2 is proven",
    edits: [
      {
        file: SERVER,
        from: "if (before !== null && !wasAway && hasMet(",
        to: "if (false && before !== null && hasMet(",
      },
    ],
  },
  {
    id: "away.unseen",
    breaks: "Who receives a transfer, seen Primary before and after, is taken for never away",
    scenario: "whoever of dc1, which slept through the promotion",
    edits: [
      {
        file: SERVER,
        from: "receives(status) && !receives(before);",
        to: "receives(status) && status.localState === '';",
      },
    ],
  },
  {
    id: "view.superseded",
    breaks:
      "A closed joint view of an older lineage lives on, and keeps those with the newer rows down",
    scenario: "a1's view serves nothing and makes way",
    edits: [
      {
        file: SERVER,
        from: "if (!isSuperseded(turn)) return",
        to: "if (!isSuperseded(turn) || true) return",
      },
    ],
  },
  {
    id: "superseded.named",
    breaks: "A view that stalls is not superseded by a member that ended and began elsewhere",
    scenario: "a1's view serves nothing and makes way",
    edits: [
      {
        file: SERVER,
        from: "gcommUuid !== null && members.includes(gcommUuid)",
        to: "gcommUuid !== null",
      },
    ],
  },
  {
    id: "rival.lives",
    breaks: "Two Primaries of one segment both wait for a grant that it has already",
    scenario: "b2 makes way for b1",
    edits: [
      {
        file: SERVER,
        from: "if (before || (server.segment === self.segment && first))",
        to: "if (before && server.segment !== self.segment && first)",
      },
    ],
  },
  {
    id: "rival.joins",
    breaks: "One that was Primary beside another of its epoch comes back with its rows as they are",
    scenario: "b2 makes way for b1",
    edits: [
      {
        file: SERVER,
        from: "rival.report.epochServed === servesUnder(state)",
        to: "rival.report.epochServed !== servesUnder(state)",
      },
    ],
  },
  {
    id: "held.outwaited",
    breaks:
      "An outwait is evidence against a heavy segment though commits were held when the view changed",
    scenario: "no clock promotes dc2",
    edits: [
      {
        file: RULES,
        from: "if (stays !== null && held !== null)",
        to: "if (stays !== null && held !== null && now < 0)",
      },
    ],
  },
  {
    id: "idle.old",
    breaks: "A word of not being Primary counts though the candidate has been Primary since",
    scenario: "b2 and b3 are not promoted beside it (seed 2)",
    edits: [{ file: RULES, from: "?? 0) > heard.at", to: "?? 0) > heard.at + 1e12" }],
  },
  {
    id: "ahead.unknown",
    breaks: "Who does not say where it stands is behind",
    scenario: "before it is known where dc1 stands (seed 5)",
    edits: [{ file: RULES, from: "if (isBehind && reads !== true)", to: "if (isBehind)" }],
  },
  {
    id: "grant.stale",
    breaks: "A grant is a right to stay until somebody says that it is closed",
    scenario: "it does not stay on it when dc1 is isolated (seed 3)",
    edits: [{ file: SERVER, from: "  doubtGrant(turn);\n", to: "" }],
  },
  {
    id: "straight.unwatched",
    breaks: "The last Primary view is the last that was seen, however long nobody looked",
    scenario: "it does not say that it came straight from the view before (seed 1)",
    edits: [
      { file: SERVER, from: "if (unwatched) return", to: "if (unwatched && now < 0) return" },
    ],
  },
  {
    id: "inside.silent",
    breaks:
      "Whoever is in the component has come straight from the noted view, whether it says so or not",
    scenario: "its weight proves nothing against those (seed 3)",
    edits: [
      {
        file: RULES,
        from: "const inside = new Set(candidate.reporting.flatMap((each) => each.report.gcommUuid ?? []));\n  const weightInside",
        to: "const inside = new Set(fingerprintMembers(candidate.fingerprint));\n  const weightInside",
      },
    ],
  },
  {
    id: "lease.hanging",
    breaks:
      "A lease is renewed for one whose commits hang as long as others have said that theirs flow",
    scenario: "heavy dc1's doors are closed when its view changes",
    edits: [
      {
        file: ARBITRATOR,
        from: 'if (report.probe === "hanging") return "no promise: commits hang";\n',
        to: "",
      },
    ],
  },
  {
    id: "weight.unheard",
    breaks: "The arithmetic knows of no weight but those that were reported",
    scenario: "and is not promoted beside dc1",
    edits: [{ file: RULES, from: "most = weight - known;", to: "most = 0;" }],
  },
  {
    id: "starts.vain",
    breaks: "A start that found no Primary counts as one that failed",
    scenario: "dc2 has been booted meanwhile",
    edits: [{ file: SERVER, from: "(foundNobody(state, now) ? 0 : 1)", to: "1" }],
  },
  {
    id: "names.galera",
    breaks: "Members have no other names than those that Galera gives them",
    scenario: "dc2 goes on (seed 1)",
    edits: [{ file: ARBITRATOR, from: "withNames(state, from, told)", to: "told" }],
  },
  {
    id: "flapping.short",
    breaks: "Where half of the primary segment is left all wait for the end of the window, too",
    scenario: "to promote dc1 with b2 beside it is no flapping",
    edits: [{ file: RULES, from: "&& primaryIsShort(state, candidate, now)", to: "&& now < 0" }],
  },
  {
    id: "flapping.late",
    breaks: "Whoever of the primary segment has not come yet is taken for gone",
    scenario: "b1 is found later than b2",
    edits: [{ file: RULES, from: "return own.every(isThereOrGone)", to: "return own.length > 0" }],
  },
  {
    id: "vouch.older",
    // Alone it delays: whoever is closed in such a view ends before vouches have opened it, mostly.
    breaks: "Such a view opens by vouches, under the older epoch",
    scenario: "a1's view serves nothing and makes way",
    edits: [
      {
        file: STATE,
        from: "if (knowsNewer(state))",
        to: "if (state.apart && knowsNewer(state))",
      },
      {
        file: SERVER,
        from: "if (!isSuperseded(turn)) return",
        to: "if (!isSuperseded(turn) || true) return",
      },
    ],
  },
  {
    id: "order.unobeyed",
    breaks: "An order that nobody has obeyed leaves a fork point that everybody is beyond",
    scenario: "it has promoted nobody, so its fork point is nobody's",
    edits: [
      {
        file: ARBITRATOR,
        from: "return begins && report.epochServed < grant.epoch ?",
        to: "return !begins && report.epochServed < grant.epoch ?",
      },
    ],
  },
];
