/**
 * The config in the simulated database: what was pushed, and what each process holds and goes by. It is
 * read whole or not at all; when a process reads it, the world decides.
 */
import type { ClusterConfig } from "../../lib/cluster_config.ts";
import { activate, offer, rulesText, type Shelf } from "../../lib/config_store.ts";
import { sha256 } from "../../lib/effects/config_file.ts";
import type { ConfigMark } from "../../lib/message/dbserver.ts";
import type { PartyId } from "../../lib/message/envelope.ts";

export interface SimDocument {
  readonly config: ClusterConfig;
  readonly mark: ConfigMark;
}

export class Documents {
  newest: SimDocument;
  readonly #first: SimDocument;
  readonly #known = new Map<string, SimDocument>();
  /** On each host's disk: it outlives the process. */
  readonly #shelves = new Map<PartyId, Shelf<SimDocument>>();

  constructor(first: ClusterConfig) {
    this.#first = this.push(first);
    this.newest = this.#first;
  }

  /** Adds a config as the newest version. */
  push(config: ClusterConfig): SimDocument {
    const version = this.#known.size + 1;
    const checksum = sha256(String(version));
    const rules = sha256(rulesText(config));
    const document = { config: { ...config, version }, mark: { version, checksum, rules } };
    this.#known.set(checksum, document);
    this.newest = document;
    return document;
  }

  shelf(id: PartyId): Shelf<SimDocument> {
    return this.#shelves.get(id) ?? { active: this.#first, held: null };
  }

  find({ checksum }: ConfigMark): SimDocument {
    const document = this.#known.get(checksum);
    if (document === undefined) throw new Error(`Nobody has pushed ${checksum}`);
    return document;
  }

  /** A process has read the database. */
  read(id: PartyId): void {
    const options = { authoritative: true };
    this.#shelves.set(id, offer(this.shelf(id), this.newest, options).shelf);
  }

  /** A process goes by the document that the arbitrator has named. */
  adopt(id: PartyId, mark: ConfigMark): void {
    const shelf = this.shelf(id);
    const known = activate(shelf, mark.checksum);
    const newest = shelf.held ?? shelf.active;
    const options = { authoritative: false };
    const active = this.find(mark);
    this.#shelves.set(id, known ?? offer({ active, held: null }, newest, options).shelf);
  }
}
