/**
 * Keeps the config of one process: out of the database as long as that answers, out of the local copy
 * when it is away, damaged or older. Owns the local copy, the polling, and the fetch on a hint.
 *
 * Invariant: a document is on this host's disk before anybody is told that it is held or gone by.
 */
import * as v from "valibot";
import { loadConfigFile, UsageError } from "../cli.ts";
import type { ClusterConfig } from "../cluster_config.ts";
import { activate, type NodeFile, offer } from "../config_store.ts";
import { type ConfigDocument, parseDocument } from "../effects/config_file.ts";
import {
  type ConfigCopy,
  type ConfigShelf,
  configCopy,
  dbOptions,
  newestDocument,
  readCopy,
} from "../effects/config_source.ts";
import type { StateFile } from "../effects/state_file.ts";
import { describeError, MinderError } from "../errors.ts";
import type { Log } from "../log.ts";
import type { ConfigMark } from "../message/dbserver.ts";
import { type PartyId, PartyIdSchema, partyType } from "../message/envelope.ts";

/** The database is asked this often: by the roles that have a say, and by the many that have none. */
const POLL_MS = 2_000;
const POLL_FOLLOWER_MS = 15_000;
/** A version that was heard of and is not found is looked for again after this. */
const AGAIN_MS = 500;
/** At a start, the database may take so long over all before the local copy is used. */
const START_MS = 4_000;
/** With a copy at hand: a watchdog must be back at its server soon, and asks again later anyway. */
const START_WITH_COPY_MS = 1_000;

export interface ConfigKeeper {
  readonly id: PartyId;
  readonly node: NodeFile;
  shelf(): ConfigShelf;
  /** The newest version that is on this host. */
  version(): number;
  /** A document by its identity: from the shelf, the local copy or the database; null if nowhere. */
  find(mark: ConfigMark): Promise<ConfigDocument | null>;
  /** Goes by that document. @throws MinderError if it cannot be had */
  adopt(mark: ConfigMark): Promise<void>;
  /** A message carried that version. */
  heard(version: number): void;
  /** Begins to ask the database; `onChange` is told of every change of the shelf, once at once. */
  watch(log: Log, onChange: (shelf: ConfigShelf) => void): void;
  /** For `GET /status`. */
  status(): Readonly<Record<string, unknown>>;
  stop(): void;
}

/** What a program starts from. */
export interface ConfigSource {
  readonly config: ClusterConfig;
  /** Null where a site file is the config. */
  readonly keeper: ConfigKeeper | null;
  /** The party that this host is, where its own file says so. */
  readonly named: string | undefined;
}

/**
 * Reads a site file, or by a node's own file the database and the local copy.
 * @throws UsageError with every problem of the file
 * @throws MinderError if there is a config neither in the database nor on this host
 */
export async function openConfig(path: string, named: string | undefined): Promise<ConfigSource> {
  const file = await loadConfigFile(path);
  if (file.is === "site") return { config: file.config, keeper: null, named };
  const { node } = file;
  const id = named ?? node.node.id;
  if (id === undefined || !v.is(PartyIdSchema, id)) {
    throw new UsageError("Cannot tell which party this is", {
      where: path,
      hint: 'Write id = "dbserver.1" or the like into [node], or say --node ID',
    });
  }
  const keeper = await Keeper.open(node, v.parse(PartyIdSchema, id));
  return { config: keeper.shelf().active.config, keeper, named: id };
}

class Keeper implements ConfigKeeper {
  readonly id: PartyId;
  readonly node: NodeFile;
  readonly #file: StateFile<ConfigCopy>;
  readonly #path: string;
  #shelf: ConfigShelf;
  #former: string | null;
  #log: Log | null = null;
  #onChange: (shelf: ConfigShelf) => void = () => undefined;
  #timer: ReturnType<typeof setTimeout> | null = null;
  #polling = false;
  #pollAgain = false;
  #stopped = false;
  #wanted = 0;
  /** The database's word at the last poll, for status. */
  #database: string;

  private constructor(options: {
    readonly node: NodeFile;
    readonly id: PartyId;
    readonly file: StateFile<ConfigCopy>;
    readonly path: string;
    readonly shelf: ConfigShelf;
    readonly former: string | null;
    readonly database: string;
  }) {
    this.id = options.id;
    this.node = options.node;
    this.#file = options.file;
    this.#path = options.path;
    this.#shelf = options.shelf;
    this.#former = options.former;
    this.#database = options.database;
  }

  static async open(node: NodeFile, id: PartyId): Promise<Keeper> {
    const own = { ...node, node: { ...node.node, id } };
    const { path, file } = await configCopy(node, id);
    const copy = await file.read();
    const found =
      copy.is === "read" || copy.is === "copied" ? readCopy(copy.value, path, own) : null;
    const damaged =
      copy.is === "corrupt" ? copy.because : found instanceof MinderError ? found.message : null;
    const kept = found instanceof MinderError ? null : found;
    const known = kept === null ? null : (kept.shelf.held ?? kept.shelf.active);
    const boundMs = kept === null ? START_MS : START_WITH_COPY_MS;
    const asked = await newestDocument(own, { boundMs, wanted: 0, known });
    if ("error" in asked && kept === null) {
      const trouble = damaged === null ? "there is none" : `it cannot be used: ${damaged}`;
      throw new MinderError(`Cannot find a config: ${asked.error}`, {
        where: `local copy ${path}: ${trouble}`,
        hint: "Bring a database server within reach, or name a site file with --config",
      });
    }
    const first = "document" in asked ? asked.document : kept?.shelf.active;
    if (first === undefined) throw new Error("Unreachable: neither database nor copy");
    const keeper = new Keeper({
      node: own,
      id,
      file,
      path,
      shelf: kept?.shelf ?? { active: first, held: null },
      former: kept?.former ?? null,
      database: "error" in asked ? asked.error : `version ${first.mark.version}`,
    });
    if (damaged !== null) {
      // The write sets the damaged file aside and names it.
      const aside = await file.write(keeper.#copy());
      keeper.#database += `; the local copy was damaged (${damaged}), it is kept as ${aside ?? path}`;
    } else if (kept === null) await keeper.#save();
    if ("document" in asked) await keeper.#take(asked.document, asked.authoritative);
    return keeper;
  }

  shelf(): ConfigShelf {
    return this.#shelf;
  }

  version(): number {
    return (this.#shelf.held ?? this.#shelf.active).mark.version;
  }

  async find(mark: ConfigMark): Promise<ConfigDocument | null> {
    const { active, held } = this.#shelf;
    const former = this.#former === null ? null : this.#parse(this.#former);
    const here = [active, held, former].find((each) => each?.mark.checksum === mark.checksum);
    if (here !== undefined && here !== null) return here;
    // A whole database client, which only those need who come here.
    const { openConfigDb } = await import("../effects/config_db.ts");
    const db = await openConfigDb(dbOptions(this.node));
    try {
      const row = await db.read(mark.version);
      return row === null || row.checksum !== mark.checksum ? null : this.#parse(row.document);
    } finally {
      db.close();
    }
  }

  async adopt(mark: ConfigMark): Promise<void> {
    const known = activate(this.#shelf, mark.checksum);
    if (known === null) {
      const document = await this.find(mark);
      if (document === null) {
        throw new MinderError(
          `Cannot go by config version ${mark.version}: it is not in the database`,
        );
      }
      // What was here is judged anew beside it: it may be newer, and by the same rules.
      const newest = this.#shelf.held ?? this.#shelf.active;
      const judged = { authoritative: false };
      await this.#put(offer({ active: document, held: null }, newest, judged).shelf);
    } else await this.#put(known);
  }

  heard(version: number): void {
    if (version <= this.version() || version <= this.#wanted) return;
    this.#wanted = version;
    this.#log?.info("config_heard", { version, have: this.version() });
    this.#pollSoon(0);
  }

  watch(log: Log, onChange: (shelf: ConfigShelf) => void): void {
    this.#log = log;
    this.#onChange = onChange;
    log.info("config", this.status());
    onChange(this.#shelf);
    this.#pollSoon(POLL_MS);
  }

  status(): Readonly<Record<string, unknown>> {
    const { active, held } = this.#shelf;
    return {
      version: active.mark.version,
      checksum: active.mark.checksum,
      held: held === null ? null : held.mark.version,
      database: this.#database,
      copy: this.#path,
    };
  }

  stop(): void {
    this.#stopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
  }

  #pollSoon(waitMs: number): void {
    if (this.#stopped) return;
    if (this.#polling) {
      this.#pollAgain = true;
      return;
    }
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#poll(), waitMs);
  }

  async #poll(): Promise<void> {
    this.#polling = true;
    const found = await newestDocument(this.node, {
      boundMs: START_MS,
      wanted: this.#wanted,
      known: this.#shelf.held ?? this.#shelf.active,
    });
    const words = "error" in found ? found.error : `version ${found.document.mark.version}`;
    // Poll after poll says the same: only a change is news.
    if (words !== this.#database) {
      this.#database = words;
      if ("error" in found) this.#log?.warn("config_database", { error: found.error });
    }
    if ("document" in found) {
      try {
        await this.#take(found.document, found.authoritative);
      } catch (error) {
        this.#log?.error("config_not_kept", { error: describeError(error) });
      }
    }
    this.#polling = false;
    const usual = partyType(this.id) === "dbclient" ? POLL_FOLLOWER_MS : POLL_MS;
    const missing = this.#wanted > this.version();
    this.#pollSoon(this.#pollAgain ? 0 : missing ? AGAIN_MS : usual);
    this.#pollAgain = false;
    // A version that nobody has, as one lost with its side of a cut, is not looked for so often for ever.
    if (missing && "document" in found) this.#wanted = 0;
  }

  async #take(document: ConfigDocument, authoritative: boolean): Promise<void> {
    const { shelf, taken } = offer(this.#shelf, document, { authoritative });
    if (shelf === this.#shelf) return;
    const before = this.#shelf.held ?? this.#shelf.active;
    const { version, checksum } = document.mark;
    if (before.mark.version === version) {
      this.#log?.warn("config_replaced", { version, checksum, instead: before.mark.checksum });
    }
    this.#log?.info(taken === "held" ? "config_pending" : "config_fetched", { version, checksum });
    await this.#put(shelf);
  }

  /** Keeps a shelf on disk, then goes by it. */
  async #put(shelf: ConfigShelf): Promise<void> {
    const before = this.#shelf.active;
    if (before.mark.checksum !== shelf.active.mark.checksum) this.#former = before.text;
    this.#shelf = shelf;
    await this.#save();
    this.#onChange(shelf);
  }

  #copy(): ConfigCopy {
    const { active, held } = this.#shelf;
    return { active: active.text, held: held?.text ?? null, former: this.#former };
  }

  async #save(): Promise<void> {
    const keptAs = await this.#file.write(this.#copy());
    if (keptAs !== null) this.#log?.warn("config_copy_set_aside", { keptAs });
  }

  #parse(text: string): ConfigDocument {
    return parseDocument(text, this.#path, this.node);
  }
}
