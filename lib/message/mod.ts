/**
 * The codec: bytes to messages and back. Which verbs go from whom to whom is one table, ROUTES;
 * the type of every message is inferred from it. The protocol in words is in README.md beside this.
 */
import * as v from "valibot";
import {
  EvictSchema,
  MakePrimarySchema,
  RequestStatusSchema,
  StartOrderSchema,
  SummarySchema,
} from "./arbitrator.ts";
import {
  MakePrimaryOrderSchema,
  NodeOrderSchema,
  PauseSchema,
  ResumeSchema,
  StatusSummarySchema,
} from "./command.ts";
import { AckSchema, ReportSchema } from "./dbserver.ts";
import type { Envelope, PartyType } from "./envelope.ts";
import { NotifySchema } from "./wsrep_notify_cmd.ts";

/** Schema of one verb with its parameters. */
function body<const Verb extends string, const Parameters extends v.GenericSchema>(
  verb: Verb,
  parameters: Parameters,
) {
  return v.strictObject({ verb: v.literal(verb), parameters });
}

const AckBody = body("ack", AckSchema);
const ReportBody = body("db_status_report", ReportSchema);
const RequestStatusBody = body("request_status", RequestStatusSchema);

/** Bodies by "sender type > receiver type"; a pair that is missing here never talks. */
export const ROUTES = {
  "dbserver>arbitrator": v.variant("verb", [ReportBody, AckBody]),
  "dbserver>dbserver": v.variant("verb", [ReportBody, AckBody]),
  "dbserver>dbclient": v.variant("verb", [ReportBody, AckBody]),
  "dbserver>wsrep_notify_cmd": v.variant("verb", [AckBody]),
  "dbclient>dbserver": v.variant("verb", [RequestStatusBody, AckBody]),
  "arbitrator>dbserver": v.variant("verb", [
    RequestStatusBody,
    body("make_primary", MakePrimarySchema),
    body("evict", EvictSchema),
    body("bootstrap", StartOrderSchema),
    body("start", StartOrderSchema),
    body("reseed", StartOrderSchema),
    AckBody,
  ]),
  "arbitrator>command": v.variant("verb", [body("status_summary", SummarySchema), AckBody]),
  "command>arbitrator": v.variant("verb", [
    body("status_summary", StatusSummarySchema),
    body("drain", NodeOrderSchema),
    body("undrain", NodeOrderSchema),
    body("retire", NodeOrderSchema),
    body("restore", NodeOrderSchema),
    body("pause", PauseSchema),
    body("resume", ResumeSchema),
    body("make_primary", MakePrimaryOrderSchema),
  ]),
  "wsrep_notify_cmd>dbserver": v.variant("verb", [body("wsrep_notify_cmd", NotifySchema)]),
} as const;

export type Route = keyof typeof ROUTES;

/** Other spellings of a verb that are understood; the first one of a pair is never sent. */
export const ALIASES: Readonly<Record<string, string>> = {
  db_status: "db_status_report",
  status_request: "request_status",
  set_primary: "make_primary",
};

/** Verb and parameters on one route. */
export type BodyOf<R extends Route> = v.InferOutput<(typeof ROUTES)[R]>;

/** All bodies that a role may receive. */
export type BodyTo<Role extends PartyType> = {
  [R in Route]: R extends `${string}>${Role}` ? BodyOf<R> : never;
}[Route];

/** All bodies that a role may send. */
export type BodyFrom<Role extends PartyType> = {
  [R in Route]: R extends `${Role}>${string}` ? BodyOf<R> : never;
}[Route];

export type Body = BodyOf<Route>;

/** A whole message. */
export type Message = Envelope & Body;
