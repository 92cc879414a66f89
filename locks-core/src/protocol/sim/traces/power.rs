//! Power losses.

use crate::protocol::sim::{scene::Scene, schedule::Step};

#[test]
fn tokens_are_not_given_again_after_a_power_loss() {
    let mut s = Scene::with(2, "SQLite", |setup| {
        setup.loses_power = true;
        setup.clocks_behind = true;
    });
    for number in 1..5 {
        s.granted(0, number);
        s.step(&Step::Release(number));
        s.answer_now(0);
    }
    s.step(&Step::LosePower(4));
    s.granted(1, 5);
    s.step(&Step::LosePower(4));
    s.granted(1, 6);
    s.end();
}

#[test]
fn locks_that_never_expire_survive_a_power_loss() {
    let mut s = Scene::with(2, "SQLite", |setup| {
        setup.loses_power = true;
        setup.ttl = None;
    });
    s.granted(0, 1);
    s.step(&Step::Release(1));
    s.answer_now(0);
    s.granted(1, 2);
    s.step(&Step::LosePower(4));
    assert_eq!(s.holder().as_deref(), Some("p2a"));
    s.end();
}

#[test]
fn lock_that_was_removed_stays_removed_after_a_power_loss() {
    let mut s = Scene::with(3, "SQLite", |setup| {
        setup.loses_power = true;
        setup.first_is_permanent = true;
    });
    s.granted(0, 1);
    s.step(&Step::RemoveAll(1, 0));
    while s.holder().is_some() {
        s.answer_all(&[0, 1]);
    }
    s.step(&Step::LosePower(4));
    assert_eq!(s.holder(), None);
    s.end();
}

#[test]
fn writes_that_are_far_above_the_last_one_on_the_disk_are_not_undone() {
    let mut s = Scene::with(2, "SQLite", |setup| setup.loses_power = true);
    s.granted(0, 1);
    s.step(&Step::Release(1));
    s.answer_now(0);
    s.step(&Step::Millis(20 * 60 * 1000));
    s.granted(0, 2);
    for p in 0..2 {
        s.step(&Step::SetWallClock(p, -3_000));
    }
    s.step(&Step::LosePower(4));
    s.granted(1, 3);
    s.end();
}
