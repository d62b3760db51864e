/**
 * A slow line: two bridges with a program between them that hands each frame on so much later. For kernels
 * without netem, which delays by itself. What is in the program's hands when it ends is lost.
 */
import { dlopen, FFIType } from "bun:ffi";
import { closeSync, openSync, read, writeSync } from "node:fs";
import { MinderError } from "../errors.ts";

export interface RelayOptions {
  /** Names of the two devices, which exist as long as the relay does. */
  readonly devices: readonly [string, string];
  /** From one to the other, in each direction. */
  readonly delayMs: number;
}

/** Header of an interface request: TUNSETIFF of linux/if_tun.h, and ifr_flags after ifr_name. */
const TUNSETIFF = 0x4004_54ca;
const IFREQ_BYTES = 40;
const IFNAMSIZ = 16;
const IFF_TAP = 0x0002;
/** No header of the driver's own before each frame. */
const IFF_NO_PI = 0x1000;
/** Frames that are bigger do not occur: such a device is offered none that the hardware would have to part. */
const FRAME_MAX = 70_000;
/** Beyond that a line loses what comes. */
const HELD_MAX = 20_000;

/** Makes the devices and hands frames on until `signal`. @throws MinderError where there are no such devices */
export async function relay(options: RelayOptions, signal: AbortSignal): Promise<void> {
  const [first, second] = options.devices.map(openDevice);
  if (first === undefined || second === undefined) throw new MinderError("Two devices are needed");
  console.log("ready");
  const ways = [pass(first, second, options.delayMs), pass(second, first, options.delayMs)];
  const ended = new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve()));
  try {
    await Promise.race([ended, ...ways]);
  } finally {
    for (const fd of [first, second]) closeSync(fd);
  }
}

function openDevice(name: string): number {
  const fd = openSync("/dev/net/tun", "r+");
  const request = new Uint8Array(IFREQ_BYTES);
  if (name.length >= IFNAMSIZ) throw new MinderError(`Cannot name a device ${name}`);
  request.set(new TextEncoder().encode(name));
  new DataView(request.buffer).setUint16(IFNAMSIZ, IFF_TAP | IFF_NO_PI, true);
  const { symbols } = dlopen("libc.so.6", {
    ioctl: { args: [FFIType.i32, FFIType.u64, FFIType.ptr], returns: FFIType.i32 },
  });
  if (symbols.ioctl(fd, BigInt(TUNSETIFF), request) !== 0) {
    throw new MinderError(`Cannot make the device ${name}`, { where: "/dev/net/tun" });
  }
  return fd;
}

/** One direction; ends when the device is gone. */
async function pass(from: number, to: number, delayMs: number): Promise<void> {
  const held: { readonly dueAt: number; readonly frame: Buffer }[] = [];
  let waiting = false;
  const handOn = (): void => {
    waiting = false;
    const now = performance.now();
    for (let next = held[0]; next !== undefined && next.dueAt <= now; next = held[0]) {
      held.shift();
      send(to, next.frame);
    }
    wait();
  };
  const wait = (): void => {
    const [next] = held;
    if (waiting || next === undefined) return;
    waiting = true;
    setTimeout(handOn, Math.max(0, next.dueAt - performance.now()));
  };
  for (;;) {
    const frame = await receive(from);
    if (frame === null) return;
    if (held.length >= HELD_MAX) continue;
    held.push({ dueAt: performance.now() + delayMs, frame });
    wait();
  }
}

function receive(fd: number): Promise<Buffer | null> {
  const space = Buffer.alloc(FRAME_MAX);
  return new Promise((resolve, reject) => {
    read(fd, space, 0, FRAME_MAX, null, (error, length) => {
      // Not up yet (EIO): nothing can come.
      if (error?.code === "EIO") setTimeout(() => receive(fd).then(resolve, reject), 10);
      else if (error !== null) resolve(null);
      else resolve(space.subarray(0, length));
    });
  });
}

function send(fd: number, frame: Buffer): void {
  try {
    writeSync(fd, frame);
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    // The device is down, or full: a line that loses a frame.
    if (code !== "EIO" && code !== "ENOBUFS" && code !== "EAGAIN") throw error;
  }
}
