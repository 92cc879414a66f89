//! Who stands in the queue, where, and who leaves it.

use super::*;

#[test]
fn a_new_waiter_rides_with_another_write_or_makes_one_soon() {
    let (mut desk, mut a, mut b) = (Desk::default(), Process::new("a"), Process::new("b"));
    a.wait(&["x"], &[]);
    a.write(&mut desk);
    b.patience = Duration::ZERO;
    let waits = b.wait(&["x"], &[]);
    let plan = b.write(&mut desk);
    let since = b.asking[&waits].since;
    assert_eq!(plan.rides_until, Some(since + LINGER));
    assert!(!plan.changed && matches!(&plan.blocked[..], [(n, _)] if *n == waits));
    assert_eq!(desk.table.queue().len(), 0);
    b.wait(&["y"], &[]);
    b.write(&mut desk);
    assert_eq!(desk.table.queue().len(), 1);
}

#[test]
fn a_waiter_that_is_not_written_yet_is_not_overtaken() {
    let (mut desk, mut a) = (Desk::default(), Process::new("a"));
    a.patience = Duration::ZERO;
    a.wait(&["app_task_1"], &[9]);
    a.write(&mut desk);
    a.wait(&["box_update"], &[1]);
    a.write(&mut desk);
    let task = a.wait(&["app_task_2"], &[2]);
    let at_once = a.ask(&["app_task_3"], &[3], Mode::AtOnce);
    a.write(&mut desk);
    assert!(!a.holds(task) && !a.holds(at_once));
}

#[test]
fn who_is_gone_leaves_the_queue_and_gives_back_what_came_too_late() {
    let (mut desk, mut a, mut b) = (Desk::default(), Process::new("a"), Process::new("b"));
    let holds = a.wait(&["x"], &[]);
    a.write(&mut desk);
    let waits = b.wait(&["x"], &[]);
    b.write(&mut desk);
    b.asking.get_mut(&waits).unwrap().abandoned = true;
    assert_eq!(b.write(&mut desk).abandoned, [waits]);
    assert!(desk.table.queue().is_empty() && b.asking.is_empty());

    // Granted by a write whose answer never came; in the meantime its caller went away.
    a.release(holds);
    a.write(&mut desk);
    let late = b.wait(&["x"], &[]);
    b.plan(&mut desk, Instant::now());
    b.asking.get_mut(&late).unwrap().abandoned = true;
    assert!(b.write(&mut desk).changed);
    assert_eq!(desk.table, LockTable::default());
}

#[test]
fn a_full_queue_refuses_one_more_waiter_but_nobody_who_need_not_wait() {
    let (mut desk, mut a) = (Desk::default(), Process::new("a"));
    a.queue_limit = 2;
    a.wait(&["x"], &[]);
    a.wait(&["x"], &[]);
    a.wait(&["x"], &[]);
    a.write(&mut desk);
    assert_eq!(desk.table.queue().len(), 2);
    let over = a.wait(&["x"], &[]);
    let free = a.wait(&["y"], &[]);
    let plan = a.write(&mut desk);
    assert!(
        matches!(&plan.refused[..], [(n, LockError::QueueFull { limit: 2, .. })] if *n == over)
    );
    assert!(a.holds(free));
}

/// `b` holds x, then `a` waits for it, then `b` again: the holder and the first waiter.
fn a_waits_between(desk: &mut Desk, a: &mut Process, b: &mut Process) -> (Nonce, Nonce) {
    let holds = b.wait(&["x"], &[]);
    b.write(desk);
    let first = a.wait(&["x"], &[]);
    a.write(desk);
    b.wait(&["x"], &[]);
    b.write(desk);
    (holds, first)
}

#[test]
fn waiters_of_a_lost_session_move_to_the_new_one_in_their_places() {
    let (mut desk, mut a, mut b) = (Desk::default(), Process::new("a"), Process::new("b"));
    let (holds, first) = a_waits_between(&mut desk, &mut a, &mut b);
    let old = std::mem::replace(&mut a.queue, SessionId("ns/a-again".into()));
    a.hold = a.queue.clone();
    let asking = a.asking.get_mut(&first).unwrap();
    (asking.claim.session, asking.queue_session) = (a.hold.clone(), a.queue.clone());

    // Either they move, or somebody has taken them for dead already, and they come back.
    for taken_for_dead in [false, true] {
        let mut desk = Desk {
            table: desk.table.clone(),
            version: desk.version,
        };
        if taken_for_dead {
            desk.table.dequeue_where(|w| w.session == old);
        }
        a.write(&mut desk);
        let sessions: Vec<_> = desk.table.queue().iter().map(|w| &*w.session.0).collect();
        assert_eq!(sessions, ["ns/a-again", "ns/b"], "{taken_for_dead}");
        a.asking.get_mut(&first).unwrap().queued_as = Some(old.clone());
    }
    assert!(b.holds(holds));
}

#[test]
fn one_that_comes_back_to_its_place_is_granted_if_it_is_its_turn() {
    let (mut desk, mut a, mut b) = (Desk::default(), Process::new("a"), Process::new("b"));
    let (holds, first) = a_waits_between(&mut desk, &mut a, &mut b);
    // Somebody took it for dead; b released, and did not yet see that it may go on.
    desk.table.dequeue_where(|w| w.session == a.queue);
    let held = b.held.remove(&holds).unwrap();
    desk.table
        .release(&(b.hold.clone(), holds), &held.tenure.names);
    a.write(&mut desk);
    assert!(a.holds(first));
}

#[test]
fn the_dead_are_buried_and_the_next_goes_on_in_the_same_write() {
    let (mut desk, mut a, mut b) = (Desk::default(), Process::new("a"), Process::new("b"));
    let mut ghost = Process::new("ghost");
    ghost.wait(&["x"], &[]);
    ghost.write(&mut desk);
    a.wait(&["x"], &[]);
    a.write(&mut desk);
    ghost.wait(&["y"], &[]);
    let next = b.wait(&["x"], &[]);
    b.write(&mut desk);
    b.dead.extend([ghost.hold.clone(), a.hold.clone()]);
    b.write(&mut desk);
    assert!(b.holds(next));
    assert_eq!(desk.table.session_ids(), BTreeSet::from([b.hold.clone()]));
}

#[test]
fn who_barges_stands_in_no_queue_and_minds_none() {
    let (mut desk, mut a, mut b) = (Desk::default(), Process::new("a"), Process::new("b"));
    b.fairness = Fairness::Barging;
    let task = a.wait(&["app_task_1"], &[]);
    a.write(&mut desk);
    let update = a.wait(&["box_update"], &[]);
    a.write(&mut desk);
    let barges = b.wait(&["app_task_2"], &[]);
    b.write(&mut desk);
    assert!(b.holds(barges));
    let waits = b.wait(&["app_task_1"], &[]);
    assert!(!b.write(&mut desk).changed);
    assert_eq!(desk.table.queue().len(), 1);
    a.release(task);
    a.write(&mut desk);
    assert!(!a.holds(update), "b barged past it");
    b.write(&mut desk);
    assert!(b.holds(waits));
}

#[test]
fn who_closes_a_circle_is_told_so_and_does_not_queue() {
    let (mut desk, mut a, mut b) = (Desk::default(), Process::new("a"), Process::new("b"));
    a.wait(&["x"], &[1]);
    a.write(&mut desk);
    b.wait(&["y"], &[2]);
    b.write(&mut desk);
    a.wait(&["y"], &[1, 3]);
    a.write(&mut desk);
    let closes = b.wait(&["x"], &[2, 4]);
    let plan = b.write(&mut desk);
    let [(nonce, error)] = &plan.refused[..] else {
        panic!("{:?}", plan.refused)
    };
    assert!(*nonce == closes && error.is_deadlock() && !plan.changed);
    let text = error.to_string();
    assert!(text.contains("y is held by task ns/b"), "{text}");
}

#[test]
fn a_waiter_that_lets_an_earlier_one_pass_sets_it_free_in_the_same_write() {
    // a, waiting for z behind v, may go past v as soon as b waits for a: nobody else would
    // ever write again.
    for path in [&[][..], &[1]] {
        let mut desk = Desk::default();
        let mut a = Process::new("a");
        let mut b = Process::new("b");
        a.wait(&["x"], path);
        a.write(&mut desk);
        b.wait(&["y"], &[2]);
        b.write(&mut desk);
        b.wait(&["y", "z"], &[]);
        b.write(&mut desk);
        let passes = a.wait(&["z"], path);
        a.write(&mut desk);
        assert!(!a.holds(passes));
        b.wait(&["x"], &[2]);
        assert!(b.write(&mut desk).freed, "a is told");
        a.write(&mut desk);
        assert!(a.holds(passes), "between processes, {path:?}");
    }
    let (mut desk, mut a) = (Desk::default(), Process::new("a"));
    a.wait(&["x"], &[1]);
    a.wait(&["y"], &[2]);
    a.write(&mut desk);
    a.wait(&["y", "z"], &[]);
    a.write(&mut desk);
    let passes = a.wait(&["z"], &[1]);
    a.write(&mut desk);
    a.wait(&["x"], &[2]);
    a.write(&mut desk);
    assert!(a.holds(passes), "within one");
}

#[test]
fn a_chain_through_one_that_never_expires_is_followed() {
    let mut desk = Desk::default();
    let (mut a, mut b) = (Process::new("a"), Process::never_expiring("b"));
    let mut c = Process::new("c");
    a.wait(&["x"], &[]);
    a.write(&mut desk);
    b.wait(&["y"], &[]);
    b.write(&mut desk);
    b.wait(&["x"], &[]);
    b.write(&mut desk);
    c.wait(&["y", "z"], &[]);
    c.write(&mut desk);
    let passes = a.wait(&["z"], &[]);
    a.write(&mut desk);
    assert!(a.holds(passes), "c waits for b, and b for a");
}
