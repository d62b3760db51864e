import { describe, expect, test } from "bun:test";
import { statusFromRows } from "../../lib/effects/mysql_status.ts";

/** What a member list of two servers with a third party looks like when read. */
const MEMBER = "987c3e9c-e6b5-11f1-b5d7-5a1256aad92a";
const OTHER = "987c3e9c-e6b5-11f1-b5d7-5a1256aad92b";

function rowsOf(values: Readonly<Record<string, string>>, overrides: object = {}) {
  return {
    source: "plugin" as const,
    members: [
      ["primary", "2", MEMBER, "a", "1:1"],
      ["primary", "2", OTHER, "garb", ""],
    ],
    status: Object.entries({
      wsrep_cluster_status: "Primary",
      wsrep_connected: "ON",
      wsrep_cluster_size: "2",
      wsrep_gcomm_uuid: MEMBER,
      ...values,
    }),
    variables: [["NONE", "0", "a.b = 1; pc.weight = 3; c = ", "10.11"]],
    ...overrides,
  };
}

describe("statusFromRows()", () => {
  test("takes the members of the present view, garbd among them", () => {
    const { status, torn } = statusFromRows(rowsOf({ wsrep_cluster_state_uuid: MEMBER }));
    expect(torn).toBe(false);
    expect(status).toMatchObject({
      primary: true,
      members: [
        { uuid: MEMBER, name: "a" },
        { uuid: OTHER, name: "garb" },
      ],
      weight: 3,
      stateUuid: MEMBER,
    });
  });

  test("calls a read torn when view and status disagree, and lists no members of another size", () => {
    expect(statusFromRows(rowsOf({ wsrep_cluster_status: "non-Primary" })).torn).toBe(true);
    const { status, torn } = statusFromRows(rowsOf({ wsrep_cluster_size: "1" }));
    expect({ torn, members: status.members }).toEqual({ torn: true, members: [] });
  });

  test("knows no view, weight or seqno where the provider is closed", () => {
    const { status, torn } = statusFromRows(
      rowsOf({
        wsrep_cluster_status: "Disconnected",
        wsrep_connected: "OFF",
        wsrep_cluster_state_uuid: "00000000-0000-0000-0000-000000000000",
        wsrep_last_committed: "18446744073709551615",
      }),
    );
    expect(torn).toBe(false);
    expect(status).toMatchObject({
      primary: false,
      connected: false,
      members: [],
      stateUuid: null,
      weight: null,
      lastCommitted: -1,
    });
  });

  test("takes a provider for closed that has no name in the group, though it says connected", () => {
    // As MariaDB 10.11.19 shows it for ever after "Receiving IST failed, node restart required".
    const { status } = statusFromRows(
      rowsOf({
        wsrep_cluster_status: "non-Primary",
        wsrep_local_state_comment: "Joining",
        wsrep_cluster_size: "3",
        wsrep_gcomm_uuid: "",
      }),
    );
    expect(status).toMatchObject({ connected: false, members: [], gcommUuid: null });
  });

  test("without the plugin cuts the last Primary view down to the present addresses", () => {
    const members = [
      [null, null, MEMBER, "a", "h1:3306"],
      [null, null, OTHER, "b", "h2:3306"],
    ];
    const table = { source: "table", members };
    const alone = { wsrep_cluster_size: "1", wsrep_incoming_addresses: "h1:3306" };
    expect(statusFromRows(rowsOf(alone, table)).status.members).toEqual([
      { uuid: MEMBER, name: "a" },
    ]);
    const unclear = { wsrep_cluster_size: "2", wsrep_incoming_addresses: "h1:3306,h9:3306" };
    expect(statusFromRows(rowsOf(unclear, table)).status.members).toEqual([]);
  });
});
