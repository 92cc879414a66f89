//! The conflict rule: as written for held locks, in both directions for queued requests.

use super::{blockers, request, table};
use crate::{
    matrix::tests::{NAMES, REFUSED},
    report::Blocker,
    table::Order,
};

/// Every ordered pair of the platform's names, and whether the held second one blocks the
/// first.
fn pairs() -> impl Iterator<Item = (&'static str, &'static str, bool)> {
    NAMES.iter().zip(REFUSED).flat_map(|(asked, row)| {
        let cells = NAMES.iter().zip(row.chars());
        cells.map(move |(held, cell)| (*asked, *held, cell == 'x'))
    })
}

#[test]
fn held_lock_blocks_as_the_matrix_is_written() {
    for (asked, held, expected) in pairs() {
        let found = blockers(&[&format!("h holds {held}")], &format!("a asks {asked}"));
        let holder: &[_] = &[format!("h holds {held}")];
        assert_eq!(found, holder[..usize::from(expected)], "{asked}");
    }
}

#[test]
fn earlier_request_blocks_in_either_direction_of_the_matrix() {
    for (asked, awaited, forth) in pairs() {
        let mut reverse = pairs().filter(|(a, b, _)| *a == awaited && *b == asked);
        let (.., back) = reverse.next().expect("all pairs");
        let scenario = &[
            &*format!("h holds {awaited}_of_h"),
            &format!("w waits {awaited}"),
        ];
        let found = blockers(scenario, &format!("a asks {asked}"));
        let conflicts = found.contains(&format!("w waits {awaited}"));
        assert_eq!(
            conflicts,
            forth || back,
            "{asked} behind {awaited}: {found:?}"
        );
    }
}

#[test]
fn one_conflict_blocks_all_names_of_a_request() {
    let scenario = &["h holds app_task_2", "w waits other"];
    let cases: &[(&str, &[&str])] = &[
        ("a asks app_task_1 app_task_3", &[]),
        ("a asks app_task_1 app_task_2", &["h holds app_task_2"]),
        ("a asks mail_restart other", &["w waits other"]),
        (
            "a asks app_task_2 other",
            &["h holds app_task_2", "w waits other"],
        ),
    ];
    for (asks, expected) in cases {
        assert_eq!(blockers(scenario, asks), *expected, "{asks}");
    }
}

#[test]
fn names_of_one_request_do_not_conflict_with_each_other() {
    let both = request("a asks box_update app_task_1 app_backup_1");
    let mut table = table(&[]);
    assert!(table.is_free(&both, Order::Behind(0)));
    table.grant(&both, 7);
    assert_eq!(
        table.granted(&(both.session, both.nonce), &both.names),
        Some(7)
    );
}

#[test]
fn session_is_blocked_by_its_own_lock() {
    assert_eq!(blockers(&["a holds x"], "a asks x"), ["a holds x"]);
    assert_eq!(blockers(&["a:1 holds x"], "a:1.2 asks x"), ["a holds x"]);
}

#[test]
fn prefix_pattern_matches_only_names_that_start_with_it() {
    let cases = [
        ("app_task_", true),
        ("app_task_1", true),
        ("app_task_~", true),
        ("app_task_\u{10ffff}", true),
        ("app_task", false),
        ("app_tasl", false),
        ("app_tas", false),
        ("app_task^", false),
        ("app_task`", false),
        ("APP_TASK_1", false),
        ("xapp_task_1", false),
    ];
    // The table holds all names at once, so that a search over a range meets neighbours.
    let all: Vec<_> = cases
        .iter()
        .map(|(name, _)| format!("h holds {name}"))
        .collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    let mut expected: Vec<_> = cases.iter().filter(|(_, matches)| *matches).collect();
    expected.sort();
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, _)| format!("h holds {name}"))
        .collect();
    assert_eq!(blockers(&all, "a asks box_update"), expected);
}

#[test]
fn lock_of_another_matrix_blocks_every_request_until_it_is_released() {
    let cases: &[(&[&str], &str, &[&str])] = &[
        (&["e! holds x"], "a asks y", &["e! has another matrix"]),
        (&["e! waits x"], "a asks y", &["e! has another matrix"]),
        (&["a holds x"], "e! asks y", &["a has another matrix"]),
        (&["a waits x"], "e! asks y", &["a has another matrix"]),
        (&["e! holds x"], "f! asks y", &[]),
        // Even equal names are reported as another matrix.
        (&["e! holds x"], "a asks x", &["e! has another matrix"]),
        // A lock of the request's own matrix blocks by the rules only, and is reported as such.
        (
            &["a holds x", "e! holds y"],
            "b asks z",
            &["e! has another matrix"],
        ),
        (
            &["a holds x", "e! holds y"],
            "b asks x",
            &["a holds x", "e! has another matrix"],
        ),
    ];
    for (scenario, asks, expected) in cases {
        assert_eq!(blockers(scenario, asks), *expected, "{scenario:?}, {asks}");
    }
    let other = request("e! asks x");
    let mut table = table(&[]);
    table.grant(&other, 1);
    table.release(&(other.session.clone(), other.nonce), &other.names);
    assert!(table.is_free(&request("a asks y"), Order::Behind(0)));
}

#[test]
fn lock_of_the_original_has_the_matrix_of_the_platform() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("original holds x", "a asks x", &["original holds x"]),
        ("original holds x", "a asks y", &[]),
        (
            "original holds box_update",
            "a asks app_task_1",
            &["original holds box_update"],
        ),
        ("original holds box_update", "a asks app_backup_1", &[]),
        (
            "original holds x",
            "e! asks y",
            &["original has another matrix"],
        ),
    ];
    for (held, asks, expected) in cases {
        assert_eq!(blockers(&[held], asks), *expected, "{held}, {asks}");
    }
}

#[test]
fn blocker_has_the_time_and_the_token_of_its_grant() {
    let table = table(&["h holds x", "original holds y", "w waits z"]);
    let blockers = table.blockers(&request("a asks x y z"), Order::Behind(1));
    let [
        Blocker::Holder(ours),
        Blocker::Holder(foreign),
        Blocker::Waiter(waiter),
    ] = &blockers[..]
    else {
        panic!("{blockers:?}")
    };
    assert_eq!((ours.token, ours.since.is_some()), (Some(1), true));
    assert_eq!((foreign.token, foreign.since), (None, None));
    assert!(waiter.since.is_some() && waiter.blocked_by.is_empty());
}

#[test]
fn barging_request_is_blocked_by_held_locks_only() {
    let table = table(&["h holds x", "w waits x y"]);
    assert!(table.is_free(&request("a asks y"), Order::Barging));
    assert!(!table.is_free(&request("a asks y"), Order::Behind(1)));
    assert!(!table.is_free(&request("a asks x"), Order::Barging));
}
