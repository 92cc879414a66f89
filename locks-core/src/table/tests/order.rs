//! The order rule, and its exception.

use super::{blockers, request, table, texts};
use crate::{matrix::ConflictMatrix, table::Order};

/// A scenario, a request after it, and its blockers.
type Case = (
    &'static [&'static str],
    &'static str,
    &'static [&'static str],
);

fn check(cases: &[Case]) {
    for (scenario, asks, expected) in cases {
        assert_eq!(blockers(scenario, asks), *expected, "{scenario:?}, {asks}");
    }
}

#[test]
fn conflicting_request_does_not_overtake_an_earlier_one() {
    check(&[
        (&["h holds x", "w waits x y"], "a asks y", &["w waits x y"]),
        (&["h holds x", "w waits x"], "a asks y", &[]),
        // Even if nothing blocks the earlier request any more: it is granted first.
        (&["w waits y"], "a asks y", &["w waits y"]),
        // A rule with one direction: backups that overtake would let the update starve.
        (
            &["h holds app_backup_1", "w waits box_update"],
            "a asks app_backup_2",
            &["w waits box_update"],
        ),
        (
            &["h holds box_update", "w waits app_task_1"],
            "a asks box_update",
            &["h holds box_update", "w waits app_task_1"],
        ),
    ]);
}

#[test]
fn later_request_does_not_block() {
    let table = table(&[
        "h holds x",
        "first waits x",
        "then waits x y",
        "last waits y",
    ]);
    let platform = ConflictMatrix::platform();
    let expected: [&[&str]; 3] = [
        &["h holds x"],
        &["h holds x", "first waits x"],
        &["then waits x y"],
    ];
    for (position, expected) in expected.iter().enumerate() {
        assert_eq!(texts(&table.blockers_of(position, &platform)), *expected);
    }
    // The position of a queued request decides which ones are earlier.
    let third = request("c asks y");
    assert!(table.is_free(&third, Order::Behind(1)));
    assert!(!table.is_free(&third, Order::Behind(2)));
}

#[test]
fn request_that_waits_for_the_requester_does_not_block_it() {
    check(&[
        // The lock is held outside any scope.
        (
            &["a holds app_task_1", "u waits box_update"],
            "a asks app_task_2",
            &[],
        ),
        // The lock is held by the requester's scope or by an ancestor.
        (
            &["a:1 holds app_task_1", "u waits box_update"],
            "a:1 asks app_task_2",
            &[],
        ),
        (
            &["a:1 holds app_task_1", "u waits box_update"],
            "a:1.2 asks app_task_2",
            &[],
        ),
        (
            &["a:1.2 holds app_task_1", "u waits box_update"],
            "a:1.2.3.4 asks app_task_2",
            &[],
        ),
        // The lock is held outside any scope, and the request is made in one.
        (
            &["a holds app_task_1", "u waits box_update"],
            "a:1 asks app_task_2",
            &[],
        ),
    ]);
}

#[test]
fn lock_of_another_requester_is_no_reason_to_overtake() {
    let waits: &[&str] = &["u waits box_update"];
    check(&[
        (
            &["b holds app_task_1", "u waits box_update"],
            "a asks app_task_2",
            waits,
        ),
        // A sibling scope holds the lock.
        (
            &["a:1.3 holds app_task_1", "u waits box_update"],
            "a:1.2 asks app_task_2",
            waits,
        ),
        // A child scope holds the lock. The request of its parent does not wait for it.
        (
            &["a:1.2 holds app_task_1", "u waits box_update"],
            "a:1 asks app_task_2",
            waits,
        ),
        // A scope holds the lock, and the request is made outside any.
        (
            &["a:1 holds app_task_1", "u waits box_update"],
            "a asks app_task_2",
            waits,
        ),
        // The original holds the lock under the requester's task id.
        (
            &["original holds app_task_1", "u waits box_update"],
            "original asks app_task_2",
            waits,
        ),
        // The update does not wait for the requester's lock.
        (
            &["a holds other", "b holds app_task_1", "u waits box_update"],
            "a asks app_task_2",
            waits,
        ),
    ]);
}

#[test]
fn exception_applies_to_no_other_blocker() {
    check(&[
        // The update waits for a. The request for z does not.
        (
            &[
                "a holds app_task_1",
                "h holds z",
                "u waits box_update",
                "w waits z y",
            ],
            "a asks app_task_2 y",
            &["w waits y z"],
        ),
        // A held lock still blocks.
        (
            &[
                "a holds app_task_1",
                "b holds app_task_2",
                "u waits box_update",
            ],
            "a asks app_task_2",
            &["b holds app_task_2"],
        ),
    ]);
}

#[test]
fn request_that_waits_indirectly_for_the_requester_does_not_block_it() {
    check(&[
        // v waits behind u, which waits for a.
        (
            &["a holds x", "u waits x y", "v waits y z"],
            "a asks z",
            &[],
        ),
        // v waits for a lock of b, which waits for a.
        (
            &["a holds x", "b holds y", "b waits x", "v waits y z"],
            "a asks z",
            &[],
        ),
        (
            &["a:1 holds x", "b:2 holds y", "b:2.3 waits x", "v waits y z"],
            "a:1.4 asks z",
            &[],
        ),
        // v waits for a lock of b, which was queued after v.
        (
            &["a:1 holds x", "b:2 holds y", "v waits y z", "b:2 waits x"],
            "a:1 asks z",
            &[],
        ),
        // v waits for c, c for b, and b for a.
        (
            &[
                "a holds x",
                "b holds y",
                "c holds w",
                "b waits x",
                "c waits y",
                "v waits w z",
            ],
            "a asks z",
            &[],
        ),
        // v waits for b, which does not wait.
        (
            &["a holds x", "b holds y", "c waits x", "v waits y z"],
            "a asks z",
            &["v waits y z"],
        ),
        // v waits for a scope of b, and a sibling of that scope waits for a.
        (
            &[
                "a:1 holds x",
                "b:2.3 holds y",
                "b:2.4 waits x",
                "v waits y z",
            ],
            "a:1 asks z",
            &["v waits y z"],
        ),
    ]);
}

#[test]
fn search_ends_when_requests_wait_for_each_other() {
    check(&[(
        &["b holds x", "c holds y", "b waits y z", "c waits x z"],
        "a asks z",
        &["b waits y z", "c waits x z"],
    )]);
    check(&[(
        &[
            "a holds v",
            "b holds x",
            "c holds y",
            "b waits y z",
            "c waits x z",
        ],
        "a asks z",
        &["b waits y z", "c waits x z"],
    )]);
}
