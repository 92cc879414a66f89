//! The worker process of the tests. Its first argument selects what it does.

mod connector;
mod contender;
mod dropped_guard;
mod fenced_writer;
mod programs;
mod request_dropper;
mod settings;
mod sharer;
mod stream;
mod waiter;
mod worker;

use std::{
    io::{BufRead as _, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Parser;
use locks_tests::{conflict_table::NAMES, oracle::Oracle, plain::Plain, row::LocksRow};

use self::settings::Settings;

#[derive(Debug, Parser)]
enum Peer {
    /// Prints every line of its input.
    Echo,
    /// Enters and leaves random names for some time, with `flock`s in a directory as locks, or
    /// without locks.
    Judge {
        directory: PathBuf,
        milliseconds: u64,
        #[arg(long)]
        unlocked: bool,
    },
    /// Acquires and releases random locks, checked by the oracle.
    Contend(contender::Contender),
    /// Reads, writes and backs up, checked by the sharing oracle.
    Share(sharer::Sharer),
    /// Drops a guard in one of several ways.
    DroppedGuard(dropped_guard::DroppedGuard),
    /// Drops requests at random moments.
    RequestDropper(request_dropper::RequestDropper),
    /// Connects to every URL of its input.
    Connector,
    /// Acquires locks and writes in fenced transactions, until its input ends or it is killed.
    FencedWriter(fenced_writer::FencedWriter),
    /// Acquires, fences and releases locks, as its input says.
    Worker(worker::Worker),
    /// Runs the programs of its input.
    Programs {
        #[command(flatten)]
        settings: Settings,
    },
    /// Acquires and releases one lock after the other, until its input ends.
    Stream {
        #[command(flatten)]
        settings: Settings,
        prefix: String,
        jobs: usize,
        milliseconds: u64,
    },
    /// Runs random programs for some time.
    Traffic {
        #[command(flatten)]
        settings: Settings,
        directory: PathBuf,
        jobs: usize,
        milliseconds: u64,
    },
    /// Waits for locks, in several jobs, as its input says.
    Waiter {
        #[command(flatten)]
        settings: Settings,
    },
    /// Answers every line of its input with the held names of the namespace, read with plain SQL.
    Watch { url: String, namespace: String },
}

fn main() {
    match Peer::parse() {
        Peer::Echo => echo(),
        Peer::Judge {
            directory,
            milliseconds,
            unlocked,
        } => {
            judge(&directory, Duration::from_millis(milliseconds), unlocked);
        }
        Peer::Contend(contender) => runtime().block_on(contender.run()),
        Peer::Share(sharer) => runtime().block_on(sharer.run()),
        Peer::DroppedGuard(dropped_guard) => dropped_guard.run(),
        Peer::RequestDropper(request_dropper) => runtime().block_on(request_dropper.run()),
        Peer::Connector => connector::connect_each(),
        Peer::FencedWriter(fenced_writer) => runtime().block_on(fenced_writer.run()),
        Peer::Worker(worker) => runtime().block_on(worker.run()),
        Peer::Programs { settings } => programs::on_demand(&settings),
        Peer::Stream {
            settings,
            prefix,
            jobs,
            milliseconds,
        } => stream::flow(
            &settings,
            &prefix,
            jobs,
            Duration::from_millis(milliseconds),
        ),
        Peer::Traffic {
            settings,
            directory,
            jobs,
            milliseconds,
        } => programs::at_random(
            &settings,
            directory,
            Duration::from_millis(milliseconds),
            jobs,
        ),
        Peer::Waiter { settings } => waiter::obey(&settings),
        Peer::Watch { url, namespace } => watch(&url, &namespace),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .expect("the test listens");
}

fn echo() {
    say("ready");
    for line in std::io::stdin().lock().lines() {
        say(&line.expect("text"));
    }
}

fn judge(directory: &std::path::Path, time: Duration, unlocked: bool) {
    let mut oracle = Oracle::open(directory);
    let owner = std::process::id().to_string();
    let start = Instant::now();
    let mut grants = 0;
    while start.elapsed() < time {
        let name = NAMES[fastrand::usize(..NAMES.len())];
        let asked = oracle.asking();
        let lock = std::fs::File::create(directory.join("lock")).expect("a file");
        if !unlocked {
            lock.lock().expect("a lock");
        }
        let entered = oracle.enter(&[name], &owner, None, asked);
        std::thread::sleep(Duration::from_micros(fastrand::u64(..500)));
        let left = oracle.leave(&[name], &owner);
        grants += 1;
        if entered.and(left).is_err() {
            say("violation");
        }
    }
    say(&format!("grants {grants}"));
}

fn watch(url: &str, namespace: &str) {
    let runtime = runtime();
    let mut conn = runtime
        .block_on(Plain::connect(url))
        .expect("the test's database answers");
    for _ in std::io::stdin().lock().lines() {
        let row = runtime.block_on(LocksRow::read_on(&mut conn, namespace));
        let held = row.map(|row| row.held()).unwrap_or_default();
        let names: Vec<_> = held.keys().map(String::as_str).collect();
        say(&format!("held {}", names.join(" ")));
    }
}
