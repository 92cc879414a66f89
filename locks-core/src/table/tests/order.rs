//! The order rule, and its one exception.

use super::{refused, request, texts, told};
use crate::{matrix::ConflictMatrix, table::Order};

/// Whether the last to ask may go, in stories of a holder, a waiter and somebody who asks.
type Case = (
    &'static [&'static str],
    &'static str,
    &'static [&'static str],
);

fn check(cases: &[Case]) {
    for (story, asks, expected) in cases {
        assert_eq!(refused(story, asks), *expected, "{story:?}, {asks}");
    }
}

#[test]
fn nobody_overtakes_an_earlier_waiter_of_the_same_kind() {
    check(&[
        (&["h holds x", "w waits x y"], "a asks y", &["w waits x y"]),
        (&["h holds x", "w waits x"], "a asks y", &[]),
        // Not even where it waits for nothing any more: it is its turn.
        (&["w waits y"], "a asks y", &["w waits y"]),
        // A directional rule: a backup would be let in, and the update starve.
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
fn a_later_waiter_is_not_minded() {
    let table = told(&[
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
    for (place, expected) in expected.iter().enumerate() {
        assert_eq!(texts(&table.blockers_of(place, &platform)), *expected);
    }
    // And a request that stands in the queue is judged from its place.
    let third = request("c asks y");
    assert!(table.is_free(&third, Order::Behind(1)));
    assert!(!table.is_free(&third, Order::Behind(2)));
}

#[test]
fn a_waiter_for_what_oneself_holds_does_not_stand_in_the_way() {
    check(&[
        // By guards outside any scope.
        (
            &["a holds app_task_1", "u waits box_update"],
            "a asks app_task_2",
            &[],
        ),
        // By the own scope and by its ancestors, at any depth.
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
        // A call inside a function that holds a guard of its own making.
        (
            &["a holds app_task_1", "u waits box_update"],
            "a:1 asks app_task_2",
            &[],
        ),
    ]);
}

#[test]
fn what_others_hold_is_no_reason_to_overtake() {
    let waits: &[&str] = &["u waits box_update"];
    check(&[
        (
            &["b holds app_task_1", "u waits box_update"],
            "a asks app_task_2",
            waits,
        ),
        // A sibling.
        (
            &["a:1.3 holds app_task_1", "u waits box_update"],
            "a:1.2 asks app_task_2",
            waits,
        ),
        // A child: what its parent asks does not have to wait for it.
        (
            &["a:1.2 holds app_task_1", "u waits box_update"],
            "a:1 asks app_task_2",
            waits,
        ),
        // A scope, seen from outside of any.
        (
            &["a:1 holds app_task_1", "u waits box_update"],
            "a asks app_task_2",
            waits,
        ),
        // The original under the same name.
        (
            &["original holds app_task_1", "u waits box_update"],
            "original asks app_task_2",
            waits,
        ),
        // What is held is not what is waited for.
        (
            &["a holds other", "b holds app_task_1", "u waits box_update"],
            "a asks app_task_2",
            waits,
        ),
    ]);
}

#[test]
fn the_exception_does_not_reach_beyond_the_waiter_it_is_for() {
    check(&[
        // The update waits for a; the first in the queue for z does not.
        (
            &[
                "a holds app_task_1",
                "h holds z",
                "u waits box_update",
                "w waits z y",
            ],
            "a asks app_task_2 y",
            &["w waits z y"],
        ),
        // A holder in the way remains one.
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
fn a_waiter_that_waits_through_others_does_not_stand_in_the_way() {
    check(&[
        // Behind another waiter, who waits for a.
        (
            &["a holds x", "u waits x y", "v waits y z"],
            "a asks z",
            &[],
        ),
        // For what b holds, who waits for a.
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
        // The same, where b came later than who waits for it.
        (
            &["a:1 holds x", "b:2 holds y", "v waits y z", "b:2 waits x"],
            "a:1 asks z",
            &[],
        ),
        // Three in a row.
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
        // One in between does not wait.
        (
            &["a holds x", "b holds y", "c waits x", "v waits y z"],
            "a asks z",
            &["v waits y z"],
        ),
        // Not b's scope waits, but a sibling of it.
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
fn waiters_in_a_ring_end_the_search() {
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
