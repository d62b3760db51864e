/** A unix datagram socket of the test's own, as systemd has one: neither Bun nor node:dgram has any. */
import { dlopen, FFIType, ptr } from "bun:ffi";

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const MSG_DONTWAIT = 0x40;

export interface Datagrams {
  /** The next that waits; null if none does. */
  take(): string | null;
  close(): void;
}

/** @throws Error if the path cannot be bound; `@` stands for the 0 of an abstract socket */
export function listenForDatagrams(path: string): Datagrams {
  const { symbols: libc } = dlopen("libc.so.6", {
    socket: { args: [FFIType.i32, FFIType.i32, FFIType.i32], returns: FFIType.i32 },
    bind: { args: [FFIType.i32, FFIType.ptr, FFIType.u32], returns: FFIType.i32 },
    recv: {
      args: [FFIType.i32, FFIType.ptr, FFIType.u64, FFIType.i32],
      returns: FFIType.i64_fast,
    },
    close: { args: [FFIType.i32], returns: FFIType.i32 },
  });
  const fd = libc.socket(AF_UNIX, SOCK_DGRAM, 0);
  const name = Buffer.from(path.startsWith("@") ? `\0${path.slice(1)}` : `${path}\0`);
  const address = Buffer.concat([Buffer.from(new Uint16Array([AF_UNIX]).buffer), name]);
  if (libc.bind(fd, ptr(address), address.length) !== 0) throw new Error(`Cannot bind ${path}`);
  const buffer = Buffer.alloc(4096);
  return {
    take() {
      const length = Number(libc.recv(fd, ptr(buffer), buffer.length, MSG_DONTWAIT));
      return length < 0 ? null : buffer.toString("utf8", 0, length);
    },
    close() {
      libc.close(fd);
    },
  };
}
