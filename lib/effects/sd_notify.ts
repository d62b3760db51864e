/**
 * Tells systemd that this process is ready, alive and stopping (sd_notify(3)): datagrams to the unix
 * socket that it names. Neither Bun nor node:dgram has unix datagrams, so libc is called: 4 µs each,
 * against 5 ms and a process for systemd-notify.
 */
import { dlopen, FFIType, ptr } from "bun:ffi";

/** Variables by which systemd says that it listens, and how often it wants to hear (in µs). */
export const NOTIFY_VARIABLES = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] as const;

export interface SdNotify {
  /** Longest silence that systemd tolerates; null where it does not watch. */
  readonly silenceMaxMs: number | null;
  /** Sends one state such as `READY=1`. False if nobody took it: systemd is told again next time. */
  send(state: string): boolean;
  close(): void;
}

type Environment = Readonly<Record<string, string | undefined>>;

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
/** sun_path of sockaddr_un, in bytes, with the 0 at its end. */
const PATH_MAX_BYTES = 108;

/** Null where systemd does not listen, or names no unix socket that can be reached. */
export function openSdNotify(environment: Environment, pid: number): SdNotify | null {
  const address = addressOf(environment["NOTIFY_SOCKET"] ?? "");
  if (address === null) return null;
  const { symbols: libc } = dlopen("libc.so.6", {
    socket: { args: [FFIType.i32, FFIType.i32, FFIType.i32], returns: FFIType.i32 },
    sendto: {
      args: [FFIType.i32, FFIType.ptr, FFIType.u64, FFIType.i32, FFIType.ptr, FFIType.u32],
      returns: FFIType.i64_fast,
    },
    close: { args: [FFIType.i32], returns: FFIType.i32 },
  });
  const fd = libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return null;
  let open = true;
  return {
    silenceMaxMs: silenceMaxMs(environment, pid),
    send(state) {
      if (!open) return false;
      const bytes = Buffer.from(`${state}\n`);
      const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
      const sent = libc.sendto(fd, ptr(bytes), bytes.length, flags, ptr(address), address.length);
      return Number(sent) === bytes.length;
    },
    close() {
      if (open) libc.close(fd);
      open = false;
    },
  };
}

/** A sockaddr_un; null for what is none. `@` stands for the 0 of an abstract socket. */
function addressOf(path: string): Buffer | null {
  if (!path.startsWith("/") && !path.startsWith("@")) return null;
  const name = Buffer.from(path);
  if (name.length >= PATH_MAX_BYTES) return null;
  const abstract = path.startsWith("@");
  if (abstract) name[0] = 0;
  const family = Buffer.from(new Uint16Array([AF_UNIX]).buffer);
  // A path ends with a 0, an abstract name with its length.
  return Buffer.concat([family, name, ...(abstract ? [] : [Buffer.alloc(1)])]);
}

/** As sd_watchdog_enabled(3): the variable counts only for the process that it was set for. */
function silenceMaxMs(environment: Environment, pid: number): number | null {
  const { WATCHDOG_USEC: micros = "", WATCHDOG_PID: forPid } = environment;
  if (forPid !== undefined && Number(forPid) !== pid) return null;
  const value = Number(micros);
  return micros !== "" && Number.isSafeInteger(value) && value > 0 ? value / 1000 : null;
}
