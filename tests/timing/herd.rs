//! What it takes until many processes that wait for one lock have had it.

use std::time::{Duration, Instant};

use locks_tests::{
    engine::{Engine, alone, note, run_async},
    row::wait_until_queued,
    worker,
    worker::Worker,
};

const PROCESSES: usize = 80;
/// While each write woke every process, it took 34 s.
const LIMIT: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(20);

#[test]
fn eighty_processes_hand_one_lock_on() {
    let _alone = alone();
    run_async(Engine::Sqlite, |db| async move {
        let mut holder = worker!(db.url(), "holder");
        holder.acquire("x");
        let start = |n: usize| worker!(db.url(), format!("task-{n}"));
        let mut waiters: Vec<Worker> = (0..PROCESSES).map(start).collect();
        for waiter in &mut waiters {
            waiter.send("wait x");
            waiter.send("release");
        }
        wait_until_queued(&db, "platform", PROCESSES).await;
        let start = Instant::now();
        assert_eq!(holder.ask("release"), "released");
        for waiter in &mut waiters {
            waiter.granted();
            let released = waiter.next_line(SOON);
            assert_eq!(released.as_deref(), Some("released"));
        }
        let took = start.elapsed();
        note(&format!(
            "{PROCESSES} processes handed a lock on in {took:?}"
        ));
        assert!(took < LIMIT, "{took:?}");
    });
}
