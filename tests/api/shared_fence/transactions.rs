//! Single transactions, step by step: which of them pass the fence, and which of them delay the
//! next holder.

use std::time::{Duration, Instant};

use locks_core::{LockError, LockGuard};
use locks_tests::{
    engine::{Database, Engine, note, run_async},
    journal::Tx,
    on_engine, on_every_engine,
    relay::{How, Relay, When},
    worker,
};

use super::application::{Application, Setting, Work, connect};

const SOON: Duration = Duration::from_secs(20);
/// The limit for a fence that waits for no other transaction.
const FENCED: Duration = Duration::from_secs(5);
/// An undelayed grant to the next holder takes less.
const EARLY: Duration = Duration::from_millis(500);
on_every_engine!(async an_open_fenced_transaction_delays_the_next_holder);
on_every_engine!(
    servers:
    async a_commit_whose_future_was_dropped_delays_the_next_holder,
    async an_open_fenced_transaction_of_a_killed_holder_delays_the_next_holder,
    async a_release_ends_after_the_fenced_transaction_of_another_guard,
);

/// Makes a `#[test]` for every setting of the servers, each on a database of its own.
macro_rules! on_every_setting {
    ($($name:ident),+ $(,)?) => {
        on_every_setting!(@module mysql_default MySql Default $($name)+);
        on_every_setting!(@module mariadb_snapshot_isolation MySql SnapshotIsolation $($name)+);
        on_every_setting!(@module postgres_default Postgres Default $($name)+);
        on_every_setting!(@module postgres_repeatable_read Postgres RepeatableRead $($name)+);
        on_every_setting!(@module postgres_serializable Postgres Serializable $($name)+);
    };
    (@module $module:ident $engine:ident $setting:ident $($name:ident)+) => {
        mod $module {
            use super::{Application, Engine, Setting, run_async};

            $(
                #[test]
                fn $name() {
                    run_async(Engine::$engine, async |db| {
                        if let Some(application) = Application::open(&db, Setting::$setting).await {
                            super::$name(&db, application).await;
                        }
                    });
                }
            )+
        }
    };
}

on_every_setting!(
    a_transaction_older_than_another_guards_release_commits,
    transaction_older_than_the_eviction_reports_the_loss,
    each_of_two_fenced_transactions_of_one_session_delays_the_next_holder,
);

async fn fence(guard: &LockGuard, tx: &mut Tx) -> Result<(), LockError> {
    let fenced = async { on_engine!(Tx, tx, tx => guard.fence(tx).await) };
    let fenced = tokio::time::timeout(FENCED, fenced).await;
    fenced.unwrap_or_else(|_| panic!("the fence waits for longer than {FENCED:?}"))
}

/// Neither the fence of another guard nor its release by the driver makes a row that is newer than
/// the snapshot.
async fn a_transaction_older_than_another_guards_release_commits(
    db: &Database,
    application: Application,
) {
    let locks = connect(db.url(), "holder").await;
    for (round, work) in [Work::ReadAndUpdate, Work::Read].into_iter().enumerate() {
        let guard = locks.acquire("x").await.expect("it is free");
        let other = locks.acquire("y").await.expect("it is free");
        let older = application.transaction(0, work).await.expect("its row");
        let tx = application.transaction(1, Work::ReadAndUpdate).await;
        let tx = tx.expect("its row");
        let committed = on_engine!(Tx, tx, tx => other.commit(tx).await);
        committed.expect("the lock is held");
        other.release().await.expect("it is held");
        let committed = on_engine!(Tx, older, tx => guard.commit(tx).await);
        committed.expect("the lock is held");
        assert_eq!(application.updates(db, 0).await, 1);
        assert_eq!(application.updates(db, 1).await, round + 1);
        guard.release().await.expect("it is held");
    }
}

/// The transaction began while the lock was held, so its snapshot still shows the fence row.
async fn transaction_older_than_the_eviction_reports_the_loss(
    db: &Database,
    application: Application,
) {
    let holder = connect(db.url(), "holder").await;
    let supervisor = connect(db.url(), "supervisor").await;
    for (round, work) in [Work::ReadAndUpdate, Work::Read].into_iter().enumerate() {
        let guard = holder.acquire("x").await.expect("it is free");
        let fenced_by_hand = holder.acquire("y").await.expect("it is free");
        let tx = application.transaction(0, work).await.expect("its row");
        let second = application.transaction(1, work).await;
        let mut second = second.expect("its row");
        let taken = supervisor.release_task("holder").await;
        assert_eq!(taken.expect("nothing is fenced").len(), 2);
        let next = supervisor.acquire(["x", "y"]).await.expect("it is free");
        assert!(
            !guard.is_lost(),
            "this process does not know of the loss yet"
        );

        let refused = on_engine!(Tx, tx, tx => guard.commit(tx).await);
        let refused = refused.expect_err("the lock was taken away");
        assert!(refused.is_lost(), "commit says {refused:?}");
        assert!(guard.is_lost());
        let refused = fence(&fenced_by_hand, &mut second).await;
        let refused = refused.expect_err("the lock was taken away");
        assert!(refused.is_lost(), "fence says {refused:?}");
        drop(second);
        assert_eq!(application.updates(db, 0).await, 0, "round {round}");
        let released = guard.release().await;
        assert!(released.expect_err("it was taken away").is_lost());
        next.release().await.expect("it is held");
    }
}

/// Two guards of one session, with open fenced transactions that end one after the other.
async fn each_of_two_fenced_transactions_of_one_session_delays_the_next_holder(
    db: &Database,
    application: Application,
) {
    let holder = connect(db.url(), "holder").await;
    let supervisor = connect(db.url(), "supervisor").await;
    for round in 0..2 {
        let guards = [
            holder.acquire("x").await.expect("it is free"),
            holder.acquire("y").await.expect("it is free"),
        ];
        let mut open = Vec::new();
        for (task, guard) in guards.iter().enumerate() {
            let work = application.transaction(task, Work::ReadAndUpdate).await;
            let mut tx = work.expect("its row");
            fence(guard, &mut tx).await.expect("it is held");
            open.push(tx);
        }
        let taken = tokio::spawn(supervisor.release_task("holder"));
        let next = supervisor.wait(["x", "y"]).timeout(SOON);
        let mut next = tokio::spawn(next);
        // In both orders.
        if round == 1 {
            open.reverse();
        }
        while let Some(tx) = open.pop() {
            let granted = tokio::time::timeout(EARLY, &mut next).await;
            assert!(granted.is_err(), "granted during a fenced transaction");
            tx.commit().await.expect("a fenced transaction commits");
        }
        let next = next.await.expect("no panic").expect("it is granted");
        for task in 0..2 {
            assert_eq!(application.updates(db, task).await, round + 1);
        }
        let taken = taken.await.expect("no panic").expect("it can");
        assert_eq!(taken.len(), 2);
        next.release().await.expect("it is held");
    }
}

async fn an_open_fenced_transaction_delays_the_next_holder(db: Database) {
    let application = Application::open(&db, Setting::Default).await;
    let application = application.expect("every server has it");
    let holder = connect(db.url(), "holder").await;
    let supervisor = connect(db.url(), "supervisor").await;
    let guard = holder.acquire("x").await.expect("it is free");
    let tx = application.transaction(0, Work::ReadAndUpdate).await;
    let mut tx = tx.expect("its row");
    fence(&guard, &mut tx).await.expect("it is held");
    let taken = tokio::spawn(supervisor.release_task("holder"));
    let mut next = tokio::spawn(supervisor.wait("x").timeout(SOON));
    let granted = tokio::time::timeout(EARLY, &mut next).await;
    assert!(granted.is_err(), "granted during a fenced transaction");
    tx.commit().await.expect("a fenced transaction commits");
    let next = next.await.expect("no panic").expect("it is granted");
    assert_eq!(application.updates(&db, 0).await, 1);
    assert_eq!(taken.await.expect("no panic").expect("it can").len(), 1);
    assert!(!next.is_lost());
}

/// The commit is in flight when its future and the guard are dropped.
async fn a_commit_whose_future_was_dropped_delays_the_next_holder(db: Database) {
    let direct = Application::open(&db, Setting::Default).await;
    let direct = direct.expect("every server has it");
    let relay = Relay::start(db.server_address());
    let application = Application::open_at(&db.url_via(relay.address()), Setting::Default).await;
    let holder = connect(db.url(), "holder").await;
    let other = connect(db.url(), "other").await;
    let guard = holder.acquire("x").await.expect("it is free");
    let tx = application.transaction(0, Work::ReadAndUpdate).await;
    let tx = tx.expect("its row");
    relay.arm(When::Containing(b"COMMIT".to_vec()), How::Stall);
    tokio::select! {
        result = async { on_engine!(Tx, tx, tx => guard.commit(tx).await) } => {
            panic!("the commit is held back, but says {result:?}")
        }
        () = relay.wait_for(SOON, "the commit is sent", |counters| counters.stalled == 1) => {}
    }
    drop(guard);
    let mut next = tokio::spawn(other.wait("x").timeout(SOON));
    let granted = tokio::time::timeout(EARLY, &mut next).await;
    assert!(granted.is_err(), "granted during a fenced transaction");
    relay.heal();
    let next = next.await.expect("no panic").expect("it is granted");
    assert_eq!(direct.updates(&db, 0).await, 1, "granted before the commit");
    next.release().await.expect("it is held");
}

/// The process has ended, and the server does not know that yet.
async fn an_open_fenced_transaction_of_a_killed_holder_delays_the_next_holder(db: Database) {
    let application = Application::open(&db, Setting::Default).await;
    let application = application.expect("every server has it");
    let relay = Relay::start(db.server_address());
    let mut holder = worker!(
        db.url_via(relay.address()),
        "holder",
        "--ttl",
        SOON.as_millis().to_string()
    );
    holder.acquire("x");
    assert_eq!(holder.ask("begin entry"), "begun");
    assert_eq!(holder.ask("fence"), "fenced");
    relay.stall();
    holder.kill();
    let observer = connect(db.url(), "observer").await;
    let mut next = tokio::spawn(observer.wait("x").timeout(SOON));
    let granted = tokio::time::timeout(EARLY, &mut next).await;
    assert!(granted.is_err(), "granted during a fenced transaction");
    relay.cut_all();
    let next = next.await.expect("no panic").expect("it is granted");
    assert!(!application.journal.has("entry").await);
    next.release().await.expect("it is held");
}

/// The release of a fenced guard may wait for other fenced transactions of its session, but not for
/// longer than they are open.
async fn a_release_ends_after_the_fenced_transaction_of_another_guard(db: Database) {
    const OPEN: Duration = Duration::from_secs(1);
    let application = Application::open(&db, Setting::Default).await;
    let application = application.expect("every server has it");
    let locks = connect(db.url(), "holder").await;
    let first = locks.acquire("x").await.expect("it is free");
    let second = locks.acquire("y").await.expect("it is free");
    let open = application.transaction(0, Work::ReadAndUpdate).await;
    let mut open = open.expect("its row");
    fence(&first, &mut open).await.expect("it is held");
    let tx = application.transaction(1, Work::ReadAndUpdate).await;
    let mut tx = tx.expect("its row");
    fence(&second, &mut tx).await.expect("it is held");
    tx.commit().await.expect("a fenced transaction commits");
    let start = Instant::now();
    let mut released = tokio::spawn(second.release());
    let early = tokio::time::timeout(OPEN, &mut released).await;
    open.commit().await.expect("a fenced transaction commits");
    let waited = early.is_err();
    let released = match early {
        Ok(released) => released,
        Err(_) => tokio::time::timeout(SOON, released)
            .await
            .expect("no fenced transaction is open"),
    };
    released.expect("no panic").expect("it is held");
    let (engine, taken) = (application.engine(), start.elapsed());
    let note_of_it = if waited { "waited" } else { "did not wait" };
    note(&format!(
        "{engine}: a release {note_of_it} for the fenced transaction of another guard, which was \
         open for {OPEN:?}, and took {taken:?}"
    ));
    first.release().await.expect("it is held");
}
