//! The examples, run as their readers run them.

mod recipes;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use locks_tests::{
    engine::{Database, Engine},
    on_every_engine,
    process::Peer,
    wait,
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// The quickstart's own limit is below this.
const LIMIT: Duration = Duration::from_mins(1);

/// The locks that are requested at one time.
const EARLY: [&str; 4] = ["app_task_1", "app_task_2", "app_task_3", "app_backup_1"];
const UPDATE: &str = "box_update";
const LATE: &str = "app_task_4";

/// Where the examples are built. `cargo test` has built them, unless it was told to build only this
/// test; then this does nothing.
static EXAMPLES: LazyLock<PathBuf> = LazyLock::new(|| {
    let test = std::env::current_exe().expect("this test has a path");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("target/<profile>/deps/<this test>");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--examples", "--target-dir"])
        .arg(profile.parent().expect("target/<profile>"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo is there");
    assert!(status.success(), "the examples do not build: {status}");
    profile.join("examples")
});

fn start<const N: usize>(example: &str, args: [&str; N]) -> Peer {
    let program = EXAMPLES.join(example);
    Peer::spawn(program.to_str().expect("text"), args)
}

/// All lines of an example that must succeed.
fn output<const N: usize>(example: &str, args: [&str; N]) -> Vec<String> {
    let mut example = start(example, args);
    let lines = std::iter::from_fn(|| example.next_line(LIMIT)).collect();
    example.finish_well(LIMIT);
    lines
}

/// The standard error of an example that must fail.
fn complaint<const N: usize>(example: &str, args: [&str; N]) -> String {
    let mut example = start(example, args);
    while example.next_line(LIMIT).is_some() {}
    let status = example.finish(LIMIT);
    assert_eq!(status.code(), Some(1), "{}", example.errors());
    wait::until_blocking(LIMIT, "it says why", || !example.errors().is_empty());
    example.errors()
}

/// A line of the timeline.
#[derive(Debug)]
struct Row {
    ms: u64,
    process: u32,
    lock: String,
    text: String,
}

impl Row {
    /// `None` if the line does not belong to the timeline.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        Some(Self {
            ms: words.next()?.parse().ok()?,
            process: words.next()?.parse().ok()?,
            lock: words.next()?.to_owned(),
            text: words.collect::<Vec<_>>().join(" "),
        })
    }

    fn pid(&self) -> Pid {
        let id = i32::try_from(self.process).expect("a process id");
        Pid::from_raw(id).expect("a process id")
    }
}

/// The position in the timeline of the line about this lock that begins with this text.
fn place(rows: &[Row], lock: &str, text: &str) -> usize {
    let mut places = (0..rows.len())
        .filter(|place| rows[*place].lock == lock && rows[*place].text.starts_with(text));
    let found = (places.next(), places.next());
    let (Some(place), None) = found else {
        panic!("{lock} {text}, not once but {found:?} in {rows:#?}");
    };
    place
}

fn judge_timeline(lines: &[String]) {
    let rows: Vec<_> = lines.iter().filter_map(|line| Row::parse(line)).collect();
    assert!(rows.is_sorted_by_key(|row| row.ms), "{rows:#?}");
    let mut processes: Vec<_> = rows.iter().map(|row| row.process).collect();
    processes.sort_unstable();
    processes.dedup();
    assert_eq!(processes.len(), EARLY.len() + 2, "one each: {rows:#?}");

    let started = EARLY.map(|lock| place(&rows, lock, "starts"));
    let ended = EARLY.map(|lock| place(&rows, lock, "ends"));
    assert!(
        started.iter().max() < ended.iter().min(),
        "all beside each other: {rows:#?}"
    );
    let waits = place(&rows, UPDATE, "waits for");
    for lock in EARLY {
        assert!(rows[waits].text.contains(lock), "for {lock}: {rows:#?}");
    }
    let update = place(&rows, UPDATE, "starts, having waited");
    assert!(
        ended.iter().all(|ended| *ended < update),
        "the update after all of them: {rows:#?}"
    );
    let late = place(&rows, LATE, "waits for box_update");
    assert!(waits < late && late < update, "{rows:#?}");
    assert!(
        place(&rows, UPDATE, "ends") < place(&rows, LATE, "starts, having waited"),
        "the late one after the update: {rows:#?}"
    );

    let text = lines.join(" ");
    for said in [
        "ran side by side",
        "was not let past",
        "0 locks are held now.",
    ] {
        assert!(text.contains(said), "{said:?} in {text}");
    }
}

#[test]
fn the_quickstart_needs_nothing() {
    judge_timeline(&output("quickstart", []));
}

on_every_engine!(
    sync the_quickstart_leaves_nothing_in_a_given_database,
    sync the_supervisor_reports_forgotten_locks,
    sync the_workers_do_all_jobs_and_wait_where_they_must,
);

#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn the_quickstart_leaves_nothing_in_a_given_database(db: Database) {
    judge_timeline(&output("quickstart", [db.url()]));
    assert_nothing_is_left(&db);
}

fn assert_nothing_is_left(db: &Database) {
    for table in ["locks", "lock_sessions", "lock_fences"] {
        let rows = wait::block_on_thread(async {
            let sql = format!("SELECT * FROM {table}");
            db.connect().await.rows(&sql).await
        });
        assert_eq!(rows.expect("the table is there"), [], "{table}");
    }
}

#[test]
fn the_quickstart_explains_an_invalid_url() {
    for (url, wrong) in [
        ("nonsense", "it must start with sqlite:"),
        ("postgres://us:secret@[::1/locks", "invalid database URL"),
        (
            "sqlite:///no/such/directory/locks.db",
            "does not exist: create it",
        ),
        ("mysql://us:secret@127.0.0.1:1/locks", "refused"),
        ("sqlite::memory:", "in memory"),
        ("sqlite://locks?mode=memory", "in memory"),
    ] {
        let complaint = complaint("quickstart", [url]);
        assert!(complaint.contains(wrong), "{url}: {complaint}");
        assert!(!complaint.contains("secret"), "{url}: {complaint}");
    }
}

/// Starts the quickstart, and returns a worker process of each kind: one that holds its lock and
/// one that waits.
fn at_work(db: &Database) -> (Peer, [Pid; 2]) {
    let mut quickstart = start("quickstart", [db.url()]);
    let mut row = |text: &str| {
        std::iter::from_fn(|| quickstart.next_line(LIMIT))
            .filter_map(|line| Row::parse(&line))
            .find(|row| row.text.starts_with(text))
            .unwrap_or_else(|| panic!("a worker {text}"))
    };
    let workers = [row("starts").pid(), row("waits").pid()];
    (quickstart, workers)
}

fn has_ended(worker: Pid) -> bool {
    let path = format!("/proc/{}/stat", worker.as_raw_nonzero());
    // The worker may have no parent that reaps it.
    let stat = std::fs::read_to_string(path);
    test_kill_process(worker).is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn the_quickstart_ends_all_workers_when_one_fails() {
    let db = Database::create(Engine::Sqlite);
    let (mut quickstart, workers) = at_work(&db);
    kill_process(workers[0], Signal::KILL).expect("it runs");
    let status = quickstart.finish(LIMIT);
    assert_eq!(status.code(), Some(1));
    wait::until_blocking(LIMIT, "it says why", || {
        quickstart.errors().contains("SIGKILL")
    });
    assert!(workers.into_iter().all(has_ended), "at once");
}

#[test]
fn the_workers_of_a_killed_quickstart_end() {
    let db = Database::create(Engine::Sqlite);
    let (mut quickstart, workers) = at_work(&db);
    quickstart.kill();
    wait::until_blocking(LIMIT, "the workers end", || {
        workers.into_iter().all(has_ended)
    });
}

#[test]
fn setup_by_hand_works_as_documented() {
    let lines = output("setup", []);
    let mut rest = lines.iter();
    for said in [
        "installer holds app_backup_1 and app_task_1",
        "updater cannot have box_update now:",
        "installer holds app_backup_1",
        "installer holds app_task_1",
        "updater holds box_update",
        "for lock box_update: app_task_1 is held by task installer",
        "installer releases app_task_1",
        "updater holds box_update",
        "mail_restart is held by task installer",
        "updater tries to release it: lock mail_restart is held by task installer",
        "0 locks are held",
        "committed version 1",
        "updater takes box_update away from installer",
        "refused: lost box_update",
        "still version 1",
        "both have closed",
    ] {
        assert!(
            rest.any(|line| line.contains(said)),
            "{said:?}, in this order, in:\n{}",
            lines.join("\n")
        );
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn the_supervisor_reports_forgotten_locks(db: Database) {
    let lines = output("supervisor", [db.url()]);
    let mut rest = lines.iter();
    for said in [
        "worker-1 holds app_task_1",
        "worker-2 holds app_backup_2 and app_task_2",
        "worker-3 holds app_task_3",
        "worker-1 has ended: exit status: 0",
        "it had left nothing",
        "worker-2 has ended: signal: 9",
        "it had left app_backup_2",
        "it had left app_task_2",
        "worker-3 has ended: exit status: 0",
        "it had left app_task_3",
        "box_update is free",
        "worker-4 holds app_task_4",
        "app_task_4 is held by task worker-4",
        "worker-4 has ended: signal: 9",
        "its session was evicted, and box_update granted",
    ] {
        assert!(
            rest.any(|line| line.contains(said)),
            "{said:?}, in this order, in:\n{}",
            lines.join("\n")
        );
    }
    assert_nothing_is_left(&db);
}

/// The workers' jobs, and the locks that they take.
const JOBS: [(&str, &str); 7] = [
    ("install wiki", "app_task_wiki"),
    ("install mail", "app_task_mail"),
    ("backup blog", "app_backup_blog"),
    ("backup blog", "app_backup_blog"),
    ("update 9.1", "box_update"),
    ("install chat", "app_task_chat"),
    ("install blog", "app_task_blog"),
];

/// Whether a lock may be acquired while the other is held.
fn goes_with(taken: &str, held: &str) -> bool {
    match (taken, held) {
        (taken, held) if taken == held => false,
        ("box_update", held) => !held.starts_with("app_"),
        (taken, "box_update") => !taken.starts_with("app_task_"),
        _ => true,
    }
}

/// Every job ends, none runs together with a job that it conflicts with, and none waits for a job
/// that it does not conflict with. Returns what each job printed.
fn judge_jobs(lines: &[String]) -> Vec<(&'static str, String)> {
    let said = lines.join("\n");
    let mut story = Vec::new();
    let mut held: Vec<(String, &str)> = Vec::new();
    let mut over = Vec::new();
    for line in lines {
        let words: Vec<_> = line.split_whitespace().collect();
        let [ms, worker, task, app, what @ ..] = &words[..] else {
            continue;
        };
        if ms.parse::<u64>().is_err() || !worker.starts_with("worker-") {
            continue;
        }
        let job = format!("{task} {app}");
        let job = JOBS.iter().find(|(known, _)| *known == job);
        let (job, lock) = job.unwrap_or_else(|| panic!("an unknown job: {line}"));
        let mine = (worker.to_string(), *lock);
        match what[0] {
            "waits" => {
                let names = what.iter().filter(|word| word.contains('_'));
                let wrong: Vec<_> = names.filter(|name| goes_with(lock, name)).collect();
                assert_eq!(wrong, [] as [&&str; 0], "{line}, in\n{said}");
            }
            "starts," => {
                let beside = held.iter().all(|(_, held)| goes_with(lock, held));
                assert!(beside, "{line}, beside {held:?}, in\n{said}");
                held.push(mine);
            }
            "ends:" => {
                let place = held.iter().position(|holder| *holder == mine);
                held.swap_remove(place.unwrap_or_else(|| panic!("{line}, in\n{said}")));
                over.push(*job);
            }
            "skipped" => over.push(*job),
            _ => panic!("{line}, in\n{said}"),
        }
        story.push((*job, what.join(" ")));
    }
    over.sort_unstable();
    let mut given = JOBS.map(|(job, _)| job);
    given.sort_unstable();
    assert_eq!(over, given, "each once, in\n{said}");
    assert!(said.contains("0 locks are held now"), "{said}");
    story
}

#[test]
fn the_workers_need_nothing() {
    judge_jobs(&output("worker", []));
}

#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn the_workers_do_all_jobs_and_wait_where_they_must(db: Database) {
    // The work is not delayed for this, so on a busy machine a job may come too late to wait.
    wait::until_blocking(LIMIT, "everything that was to be shown", || {
        let story = judge_jobs(&output("worker", [db.url()]));
        assert_nothing_is_left(&db);
        [
            ("backup blog", "waits for app_backup_blog (worker-"),
            ("backup blog", "skipped after"),
            ("update 9.1", "waits for app_backup_blog (worker-"),
            ("install chat", "waits for box_update (worker-"),
            ("install blog", "waits for box_update (worker-"),
        ]
        .iter()
        .all(|(job, text)| {
            story
                .iter()
                .any(|(known, said)| known == job && said.starts_with(text))
        })
    });
}

#[test]
fn readers_run_beside_each_other_and_the_writer_alone() {
    let lines = output("readers", []);
    let place = |text: &str| lines.iter().position(|line| line == text).expect("a line");
    let alone = place("the writer begins");
    assert_eq!(place("the writer ends"), alone + 1, "{lines:#?}");
    for early in 1..=3 {
        let begin = place(&format!("reader {early} begins"));
        assert!(begin < 3, "beside each other: {lines:#?}");
        assert!(place(&format!("reader {early} ends")) < alone, "{lines:#?}");
    }
    for late in 4..=5 {
        assert!(
            place(&format!("reader {late} begins")) > alone,
            "{lines:#?}"
        );
    }
}

#[test]
fn three_backups_run_at_one_time() {
    let lines = output("three_backups", []);
    let running = lines.iter().filter_map(|line| line.split_once("running: "));
    let running: Vec<u32> = running.map(|(_, n)| n.parse().expect("a number")).collect();
    assert_eq!(running.len(), 10, "{lines:#?}");
    assert_eq!(running.iter().max(), Some(&3), "{lines:#?}");
}
