/**
 * Simulated time: one heap of things to do, ordered by time and then by insertion, so that equal
 * times have one order in every run. There is no tick: time jumps from one entry to the next.
 */

/** An entry of the schedule; `cancel` by setting `live` to false. */
export interface Task {
  readonly at: number;
  readonly order: number;
  readonly run: () => void;
  live: boolean;
}

/** The heap and the clock. Times are milliseconds of true time, which no process can see. */
export class Schedule {
  now = 0;
  /** Entries that have run. */
  ran = 0;
  #order = 0;
  readonly #heap: Task[] = [];

  /** Runs `run` at `time`, or now if that has passed. */
  at(time: number, run: () => void): Task {
    const task: Task = {
      at: Math.max(time, this.now),
      order: this.#order++,
      run,
      live: true,
    };
    this.#push(task);
    return task;
  }

  after(delayMs: number, run: () => void): Task {
    return this.at(this.now + delayMs, run);
  }

  /** Runs the next entry that is due by `until`; false if there is none, and then the time is `until`. */
  next(until: number): boolean {
    for (;;) {
      const top = this.#heap[0];
      if (top === undefined || top.at > until) {
        if (this.now < until && until !== Number.POSITIVE_INFINITY) this.now = until;
        return false;
      }
      this.#pop();
      if (!top.live) continue;
      this.now = top.at;
      this.ran++;
      top.run();
      return true;
    }
  }

  /** Runs everything due up to and including `until`. */
  runUntil(until: number): void {
    while (this.next(until));
  }

  #push(task: Task): void {
    const heap = this.#heap;
    let index = heap.length;
    heap.push(task);
    while (index > 0) {
      const parentIndex = (index - 1) >> 1;
      const parent = heap[parentIndex] as Task;
      if (!before(task, parent)) break;
      heap[index] = parent;
      index = parentIndex;
    }
    heap[index] = task;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop() as Task;
    const size = heap.length;
    if (size === 0) return;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= size) break;
      if (child + 1 < size && before(heap[child + 1] as Task, heap[child] as Task)) child++;
      const candidate = heap[child] as Task;
      if (!before(candidate, last)) break;
      heap[index] = candidate;
      index = child;
    }
    heap[index] = last;
  }
}

function before(a: Task, b: Task): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}

/** Something that a story has planned; `live` false takes it back. */
export interface Planned {
  readonly run: () => void;
  readonly fault: boolean;
  live: boolean;
  task: Task | null;
  at: number;
}

/**
 * What a story has planned: faults, and when they end. Each comes at its time, but where nothing is
 * left to happen before the next one, the wait for it can be left out: `skip` brings everything
 * planned forward by the same time, so that distances stay as they are.
 */
export class Plan {
  /** Simulated time left out so far. */
  skippedMs = 0;
  readonly #schedule: Schedule;
  #items: Planned[] = [];

  constructor(schedule: Schedule) {
    this.#schedule = schedule;
  }

  /** A fault's end, or the next act of one that is under way. */
  after(delayMs: number, run: () => void): Planned {
    return this.#add(delayMs, run, true);
  }

  /** Something that begins. */
  begin(delayMs: number, run: () => void): Planned {
    return this.#add(delayMs, run, false);
  }

  /** Is any fault under way that has yet to end. */
  get faulty(): boolean {
    return this.#items.some(({ live, fault }) => live && fault);
  }

  /** Brings the next thing forward to now. */
  skip(): void {
    const { now } = this.#schedule;
    this.#items = this.#items.filter(({ live }) => live);
    let next = Number.POSITIVE_INFINITY;
    for (const { at } of this.#items) next = Math.min(next, at);
    if (next === Number.POSITIVE_INFINITY || next <= now) return;
    const by = next - now;
    this.skippedMs += by;
    for (const item of this.#items) {
      if (item.at === Number.POSITIVE_INFINITY) continue;
      item.at -= by;
      if (item.task !== null) item.task.live = false;
      item.task = this.#schedule.at(item.at, () => this.#run(item));
    }
  }

  #add(delayMs: number, run: () => void, fault: boolean): Planned {
    const at = this.#schedule.now + delayMs;
    const item: Planned = { run, fault, live: true, task: null, at };
    if (at !== Number.POSITIVE_INFINITY) {
      item.task = this.#schedule.at(at, () => this.#run(item));
      this.#items.push(item);
    }
    return item;
  }

  #run(item: Planned): void {
    if (!item.live) return;
    item.live = false;
    item.run();
  }
}
