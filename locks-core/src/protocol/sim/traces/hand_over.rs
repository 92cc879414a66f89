//! Locks that the write of their release grants to requests of other processes.

use std::time::Duration;

use crate::protocol::sim::{
    callers::Told,
    process::LaneKind::Rows,
    scene::{EVICTED, Scene, pending},
    schedule::{Patience, ProcessId, RequestNumber, Step},
};

const WRITE: &str = "compare-and-set";

impl Scene {
    /// The first process holds `app_task_1`, and these wait for it in this order.
    fn held_and_wanted(engine: &str, waiters: &[(ProcessId, RequestNumber)]) -> Self {
        let mut s = Self::of_three(engine);
        s.granted(0, 1);
        s.queue(waiters);
        s
    }

    /// Three processes. Those of a file know the boot of their machine, and none of them wants its
    /// writes on the disk.
    fn of_three(engine: &str) -> Self {
        Self::with(3, engine, |setup| {
            setup.loses_power = engine == "SQLite";
            setup.seed = 3;
        })
    }

    fn queue(&mut self, waiters: &[(ProcessId, RequestNumber)]) {
        for (p, number) in waiters {
            self.ask(*p, *number, Patience::Forever);
            self.answer_for(&[0, 1, 2], Duration::from_millis(100));
        }
    }

    /// The writes of a process until this.
    fn writes_until(&mut self, p: ProcessId, is_done: impl Fn(&Self) -> bool) -> usize {
        let mut writes = 0;
        for _ in 0..200 {
            if is_done(self) {
                return writes;
            }
            writes += usize::from(pending(self, p) == Some(WRITE));
            self.answer_all(&[p]);
        }
        panic!("it does not happen\n{}", self.log());
    }

    /// Releases what a process was granted for a request, and returns the number of writes.
    fn release(&mut self, p: ProcessId, number: RequestNumber) -> usize {
        let calls = self.0.calls.len();
        self.step(&Step::Release(number));
        self.writes_until(p, |s| s.0.calls.len() == calls)
    }

    /// The writes of a process until a request is granted.
    fn writes_until_granted(&mut self, p: ProcessId, number: RequestNumber) -> usize {
        let writes = self.writes_until(p, |s| *s.told(number) != Told::Waiting);
        assert_eq!(*self.told(number), Told::Granted, "{}", self.log());
        writes
    }
}

#[test]
fn lock_is_granted_to_the_next_process_by_the_write_that_releases_it() {
    for (engine, writes) in [("PostgreSQL", 0), ("SQLite", 0), ("MySQL", 1)] {
        let mut s = Scene::held_and_wanted(engine, &[(1, 2), (2, 3)]);
        s.release(0, 1);
        assert_eq!(s.writes_until_granted(1, 2), writes, "{engine}");
        s.release(1, 2);
        assert_eq!(s.writes_until_granted(2, 3), writes, "{engine}");
        s.end();
    }
}

#[test]
fn process_that_does_not_take_the_lock_gives_it_back() {
    let mut s = Scene::held_and_wanted("PostgreSQL", &[(1, 2), (2, 3)]);
    s.step(&Step::Release(1));
    s.until_sent(0, Rows, WRITE);
    s.step(&Step::Cancel(2));
    s.writes_until(0, |s| s.0.calls.is_empty());
    s.until_told(&[1, 2], 3);
    assert_eq!(*s.told(3), Told::Granted);
    s.end();
}

#[test]
fn nothing_is_handed_over_to_a_process_that_was_found_dead() {
    let mut s = Scene::held_and_wanted("PostgreSQL", &[(1, 2)]);
    s.step(&Step::Kill(1));
    // Its sessions are removed, and the row is not yet.
    s.step(&Step::RemoveTask(2, 0, 1, 'a'));
    let side = s.side(2, "delete of heartbeat rows");
    s.step(&Step::Apply(2, side));
    s.step(&Step::Pause(2));
    let writes = s.release(0, 1);
    assert_eq!(writes, 3, "one on an old row, and one that is refused");
    s.step(&Step::Resume(2));
    s.step(&Step::Millis(EVICTED));
    s.ask(0, 3, Patience::Forever);
    s.until_told(&[0, 2], 3);
    assert_eq!(*s.told(3), Told::Granted);
    s.end();
}

#[test]
fn lock_that_never_expires_is_not_handed_over_to_the_session_that_waits() {
    let mut s = Scene::with(3, "PostgreSQL", |setup| setup.first_is_permanent = true);
    s.granted(1, 1);
    s.queue(&[(0, 2)]);
    s.release(1, 1);
    assert_eq!(s.writes_until_granted(0, 2), 1);
    s.step(&Step::Pause(0));
    s.step(&Step::Millis(EVICTED));
    s.ask(1, 3, Patience::NoWait);
    s.until_told(&[1], 3);
    assert_eq!(*s.told(3), Told::Failed, "it is held");
    s.step(&Step::Resume(0));
    s.end();
}

#[test]
fn readers_of_two_processes_are_granted_by_one_write() {
    let mut s = Scene::of_three("SQLite");
    s.wait_for(0, 1, "mail_restart");
    s.until_told(&[0], 1);
    for (process, number) in [(1, 2), (2, 3)] {
        s.share(process, number);
        s.answer_for(&[0, 1, 2], Duration::from_millis(100));
    }
    s.release(0, 1);
    s.until_told(&[0, 1, 2], 2);
    s.until_told(&[0, 1, 2], 3);
    let token = |number| s.0.callers[&number].grant.as_ref().map(|g| g.token);
    assert!(token(2).is_some());
    assert_eq!(token(2), token(3));
    s.end();
}
