//! What is written, and what is answered without a write.

use super::*;

#[test]
fn one_write_hands_a_lock_from_one_guard_to_the_next() {
    let (mut desk, mut a) = (Desk::default(), Process::new("a"));
    let first = a.wait(&["x"], &[]);
    a.write(&mut desk);
    let second = a.wait(&["x"], &[]);
    a.write(&mut desk);
    assert!(a.holds(first) && !a.holds(second));
    a.release(first);
    let before = desk.version;
    let plan = a.write(&mut desk);
    assert!(a.holds(second));
    assert_eq!(desk.version, before + 1);
    assert_eq!(plan.granted[&second], desk.version);
    assert!(desk.table.queue().is_empty());
}

#[test]
fn what_changes_nothing_is_not_written() {
    let (mut desk, mut a, mut b) = (Desk::default(), Process::new("a"), Process::new("b"));
    a.wait(&["x"], &[]);
    b.wait(&["x"], &[]);
    a.write(&mut desk);
    assert!(b.write(&mut desk).changed);
    for process in [&mut a, &mut b] {
        assert!(!process.write(&mut desk).changed);
    }
}

#[test]
fn a_refusal_needs_a_row_that_was_read_after_the_request() {
    let (mut desk, mut a, mut b) = (Desk::default(), Process::new("a"), Process::new("b"));
    a.wait(&["x"], &[]);
    a.write(&mut desk);
    let old = Instant::now();
    std::thread::sleep(Duration::from_millis(1));
    let asked = b.try_now(&["x"]);
    let plan = b.plan(&mut desk, old);
    assert!(plan.needs_fresh && plan.refused.is_empty() && !plan.changed);
    let plan = b.write(&mut desk);
    assert!(matches!(&plan.refused[..], [(n, LockError::Busy { .. })] if *n == asked));
}

#[test]
fn a_grant_needs_no_fresh_row() {
    let (mut desk, mut a) = (Desk::default(), Process::new("a"));
    let old = Instant::now();
    std::thread::sleep(Duration::from_millis(1));
    let asked = a.try_now(&["x"]);
    let plan = a.plan(&mut desk, old);
    assert!(plan.changed && !plan.needs_fresh && plan.granted.contains_key(&asked));
}

#[test]
fn a_grant_whose_answer_was_lost_is_found_with_its_token() {
    let (mut desk, mut a) = (Desk::default(), Process::new("a"));
    let asked = a.wait(&["x", "y"], &[]);
    let plan = a.plan(&mut desk, Instant::now());
    assert!(plan.changed);
    desk.version += 7;
    let plan = a.write(&mut desk);
    assert!(!plan.changed);
    assert_eq!(plan.granted[&asked], 1);
}
