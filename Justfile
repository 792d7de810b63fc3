# What can be done here; `just` alone lists it. Everything but `man` and `programs` needs nothing more than cargo.

prefix := env("PREFIX", env("HOME") / ".local")

[private]
default:
    @just --list --unsorted

# What CI runs
check:
    .ci/run

# The tests
test *args:
    cargo test {{args}}

# What `bpm export` and `bpm install` write, read back by the engines
export-check *args:
    .ci/export {{args}}

# Twenty real programs (vite, next, gunicorn ...), installed into target/programs; names choose some
programs *args:
    cargo build
    tests/programs/run {{args}}

# Mutations of what comes in (wire, configuration, patterns), each kind for an hour
fuzz seconds="3600":
    BPM_FUZZ_SECONDS={{seconds}} cargo test --test server mutation -- --nocapture

# The attacks of the tests in full, not some rounds of each: kills under load, strangers' orders, folders exchanged
# between check and use, children that misbehave. Those by a second user need root
attacks *args:
    BPM_ATTACKS=1 cargo test --test cli -- ownership trust names strangers {{args}}
    BPM_ATTACKS=1 cargo test --test server -- hostile words {{args}}
    BPM_ATTACKS=1 cargo test --test daemon -- adopt children {{args}}

# Upgrades, kills, reloads, restarts, builds, full disks in random order, 20 processes under load; `just chaos 500`, `BPM_CHAOS_SEED=N just chaos` repeats one
chaos rounds="200":
    BPM_CHAOS_ROUNDS={{rounds}} cargo test --test daemon chaos -- --nocapture

# Every figure of the README, each beside its limit; names choose rows
bench *args:
    cargo build --release
    cargo bench --bench bench -- {{args}}

# How fast logs are taken in
bench-logs *args: (bench "logs" args)

# How fast they are searched
bench-search *args: (bench "search" args)

# Logs on disk: what is found in a gigabyte of them, and followers
bench-disk *args: (bench "disk" args)

# Start, restart, stop
bench-start *args: (bench "start" args)

# Calls over HTTP
bench-http *args: (bench "http" args)

# Idle connections, events, proxies
bench-agents *args: (bench "door" "proxy" args)

# Memory and wake-ups
bench-idle *args: (bench "idle" args)

# The terminal UI: its first picture, its bytes, its memory, how soon it shows what
bench-tui *args:
    cargo bench --features tui --bench tui -- {{args}}

# Clean builds of a revision and of this tree in turns: `just bench-build BASE=REVISION`
bench-build base="HEAD" rounds="3":
    benches/build.sh {{base}} {{rounds}}

# Lines of code without comments, blank lines and tests, by folder
lines *args:
    .ci/lines {{args}}

# Ten minutes of thirty processes and twenty clients: does bpm grow?
soak *args:
    cargo bench --bench soak -- {{args}}

# A static binary with musl
musl:
    .ci/musl

# What a server needs: archives, a .deb and checksums in target/dist; `--check` builds twice and compares
dist *args:
    .ci/dist {{args}}

# A static binary with glibc
static:
    RUSTFLAGS="-Cforce-frame-pointers=yes -Csymbol-mangling-version=v0 -C target-feature=+crt-static" cargo build --release --target "$(uname -m)-unknown-linux-gnu"

# Into ~/.local, or $PREFIX
install:
    cargo build --release
    install -Dm755 target/release/bpm "{{prefix}}/bin/bpm"
    for page in man/*.[1-8]; do install -Dm644 "$page" "{{prefix}}/share/man/man${page##*.}/${page##*/}"; done

# The manual, to read
man:
    man -l man/bpm.1
