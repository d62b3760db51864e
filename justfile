# Galera minder. `just` lists the recipes; README.md says how to begin.

# Arguments reach the scripts as they were typed, blanks and quotes included.
set positional-arguments := true

# Bun and Biome come with `npm install`; recipes call them without the detour through npx.
bun := justfile_directory() / "node_modules/.bin/bun"
bin := justfile_directory() / "node_modules/.bin"

# Where scripts find the cluster's config unless told otherwise by --config.
export GM_CONFIG := env("GM_CONFIG", "")

[private]
default:
    @{{ quote(just_executable()) }} --list --unsorted

# Ask how the cluster is: exit 0 healthy, 1 degraded, 2 no writable primary, 3 cannot tell
[group('ask and order')]
[no-exit-message]
status *args:
    @{{ quote(bun) }} scripts/status.ts "$@"

# Print what has happened and why, from the arbitrator's event log: `just history --since 2h`
[group('ask and order')]
[no-exit-message]
history *args:
    @{{ quote(bun) }} scripts/history.ts "$@"

# Say what would happen if something failed now: `just what-if dc1-down`, db1-down, db1-crash, link-down, arbitrator-down
[group('ask and order')]
[no-exit-message]
what-if fault *args:
    @{{ quote(bun) }} scripts/what_if.ts "$@"

# Give an order: `just command drain dc1-2`, `just command --help` lists them
[group('ask and order')]
[no-exit-message]
command *args:
    @{{ quote(bun) }} scripts/command.ts "$@"

# Let no new client connection reach a server (or a segment)
[group('ask and order')]
[no-exit-message]
drain node *args:
    @{{ quote(bun) }} scripts/command.ts drain "$@"

# Let clients reach it again
[group('ask and order')]
[no-exit-message]
undrain node *args:
    @{{ quote(bun) }} scripts/command.ts undrain "$@"

# Move the writers, and the preferred side, to a segment while all is well (or back: --abort)
[group('ask and order')]
[no-exit-message]
switchover *args:
    @{{ quote(bun) }} scripts/command.ts switchover "$@"

# No automatic decisions until somebody says resume
[group('ask and order')]
[no-exit-message]
pause *args:
    @{{ quote(bun) }} scripts/command.ts pause "$@"

# Automatic decisions go on
[group('ask and order')]
[no-exit-message]
resume *args:
    @{{ quote(bun) }} scripts/command.ts resume "$@"

# Promote a segment that the rules hold back: try `just make-primary dc2 --dry-run` first
[group('ask and order')]
[no-exit-message]
make-primary segment *args:
    @{{ quote(bun) }} scripts/command.ts make_primary "$@"

# Run the role that the config gives this host (or `just minder --node dbserver.1`)
[group('roles')]
minder *args:
    @exec {{ quote(bun) }} scripts/minder.ts "$@"

# Run the arbitrator loop
[group('roles')]
arbitrator *args:
    @exec {{ quote(bun) }} scripts/arbitrator.ts "$@"

# Run the watchdog beside a mariadbd
[group('roles')]
server *args:
    @exec {{ quote(bun) }} scripts/server.ts "$@"

# Run the minder beside a balancer
[group('roles')]
client *args:
    @exec {{ quote(bun) }} scripts/client.ts "$@"

# Hand a notification of Galera to the local watchdog (mariadbd calls the script itself)
[group('roles')]
notify *args:
    @{{ quote(bun) }} scripts/notify.ts "$@"

# Print a working configuration for a balancer: haproxy or glbd
[group('ask and order')]
balancer-config kind *args:
    @{{ quote(bun) }} scripts/balancer_config.ts "$@"

# Examine the servers' settings; each finding comes with what mends it. Exit 0 fine, 1 warnings, 2 errors
[group('set it up')]
[no-exit-message]
doctor *args:
    @{{ quote(bun) }} scripts/doctor.ts "$@"

# Print the statements that make the watchdog's account, with the least privileges
[group('set it up')]
[no-exit-message]
grants *args:
    @{{ quote(bun) }} scripts/grants.ts "$@"

# Make a secret file, mode 0600: for all nodes, or for the people who give orders
[group('set it up')]
[no-exit-message]
secret file:
    @{{ quote(bun) }} scripts/secret.ts {{ quote(file) }}

# Make certificates for every party of the config, for a trial (needs openssl)
[group('set it up')]
[no-exit-message]
certs *args:
    @{{ quote(bun) }} scripts/certs.ts "$@"

# Make the table of the config in the database, once
[group('set it up')]
[no-exit-message]
config-init *args:
    @{{ quote(bun) }} scripts/config.ts init "$@"

# Make a file the newest version of the config; asks before it does
[group('set it up')]
[no-exit-message]
config-push file *args:
    @{{ quote(bun) }} scripts/config.ts push "$@"

# Print the config in the database, or an earlier version of it
[group('set it up')]
[no-exit-message]
config-show *args:
    @{{ quote(bun) }} scripts/config.ts show "$@"

# List the versions of the config: who, when, why
[group('set it up')]
[no-exit-message]
config-history *args:
    @{{ quote(bun) }} scripts/config.ts history "$@"

# Compare two versions of the config, or one with the newest
[group('set it up')]
[no-exit-message]
config-diff from *args:
    @{{ quote(bun) }} scripts/config.ts diff "$@"

# Push an earlier version of the config again, as the newest
[group('set it up')]
[no-exit-message]
config-rollback version *args:
    @{{ quote(bun) }} scripts/config.ts rollback "$@"

# Check a config for the database, without a database
[group('set it up')]
[no-exit-message]
config-validate file:
    @{{ quote(bun) }} scripts/config.ts validate "$@"

# Print the files that let systemd run mariadbd under the watchdog's care
[group('set it up')]
systemd-config *args:
    @{{ quote(bun) }} scripts/systemd_config.ts "$@"

# The start gate, as mariadbd's unit calls it
[group('roles')]
gate *args:
    @exec {{ quote(bun) }} scripts/gate.ts "$@"

# Play the whole story on a real cluster in network namespaces: kill a data centre, cut the link
[group('demo')]
[no-exit-message]
demo *args: setup
    @{{ quote(bun) }} scripts/demo.ts play "$@"

# Bring the demo's cluster up, to play by hand
[group('demo')]
[no-exit-message]
demo-up *args: setup
    @{{ quote(bun) }} scripts/demo.ts up "$@"

# Take the demo's cluster down and leave nothing behind
[group('demo')]
[no-exit-message]
demo-down:
    @{{ quote(bun) }} scripts/demo.ts down

# Pull the plug of a server or a whole data centre: `just demo-kill dc1`
[group('demo')]
[no-exit-message]
demo-kill node:
    @{{ quote(bun) }} scripts/demo.ts kill {{ quote(node) }}

# Let killed servers return: `just demo-return dc1`
[group('demo')]
[no-exit-message]
demo-return node:
    @{{ quote(bun) }} scripts/demo.ts return {{ quote(node) }}

# Cut the link between the data centres
[group('demo')]
[no-exit-message]
demo-cut:
    @{{ quote(bun) }} scripts/demo.ts cut

# Heal the link
[group('demo')]
[no-exit-message]
demo-heal:
    @{{ quote(bun) }} scripts/demo.ts heal

# Install what the demo needs and this machine lacks, with --tests what the tests need too; says what and why
[group('work on it')]
[no-exit-message]
setup *args:
    @{{ quote(bun) }} scripts/setup.ts "$@"

# Lint, types and all tests; stories on a real cluster that passed on this very tree are not repeated unless --fresh
[group('work on it')]
[no-exit-message]
test *args: (setup "--tests")
    @{{ quote(bun) }} scripts/test.ts "$@"

# Format and lint what can be mended by itself
[group('work on it')]
fix:
    {{ quote(bin) }}/biome check --write .

# The gate before a commit
[group('work on it')]
ok: test

# Print the arbitrator's rules in the order in which they are asked
[group('ask and order')]
[no-exit-message]
rules:
    @{{ quote(bun) }} scripts/rules.ts

# Replay one simulated history by its seed, with its timeline
[group('prove it')]
[no-exit-message]
sim seed *args:
    @{{ quote(bun) }} scripts/sim.ts replay "$@"

# Run N simulated histories with fresh seeds on all cores; --seconds S bounds it, --resume FILE goes on from there
[group('prove it')]
[no-exit-message]
sim-run n *args:
    @{{ quote(bun) }} scripts/sim.ts run "$@"

# Measure what a watchdog costs in calm, beside a script as clustercheck is
[group('prove it')]
bench-watchdog *args: setup
    @{{ quote(bun) }} scripts/bench_watchdog.ts {{ args }}

# Break the deciding rules one at a time and demand that the simulator notices each
[group('prove it')]
mutants *args:
    @{{ quote(bun) }} scripts/mutants.ts {{ args }}

# Time the arbitrator's decisions, from a report in to an ack or order out, for 2+2 to 32+32 servers
[group('prove it')]
bench-decide *args:
    @{{ quote(bun) }} scripts/bench_decide.ts {{ args }}

# Time the notify handler against bash and curl
[group('prove it')]
bench-notify *args: setup
    @{{ quote(bun) }} scripts/bench_notify.ts "$@"

# Side by side on a real cluster: a minded HAProxy against one with the common clustercheck every second
[group('prove it')]
race-balancers *args: setup
    @{{ quote(bun) }} scripts/race_balancers.ts {{ args }}

# Real cluster: the gap of a drain, 50 moves from a watchdog's knowledge to the weight, a crash; exit 0 only if all bounds hold
[group('prove it')]
[no-exit-message]
bench-moves *args: setup
    @{{ quote(bun) }} scripts/bench_moves.ts "$@"

# Isolate the half that is written to N times: it must not acknowledge a write once the other half has
[group('prove it')]
[no-exit-message]
race-fence *args: setup
    @{{ quote(bun) }} scripts/race_fence.ts "$@"

# Real cluster, faults with eviction and without: how long writes stall, in one table; exit 0 only if all bounds hold
[group('prove it')]
race-evict *args: setup
    @{{ quote(bun) }} scripts/race_evict.ts {{ args }}

# Measure many servers and client minders with real messages: how soon a change is right everywhere
[group('prove it')]
bench-clients *args:
    @{{ quote(bun) }} scripts/bench_clients.ts {{ args }}

# Give every reader of outside input N times as much nonsense as the tests do, with fresh seeds
[group('prove it')]
[no-exit-message]
fuzz times="10":
    @FUZZ_RUNS=$((300 * {{ times }})) {{ quote(bun) }} test tests/fuzz

# Hostile peers against live processes: N inputs, then what of them has changed
[group('prove it')]
[no-exit-message]
fuzz-peers *args:
    @{{ quote(bun) }} scripts/fuzz_peers.ts "$@"

# The demo's failover, calm and then during a flood of hostile input
[group('prove it')]
[no-exit-message]
fuzz-failover *args: setup
    @{{ quote(bun) }} scripts/fuzz_failover.ts "$@"
