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
