//! An application that writes to the database file of the locks, in transactions that are longer
//! than a lease or follow each other without a pause.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use locks_core::{Evidence, Expiry, LockManager};
use locks_tests::{
    application::Application,
    engine::{Database, Engine, run_async},
    row::wait_until_queued,
    worker,
};

const SOON: Duration = Duration::from_mins(1);

/// The directory of the heartbeats beside the database, if it is there.
fn heartbeats(db: &Database) -> Vec<String> {
    let path = db.url().strip_prefix("sqlite://").expect("a file");
    let path = Path::new(path.split('?').next().expect("a path"));
    let name = path.file_name().expect("a file").to_str().expect("a name");
    let directory = format!("{name}-beats");
    let entries = fs::read_dir(path.parent().expect("a directory")).expect("it is there");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| *name == directory).collect()
}

async fn connect(db: &Database, task: &str, ttl: Duration) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    // Other processes may not look whether this one runs.
    let builder = builder.expiry(Expiry::After(ttl)).evidence(Evidence::Time);
    builder.connect(db.url()).await.expect("it connects")
}

#[test]
fn lock_is_held_while_an_application_writes_for_longer_than_the_ttl() {
    run_async(Engine::Sqlite, |db| async move {
        let ttl = Duration::from_secs(1);
        let holder = connect(&db, "holder", ttl).await;
        let guard = holder.acquire("x").await.expect("it is free");
        let next = connect(&db, "next", ttl).await;
        let waiting = tokio::spawn(next.wait("x").timeout(SOON).into_future());
        wait_until_queued(&db, "platform", 1).await;

        let application = Application::start(&db, 3 * ttl, Duration::ZERO).await;
        tokio::time::sleep(10 * ttl).await;
        assert!(!guard.is_lost(), "it was renewed beside the file");
        assert!(!waiting.is_finished(), "no process took it");
        assert_ne!(heartbeats(&db), [""; 0], "the file could not be written");
        assert!(application.stop() >= 3);

        guard.release().await.expect("it is held");
        let guard = waiting.await.expect("no panic").expect("it passes on");
        guard.release().await.expect("it is held");
        holder.close().await.expect("nothing is held");
        next.close().await.expect("nothing is held");
        assert_eq!(heartbeats(&db), [""; 0]);
    });
}

#[test]
fn lock_of_a_stopped_holder_passes_on_while_an_application_writes() {
    run_async(Engine::Sqlite, |db| async move {
        let ttl = Duration::from_secs(2);
        let next = connect(&db, "next", ttl).await;
        let mut holder = worker!(db.url(), "holder", "--ttl", ttl.as_millis().to_string());
        holder.acquire("x");
        let waiting = tokio::spawn(next.wait("x").timeout(SOON).into_future());
        wait_until_queued(&db, "platform", 1).await;

        // The holder is renewed beside the file, and evicted in the pauses.
        let pause = Duration::from_millis(100);
        let application = Application::start(&db, ttl, pause).await;
        tokio::time::sleep(2 * ttl).await;
        assert_eq!(holder.ask("lost"), "false");
        assert!(!waiting.is_finished());
        let stopped = Instant::now();
        holder.stop();
        let guard = waiting.await.expect("no panic").expect("it passes on");
        assert!(
            stopped.elapsed() > ttl / 2,
            "the last renewal was just before"
        );
        holder.cont();
        assert_eq!(holder.ask("lost"), "true");
        assert!(application.stop() >= 2);
        guard.release().await.expect("it is held");
    });
}
